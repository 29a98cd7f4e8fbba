//! Whose certificates are believed when a server is spoken to over TLS.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::error::Error;

/// Where Debian and most others keep the authorities of the system.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Certificate authorities that are believed.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<ClientConfig>);

/// What one server is verified by: the authorities, and the name its certificate must bear.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Authorities {
    /// The authorities in a PEM file; without one those of the system, where they can be read. The error is a sentence.
    pub fn load(file: Option<&Path>) -> Result<Authorities, String> {
        let path = file.unwrap_or(Path::new(SYSTEM));
        let mut roots = RootCertStore::empty();
        match CertificateDer::pem_file_iter(path) {
            Ok(certificates) => {
                let _ = roots.add_parsable_certificates(certificates.flatten());
            }
            Err(error) if file.is_some() => return Err(format!("{}: {error}", path.display())),
            Err(_) => {}
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth();
        Ok(Authorities(Arc::new(config)))
    }

    pub(super) fn of(&self, host: &str) -> Result<Trust, Error> {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| Error::Connect(format!("{host}: {e}")))?;
        Ok(Trust { config: self.0.clone(), name })
    }
}

impl Trust {
    pub(super) async fn secure<W: AsyncRead + AsyncWrite + Unpin>(&self, wire: W) -> Result<TlsStream<W>, Error> {
        let connector = TlsConnector::from(self.config.clone());
        connector.connect(self.name.clone(), wire).await.map_err(|e| Error::Connect(e.to_string()))
    }
}
