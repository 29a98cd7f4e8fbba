//! TLS: which cryptography it uses in this process, and the certificates of one upstream.

use std::error::Error as _;

use reqwest::{Certificate, Identity};
use rustls::{crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Makes ring the process's default for rustls. May be called any number of times, from anywhere that needs TLS.
pub fn install_provider() {
    // The only failure is that a provider is installed already, which is what is wanted.
    let _ = ring::default_provider().install_default();
}

/// What an upstream's certificate files hold.
pub(super) struct Certificates {
    /// As they were read, to see whether they changed.
    text: [Vec<u8>; 3],
    /// Trusted besides the system's.
    pub(super) roots: Vec<Certificate>,
    /// What Weir shows to the registry.
    pub(super) identity: Option<Identity>,
}

impl PartialEq for Certificates {
    fn eq(&self, other: &Certificates) -> bool {
        self.text == other.text
    }
}

impl Certificates {
    /// From the text of the files of root certificates, of a certificate chain, and of its key, which may stand in the same file.
    ///
    /// # Errors
    /// The number of the file, and what is wrong with it.
    pub(super) fn new(files: [Option<Vec<u8>>; 3]) -> Result<Certificates, (usize, String)> {
        let (has_roots, has_chain) = (files[0].is_some(), files[1].is_some());
        let text = files.map(Option::unwrap_or_default);
        let words = |error: reqwest::Error| error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let roots = Certificate::from_pem_bundle(&text[0]).map_err(|error| (0, words(error)))?;
        if roots.is_empty() && has_roots {
            return Err((0, "it holds no certificate".to_owned()));
        }
        let pair = [&text[1][..], b"\n", &text[2][..]].concat();
        let identity = has_chain.then(|| {
            check_pair(&pair)?;
            Identity::from_pem(&pair).map_err(words)
        });
        let identity = identity.transpose().map_err(|error| (1, error))?;
        Ok(Certificates { text, roots, identity })
    }
}

/// Whether there is a chain and a key, and the key is that of the chain's first certificate.
fn check_pair(pem: &[u8]) -> Result<(), String> {
    let chain =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("its key: {error}"))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| error.to_string())?;
    Ok(())
}
