//! `[[upstream]]`: what only the list of all upstreams can show. Each one checks itself.

use serde::{Deserialize, Serialize};

use super::{Mistake, Mistakes};
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
    pub(super) fn check(&self, mistakes: &mut Vec<Mistake>) {
        for (number, upstream) in self.0.iter().enumerate() {
            let key = |name: &str| format!("upstream[{number}].{name}");
            let others = &self.0[..number];
            if others.iter().any(|other| other.name == upstream.name) {
                let fix = "another upstream has this name; one name, one upstream";
                mistakes.push(Mistake::new(key("name"), &upstream.name, fix));
            }
            if upstream.default && others.iter().any(|other| other.default) {
                let fix = "another upstream is the default already; only one serves names without a registry";
                mistakes.push(Mistake::new(key("default"), true, fix));
            }
            mistakes.extend(upstream.check().into_iter().map(|invalid| mistake(number, invalid)));
        }
    }

    /// The upstreams themselves, when every file that they name can be read.
    pub(super) fn settings(&self) -> Result<Vec<Settings>, Mistakes> {
        let of_one = |(number, upstream): (usize, &Settings)| {
            upstream.check_files().into_iter().map(move |invalid| mistake(number, invalid))
        };
        let mistakes: Vec<_> = self.0.iter().enumerate().flat_map(of_one).collect();
        if mistakes.is_empty() { Ok(self.0.clone()) } else { Err(Mistakes(mistakes)) }
    }
}

fn mistake(number: usize, invalid: Invalid) -> Mistake {
    Mistake { key: format!("upstream[{number}].{}", invalid.key), value: invalid.value, fix: invalid.fix }
}
