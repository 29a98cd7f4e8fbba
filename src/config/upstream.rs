//! `[[upstream]]`: what only the list of all upstreams can show. Each one checks itself.

use serde::{Deserialize, Serialize};

use super::{ConfigError, ConfigErrors};
use crate::upstream::{Invalid, Settings};

/// The `[[upstream]]` tables; Docker Hub alone when there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Upstreams(pub Vec<Settings>);

impl Default for Upstreams {
    fn default() -> Upstreams {
        let hub = r#"{ "name": "docker.io", "url": "https://registry-1.docker.io", "default": true,
            "token_hosts": ["auth.docker.io"] }"#;
        Upstreams(serde_json::from_str(hub).into_iter().collect())
    }
}

impl Upstreams {
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        for (number, upstream) in self.0.iter().enumerate() {
            let key = |name: &str| format!("upstream[{number}].{name}");
            let others = &self.0[..number];
            if others.iter().any(|other| other.name == upstream.name) {
                let fix = "another upstream has this name; one name, one upstream";
                errors.push(ConfigError::new(key("name"), &upstream.name, fix));
            }
            if upstream.default && others.iter().any(|other| other.default) {
                let fix = "another upstream is the default already; only one serves names without a registry";
                errors.push(ConfigError::new(key("default"), true, fix));
            }
            errors.extend(upstream.check().into_iter().map(|invalid| invalid_setting(number, invalid)));
        }
    }

    /// The upstreams themselves, when every file that they name can be read.
    pub(super) fn settings(&self) -> Result<Vec<Settings>, ConfigErrors> {
        let of_one = |(number, upstream): (usize, &Settings)| {
            upstream.check_files().into_iter().map(move |invalid| invalid_setting(number, invalid))
        };
        let errors: Vec<_> = self.0.iter().enumerate().flat_map(of_one).collect();
        if errors.is_empty() { Ok(self.0.clone()) } else { Err(ConfigErrors(errors)) }
    }
}

fn invalid_setting(number: usize, invalid: Invalid) -> ConfigError {
    ConfigError { key: format!("upstream[{number}].{}", invalid.key), value: invalid.value, fix: invalid.fix }
}
