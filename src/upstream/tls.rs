//! Which cryptography TLS uses in this process: ring, decided in one place.

/// Makes ring the process's default for rustls. May be called any number of times, from anywhere that needs TLS.
pub fn install_provider() {
    // The only failure is that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
