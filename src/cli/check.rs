//! `weir check`: says what is wrong with a configuration, or what it comes to.

use std::fmt::Write;

use super::say;
use crate::config::Config;

pub(super) fn run(config: &Config) -> Result<(), String> {
    // Password files and certificates are part of a configuration that works.
    config.settings().map_err(|errors| errors.to_string())?;
    if let Some(error) = config.storage.unusable_root() {
        return Err(error.to_string());
    }
    let mut text = String::from("the configuration is fine\n");
    for upstream in &config.upstream.0 {
        let default = if upstream.default { ", names without a registry too" } else { "" };
        let accounts = match upstream.accounts.len() {
            0 => "anonymously".to_owned(),
            count => format!("anonymously and as {count} of ours"),
        };
        let _ = writeln!(text, "  mirrors {} from {} {accounts}{default}", upstream.name, upstream.url);
    }
    for throttle in &config.throttle {
        let (name, mode) = (&throttle.name, throttle.mode.as_str());
        let _ =
            writeln!(text, "  {name}: {} in {} s, {mode}", throttle.requests_per_period, throttle.period_in_seconds);
    }
    say(&text)
}
