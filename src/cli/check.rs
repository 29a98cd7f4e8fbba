//! `weir check`: says what is wrong with a configuration, or what it comes to.

use std::{
    fmt::Write,
    net::{SocketAddr, TcpListener},
    time::SystemTime,
};

use super::say;
use crate::config::{Config, Settings, warnings};

pub(super) fn run(config: &Config) -> Result<(), String> {
    // Password files and certificates are part of a configuration that works.
    let settings = Settings::new(config).map_err(|errors| errors.to_string())?;
    if let Some(error) = config.storage.unusable_root() {
        return Err(error.to_string());
    }
    for listen in settings
        .listeners
        .iter()
        .map(|listen| (&*listen.key, listen.address))
        .chain([("admin.listen", config.admin.listen)])
    {
        can_listen(listen.0, listen.1)?;
    }
    let mut text = String::new();
    for warning in warnings(config, SystemTime::now()) {
        let _ = writeln!(text, "warning: {warning}");
    }
    text.push_str("the configuration is fine\n");
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

/// Whether this machine has the address. The port may be in use: a Weir that runs has it.
fn can_listen(key: &str, address: SocketAddr) -> Result<(), String> {
    match TcpListener::bind((address.ip(), 0)) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("{key} = \"{address}\": {error}; write an address of this machine, or 0.0.0.0 for all"))
        }
    }
}
