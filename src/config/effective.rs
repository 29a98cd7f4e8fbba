//! Every setting as it is in force: value, default, origin, and what of it waits for a restart. Secrets are left out here, so that
//! nothing that shows settings has to know them.

use std::collections::BTreeMap;

use toml::Value;

use super::{Config, overlay};
use crate::setting::{AfterRestart, EffectiveSetting, HIDDEN};

/// What is in force after `fresh` was read while a process runs that began with `started`: what is reloaded is that of `fresh`.
pub fn in_force(started: &Config, fresh: &Config) -> Config {
    let mut config = started.clone();
    config.noticed.clone_from(&fresh.noticed);
    config.throttle.clone_from(&fresh.throttle);
    config.limits.clone_from(&fresh.limits);
    config.budget.clone_from(&fresh.budget);
    config.class.clone_from(&fresh.class);
    config.ban.clone_from(&fresh.ban);
    config.account.clone_from(&fresh.account);
    config.warm.clone_from(&fresh.warm);
    config.policy.clone_from(&fresh.policy);
    config.upstream.clone_from(&fresh.upstream);
    config.mirror = started.mirror.reloaded(&fresh.mirror);
    config.hosted = started.hosted.reloaded(&fresh.hosted);
    config.server.trusted_proxies.clone_from(&fresh.server.trusted_proxies);
    config.server.token_header.clone_from(&fresh.server.token_header);
    config.server.htpasswd.clone_from(&fresh.server.htpasswd);
    config
}

/// Whether something of `fresh` waits for a restart of a process that began with `started`.
pub fn needs_restart(started: &Config, fresh: &Config) -> bool {
    // Where a value is written may change without the value.
    Config { places: fresh.places.clone(), ..in_force(started, fresh) } != *fresh
}

/// Every setting of a process that began with `started` and last read `fresh`, in the order of their keys. For a process that has
/// read its configuration once, or none, the two are the same.
pub fn effective(started: &Config, fresh: &Config) -> Vec<EffectiveSetting> {
    let running = in_force(started, fresh);
    let (values, written, defaults) = (leaves(&running), leaves(fresh), leaves(&Config::default()));
    let mut settings: Vec<_> = values
        .iter()
        .map(|(key, value)| {
            let origin = match written.get(key) == Some(value) {
                true => fresh.places.origin(key),
                false => started.places.origin(key),
            };
            let default = match is_of_a_list(key) {
                false => defaults.get(key).cloned(),
                true if origin == Default::default() => Some(value.clone()),
                true => default_of_an_entry(&running, key),
            };
            let after_restart = match written.get(key) {
                Some(written) if written == value => None,
                Some(written) => Some(AfterRestart::Value(without_secrets(key, written.clone()))),
                None => Some(AfterRestart::Gone),
            };
            EffectiveSetting {
                key: key.clone(),
                value: Some(without_secrets(key, value.clone())),
                default: default.map(|default| without_secrets(key, default)),
                origin,
                after_restart,
            }
        })
        .collect();
    settings.extend(written.into_iter().filter(|(key, _)| !values.contains_key(key)).map(|(key, value)| {
        EffectiveSetting {
            value: None,
            default: None,
            origin: fresh.places.origin(&key),
            after_restart: Some(AfterRestart::Value(without_secrets(&key, value))),
            key,
        }
    }));
    settings.sort_by_cached_key(|setting| in_order(&setting.key));
    settings
}

/// A key such that entry 10 of a list stands behind entry 9.
fn in_order(key: &str) -> Vec<(Option<usize>, String)> {
    key.split(['.', '[', ']']).map(|word| (word.parse().ok(), word.to_owned())).collect()
}

/// The values of a configuration by their keys. A list without tables is one value.
fn leaves(config: &Config) -> BTreeMap<String, Value> {
    fn add(key: String, value: Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Table(table) => {
                for (name, value) in table {
                    add(if key.is_empty() { name } else { format!("{key}.{name}") }, value, into);
                }
            }
            Value::Array(list) if list.iter().any(Value::is_table) => {
                for (number, value) in list.into_iter().enumerate() {
                    add(format!("{key}[{number}]"), value, into);
                }
            }
            value => {
                into.insert(key, value);
            }
        }
    }
    let mut all = BTreeMap::new();
    if let Ok(value) = Value::try_from(config) {
        add(String::new(), value, &mut all);
    }
    all
}

/// Whether a key is of an entry of a list of tables.
fn is_of_a_list(key: &str) -> bool {
    key.contains(']')
}

/// What this key of an entry is when it is not written; nothing when it must be.
fn default_of_an_entry(config: &Config, key: &str) -> Option<Value> {
    let mut table = toml::Table::try_from(config).ok()?;
    if !overlay::take_out(&mut table, key) {
        return None;
    }
    let without: Config = table.try_into().ok()?;
    leaves(&without).remove(key)
}

/// The value without what gives access: hashes of passwords, users and passwords of URLs, the arguments of a credential helper, and
/// the header that lifts throttles for each client that knows its name.
fn without_secrets(key: &str, value: Value) -> Value {
    let name = key.rsplit('.').next().unwrap_or(key);
    match (name, value) {
        ("password_hash" | "bypass_header", Value::String(text)) if !text.is_empty() => HIDDEN.into(),
        ("command", Value::Array(mut words)) => {
            words.iter_mut().skip(1).for_each(|word| *word = HIDDEN.into());
            Value::Array(words)
        }
        (_, Value::String(text)) => Value::String(without_user(text)),
        (_, Value::Array(list)) => Value::Array(list.into_iter().map(|value| without_secrets(key, value)).collect()),
        (_, value) => value,
    }
}

/// A URL without its user and password.
fn without_user(text: String) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{HIDDEN}@{rest}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::SettingOrigin;

    /// Read from a file of these lines, and the environment.
    fn read(text: &str, environment: &[(&str, &str)]) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("weir.toml");
        std::fs::write(&file, text).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(&file), environment).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn find<'a>(settings: &'a [EffectiveSetting], key: &str) -> &'a EffectiveSetting {
        settings.iter().find(|setting| setting.key == key).unwrap_or_else(|| panic!("{key}"))
    }

    #[test]
    fn each_value_says_where_it_comes_from_and_what_it_would_be_otherwise() {
        let text = "[mirror]\ntag_ttl = \"1m\"\nfills = 7\n[[upstream]]\nname = \"ghcr.io\"\nurl = \"https://ghcr.io\"\nqueue = 9\n";
        let config = read(text, &[("WEIR_MIRROR__FILLS", "5"), ("WEIR_BUDGET__FLOORS__BULK", "0.5")]);
        let settings = effective(&config, &config);
        let of = |key: &str| {
            let setting = find(&settings, key);
            let line = match &setting.origin {
                SettingOrigin::File(place) => place.rsplit(':').next().unwrap().to_owned(),
                other => other.to_string(),
            };
            (setting.value.clone().unwrap(), setting.default.clone(), line)
        };
        let defaults = Config::default();
        let default = |key: &str| Some(leaves(&defaults)[key].clone());
        assert_eq!(of("mirror.tag_ttl"), ("1m".into(), default("mirror.tag_ttl"), "2".into()));
        assert_eq!(of("mirror.fills"), (5.into(), default("mirror.fills"), "WEIR_MIRROR__FILLS".into()));
        assert_eq!(of("budget.floors.bulk").2, "WEIR_BUDGET__FLOORS__BULK");
        let untouched = of("budget.floors.standard");
        assert_eq!((Some(untouched.0), untouched.2), (untouched.1, "default".into()));
        assert_eq!(of("upstream[0].name"), ("ghcr.io".into(), None, "5".into()));
        assert_eq!(of("upstream[0].queue"), (9.into(), default("upstream[0].queue"), "7".into()));
        assert_eq!(of("upstream[0].allow").2, "default");
        assert!(find(&settings, "mirror.fills").differs_from_default());
        assert!(!find(&settings, "upstream[0].allow").differs_from_default());
        assert!(settings.iter().all(|setting| setting.after_restart.is_none()));
    }

    #[test]
    fn every_default_is_a_value_and_no_other() {
        let settings = effective(&Config::default(), &Config::default());
        assert_eq!(settings.len(), leaves(&Config::default()).len());
        for setting in settings {
            assert!(!setting.differs_from_default(), "{setting:?}");
            assert_eq!(setting.origin, SettingOrigin::Default);
        }
    }

    #[test]
    fn a_secret_is_never_among_them() {
        let hash = include_str!("../../deploy.toml").lines().find(|line| line.contains("password_hash =")).unwrap();
        let text = format!(
            "[mirror]\nproxy = \"http://me:hunter2@proxy:3128\"\n[limits]\nbypass_header = \"x-hunter2\"\n\
             [[account]]\nname = \"ops\"\n{}\n[[upstream]]\nname = \"x.io\"\nurl = \"https://x.io\"\n\
             proxy = \"socks5://me:hunt@er2@proxy:1\"\naccounts = [{{ username = \"me\", command = [\"helper\", \"hunter2\"] }}]\n",
            hash.trim_start_matches("# ")
        );
        let config = read(&text, &[]);
        let printed = format!("{:?}", effective(&config, &Config { upstream: Vec::new(), ..config.clone() }));
        for secret in ["hunter2", "hunt@er2", "er2@", "argon2id"] {
            assert!(!printed.contains(secret), "{secret}: {printed}");
        }
        let settings = effective(&config, &config);
        assert_eq!(find(&settings, "mirror.proxy").value, Some("http://(hidden)@proxy:3128".into()));
        assert_eq!(find(&settings, "account[0].password_hash").value, Some(HIDDEN.into()));
        let command: Vec<Value> = vec!["helper".into(), HIDDEN.into()];
        assert_eq!(find(&settings, "upstream[0].accounts[0].command").value, Some(command.into()));
    }

    #[test]
    fn what_is_not_reloaded_waits_for_a_restart_however_often_the_file_is_read_again() {
        let started = read("[mirror]\nfills = 3\n[limits]\nresponse_text = \"later\"\n", &[]);
        let text = "[mirror]\nfills = 4\n[limits]\nresponse_text = \"soon\"\n\
                    [[upstream]]\nname = \"docker.io\"\nurl = \"https://registry-1.docker.io\"\ndefault = true\nipv4_only = true\ndeny = [\"a/*\"]\n\
                    [[upstream]]\nname = \"ghcr.io\"\nurl = \"https://ghcr.io\"\n";
        let fresh = read(text, &[]);
        assert!(needs_restart(&started, &fresh));
        let settings = effective(&started, &fresh);
        let fills = find(&settings, "mirror.fills");
        assert_eq!(fills.value, Some(3.into()));
        assert_eq!(fills.after_restart, Some(AfterRestart::Value(4.into())));
        let text = find(&settings, "limits.response_text");
        assert_eq!((&text.value, &text.after_restart), (&Some("soon".into()), &None));
        assert!(text.origin.to_string().ends_with(":4"), "{}", text.origin);
        let denied: Vec<Value> = vec!["a/*".into()];
        assert_eq!(find(&settings, "upstream[0].deny").value, Some(denied.into()), "deny is reloaded");
        let added = find(&settings, "upstream[1].name");
        assert_eq!((&added.value, &added.after_restart), (&Some("ghcr.io".into()), &None));
        let settings = effective(&fresh, &started);
        assert!(settings.iter().all(|setting| setting.key != "upstream[1].name"), "what was removed is gone at once");

        // What is written back waits for nothing, and neither does what is written in another place.
        assert!(!needs_restart(&started, &read("# moved\n[mirror]\nfills = 3\n", &[])));
    }

    #[test]
    fn entries_of_a_list_stand_in_their_order() {
        let entry = |number: usize| format!("[[account]]\nname = \"a{number}\"\npassword_hash = \"x\"\n");
        let text: String = (0..11).map(entry).collect();
        let config: Config = toml::from_str(&text).unwrap();
        let settings = effective(&config, &config);
        let at = |key: &str| settings.iter().position(|setting| setting.key == key).unwrap();
        assert!(at("account[2].name") < at("account[10].name"));
    }
}
