//! What a configuration comes to, in lines for people: the rest of what `weir check` prints.

use std::fmt::Write;

use crate::config::Config;

/// One line for each thing that is mirrored, shared or limited.
pub(super) fn describe(config: &Config) -> String {
    let mut text = String::new();
    upstreams(config, &mut text);
    shared(config, &mut text);
    throttles(config, &mut text);
    text
}

fn upstreams(config: &Config, text: &mut String) {
    for upstream in &config.upstream {
        let default = if upstream.default { ", names without a registry too" } else { "" };
        let accounts = match upstream.accounts.len() {
            0 => "anonymously".to_owned(),
            count => format!("anonymously and as {count} of ours"),
        };
        let _ = writeln!(text, "  mirrors {} from {} {accounts}{default}", upstream.name, upstream.url);
        if upstream.allow != ["*"] {
            let _ = writeln!(text, "    of it {} alone", upstream.allow.join(", "));
        }
        if !upstream.deny.is_empty() {
            let _ = writeln!(text, "    but not {}", upstream.deny.join(", "));
        }
    }
}

fn shared(config: &Config, text: &mut String) {
    if let Some(s3) = &config.shared.s3 {
        let _ = writeln!(text, "  shares the bucket {}, which can do what replicas need", s3.bucket);
    }
    if let Some(redis) = &config.shared.redis {
        let _ = writeln!(text, "  agrees with other replicas who asks upstream over {}", redis.url);
    }
}

fn throttles(config: &Config, text: &mut String) {
    for throttle in &config.throttle {
        let (name, mode) = (&throttle.name, throttle.mode.as_str());
        let _ =
            writeln!(text, "  {name}: {} in {} s, {mode}", throttle.requests_per_period, throttle.period_in_seconds);
    }
}
