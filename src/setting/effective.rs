//! One setting as it is in force: its value, its default, where the value comes from, and what waits for a restart.

use std::fmt;

use serde::{Serialize, Serializer};

/// A setting and its value. A secret is not in here: [`HIDDEN`] stands in its place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EffectiveSetting {
    /// As errors name it: `upstream[0].url`.
    pub key: String,
    /// What is in force. `None` for what is written, but waits for a restart.
    pub value: Option<toml::Value>,
    /// What is in force when nothing is written. `None` for what must be written, such as the name of an upstream.
    pub default: Option<toml::Value>,
    /// Where the value comes from.
    pub origin: SettingOrigin,
    /// What is in force after the next start, when that is something else.
    pub after_restart: Option<AfterRestart>,
}

/// What stands in the place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// What a restart makes of a setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterRestart {
    /// It has this value.
    Value(toml::Value),
    /// It is gone, with the table that held it.
    Gone,
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SettingOrigin {
    /// It is not written anywhere.
    #[default]
    Default,
    /// A line of the configuration file: `weir.toml:12`.
    File(String),
    /// A variable of the environment.
    Environment(String),
}

impl EffectiveSetting {
    /// Whether the value in force is another than the default.
    pub fn differs_from_default(&self) -> bool {
        self.value != self.default
    }
}

impl SettingOrigin {
    /// The kind alone, as JSON and filters name it.
    pub fn word(&self) -> &'static str {
        match self {
            SettingOrigin::Default => "default",
            SettingOrigin::File(_) => "file",
            SettingOrigin::Environment(_) => "environment",
        }
    }
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingOrigin::Default => f.write_str("default"),
            SettingOrigin::File(place) | SettingOrigin::Environment(place) => f.write_str(place),
        }
    }
}

impl Serialize for SettingOrigin {
    /// As it is shown: `default`, a line of a file, or a variable.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
