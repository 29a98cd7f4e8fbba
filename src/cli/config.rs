//! `weir config show`: every setting that a start would use, where it was written, and what it would be otherwise.

use clap::{Args, Subcommand};

use super::{say, table::table};
use crate::{
    config::{Config, effective},
    setting::{EffectiveSetting, did_you_mean},
};

/// What to do about the configuration.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show every setting with its value and where it was written: a line of the file, or a variable of the environment
    Show {
        /// Only a setting, or those of a table: mirror.fills, mirror, upstream[0]
        key: Option<String>,
        /// Only what differs from the default
        #[arg(long)]
        changed: bool,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let What::Show { key, changed, json } = &arguments.what;
    let mut settings = effective(config, config);
    if let Some(key) = key {
        let known = names(&settings);
        settings.retain(|setting| is_below(&setting.key, key));
        if settings.is_empty() {
            return Err(format!("there is no setting {key:?}; weir config show has all{}", did_you_mean(key, &known)));
        }
    }
    if *changed {
        settings.retain(EffectiveSetting::differs_from_default);
    }
    if *json {
        let text = serde_json::to_string_pretty(&settings).map_err(|error| error.to_string())?;
        return say(&format!("{text}\n"));
    }
    let rows: Vec<_> = settings.iter().map(row).collect();
    say(&if rows.is_empty() { "every setting has its default\n".to_owned() } else { table(&rows) })
}

/// The keys, and the tables and entries that they stand in.
fn names(settings: &[EffectiveSetting]) -> Vec<String> {
    let of = |setting: &EffectiveSetting| {
        let ends = setting.key.match_indices(['.', '[']).map(|(end, _)| end).chain([setting.key.len()]);
        ends.map(|end| setting.key[..end].to_owned()).collect::<Vec<_>>()
    };
    settings.iter().flat_map(of).collect()
}

/// Whether a key is the named one, or in the named table or entry.
pub(super) fn is_below(key: &str, named: &str) -> bool {
    key.strip_prefix(named).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn row(setting: &EffectiveSetting) -> [String; 2] {
    let shown = |value: &Option<toml::Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let by_default = match setting.differs_from_default() {
        true if setting.default.is_some() => format!("; by default {}", shown(&setting.default)),
        _ => String::new(),
    };
    [format!("{} = {}", setting.key, shown(&setting.value)), format!("# {}{by_default}", setting.origin)]
}
