//! A certificate and its key, from two PEM files to what a listener needs.

use std::{path::PathBuf, sync::Arc};

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use super::Mistake;

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Tls {
    /// Reads both files. TLS 1.2 and 1.3; ALPN offers `http/1.1` alone, which is what is spoken.
    pub(super) fn load(&self, table: &str) -> Result<Arc<ServerConfig>, Mistake> {
        let chain = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| error.to_string())
            .and_then(|chain| if chain.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(chain) })
            .map_err(|error| {
                Mistake::new(
                    format!("{table}.cert"),
                    &self.cert,
                    format!("{error}; name a readable PEM file, leaf first"),
                )
            })?;
        let key = || format!("{table}.key");
        let private = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| Mistake::new(key(), &self.key, format!("{error}; name a readable PEM file")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
            .map_err(|error| Mistake::new(key(), &self.key, format!("{error}; name the key of that certificate")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
