//! What is known of the image that a manifest names. It belongs to the digest, and never changes.

use super::{
    base::Base,
    config::ImageConfig,
    date::Created,
    lint::{self, Lint},
    secrets::{self, Secret},
    user::User,
};
use crate::oci::{Description, Digest, Malformed};

/// The facts of an image. No value of a secret is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `linux/arm64/v8`.
    pub platform: String,
    /// Who it starts as.
    pub user: User,
    /// Credentials in its config and history.
    pub secrets: Vec<Secret>,
    /// When it was made.
    pub created: Created,
    /// The base that its annotations name.
    pub base: Option<Base>,
    /// Ports below 1024 that it exposes.
    pub low_ports: Vec<u16>,
    /// Bytes of config and layers as the manifest claims them.
    pub size: u64,
    /// Its layers, from the lowest up.
    pub layers: Vec<Digest>,
    /// What its history shows of its Dockerfile.
    pub lint: Vec<Lint>,
    /// Whether its config names layers, without which no engine runs it.
    pub has_root: bool,
}

/// Listening below it takes root, or a capability or a setting of the kernel.
const FIRST_FREE_PORT: u16 = 1024;
/// More are not listed.
const MOST_PORTS: usize = 32;

impl Facts {
    /// The facts of a manifest with this description, whose config has these bytes.
    ///
    /// # Errors
    /// As [`ImageConfig::read`].
    pub fn read(description: &Description, config: &[u8]) -> Result<Facts, Malformed> {
        let config = ImageConfig::read(config)?;
        let port = |text: &String| text.split('/').next()?.split('-').next()?.parse::<u16>().ok();
        let mut low_ports: Vec<u16> =
            config.ports.iter().filter_map(port).filter(|port| *port < FIRST_FREE_PORT).collect();
        low_ports.sort_unstable();
        low_ports.dedup();
        low_ports.truncate(MOST_PORTS);
        // The first child is the config.
        let layers = description.children.iter().skip(1).filter(|child| !child.is_manifest);
        Ok(Facts {
            user: User::parse(&config.user),
            secrets: secrets::find(&config),
            created: Created::parse(config.created.as_deref()),
            base: Base::annotated(description),
            low_ports,
            size: description.children.iter().map(|child| child.size).fold(0, u64::saturating_add),
            layers: layers.map(|layer| layer.digest.clone()).collect(),
            lint: lint::lint(&config.history),
            has_root: config.has_root,
            platform: config.platform,
        })
    }
}
