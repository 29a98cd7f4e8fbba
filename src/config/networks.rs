//! Networks that are written with more bits than they have.

use ipnet::IpNet;

use super::ConfigError;

/// What stands in a file as a network with bits beyond its length, such as `10.0.0.5/8`, by its key.
pub(super) fn untruncated(table: &toml::Value, key: &str, found: &mut Vec<ConfigError>) {
    match table {
        toml::Value::String(text) => {
            if let Some(net) = text.parse::<IpNet>().ok().filter(|net| net.trunc() != *net) {
                found.push(ConfigError::new(
                    key,
                    text,
                    format!("is read as {}; write that, or one address", net.trunc()),
                ));
            }
        }
        toml::Value::Array(list) => {
            list.iter().enumerate().for_each(|(number, entry)| untruncated(entry, &format!("{key}[{number}]"), found));
        }
        toml::Value::Table(table) => {
            for (name, value) in table {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                untruncated(value, &key, found);
            }
        }
        _ => {}
    }
}
