//! A certificate that can be replaced while its listener runs.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::validity::not_after;

/// A certificate chain and its key, read from two PEM files.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it, also when the key is not the certificate's.
    pub fn read(chain: PathBuf, key: PathBuf) -> Result<Arc<Certificate>, String> {
        let current = RwLock::new(certified(&chain, &key)?);
        Ok(Arc::new(Certificate { chain, key, current }))
    }

    /// Reads both files again and changes nothing yet, so that several certificates are replaced together or not at all.
    ///
    /// # Errors
    /// As [`Certificate::read`].
    pub fn prepare(self: &Arc<Certificate>) -> Result<Prepared, String> {
        let fresh = certified(&self.chain, &self.key)?;
        Ok(Prepared { certificate: self.clone(), fresh })
    }

    /// Until when the leaf that is in force is valid; `None` when that cannot be read.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        not_after(current.cert.first()?)
    }

    /// The two files.
    pub fn files(&self) -> [&PathBuf; 2] {
        [&self.chain, &self.key]
    }

    /// For a [`Listener`](super::Listener): TLS 1.2 and 1.3, HTTP/1.1 alone.
    ///
    /// # Errors
    /// When the cryptography offers none of those versions, which it does.
    pub fn server_config(self: &Arc<Certificate>) -> Result<Arc<ServerConfig>, String> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// What a certificate is to become.
#[derive(Debug)]
pub struct Prepared {
    certificate: Arc<Certificate>,
    fresh: Arc<CertifiedKey>,
}

impl Prepared {
    /// From now on new connections get it.
    pub fn install(self) {
        *self.certificate.current.write().unwrap_or_else(PoisonError::into_inner) = self.fresh;
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certified(chain: &PathBuf, key: &PathBuf) -> Result<Arc<CertifiedKey>, String> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{}: {error}", chain.display()))?;
    if certificates.is_empty() {
        return Err(format!("{}: it holds no certificate", chain.display()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    CertifiedKey::from_der(certificates, secret, &ring::default_provider())
        .map(Arc::new)
        .map_err(|error| format!("{} with {}: {error}", chain.display(), key.display()))
}
