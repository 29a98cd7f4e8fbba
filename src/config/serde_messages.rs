//! What serde says of a value of the wrong kind, as what to write instead. Pure.
//!
//! serde speaks of sequences, `usize` and `struct Server` to people who write TOML. Its sentences are taken apart here; one that is
//! not known is passed on as it is, and the default of the key, when it has one, is the example.

use std::net::Ipv6Addr;

use toml::Value;

use crate::setting::did_you_mean;

/// What to write at a key: serde's sentence about it, what stands there, and what stands there by default.
pub(super) fn fix(said: &str, key: &str, value: Option<&Value>, default: Option<&Value>) -> String {
    let (what, expected) = said.split_once(", expected ").unwrap_or((said, ""));
    // `a`, `b` or `c`
    let names = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let such_as = match default.map(example) {
        Some(example) if !example.is_empty() => format!(", such as {example}"),
        _ => String::new(),
    };
    if what.starts_with("unknown field") {
        let known = names(expected);
        let meant = names(what).first().map_or_else(String::new, |written| did_you_mean(written, &known));
        return format!("there is no such key; these are: {}{meant}", known.join(", "));
    }
    if what.starts_with("unknown variant") {
        let known = names(expected);
        let meant = names(what).first().map_or_else(String::new, |written| did_you_mean(written, &known));
        let choices: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
        return format!("write one of {}{meant}", choices.join(", "));
    }
    if let Some(name) = what.strip_prefix("missing field ") {
        return format!("{} is missing; write it too", name.trim_matches('`'));
    }
    if what == "invalid socket address syntax" {
        return address(value.and_then(Value::as_str).unwrap_or_default());
    }
    match expected {
        "a boolean" => "write true or false".to_owned(),
        "f64" => format!("write a number{such_as}"),
        "u32" if what.starts_with("invalid value") => format!("write a whole number from 0 to {}", u32::MAX),
        "u16" | "u32" | "u64" | "usize" => format!("write a whole number, 0 or more{such_as}"),
        "a string" | "path string" => format!("write text in quotes{such_as}"),
        "one value or a list of them" => format!("write text in quotes, or a list of it{such_as}"),
        array if array.starts_with("an array of length ") => {
            let count = &array["an array of length ".len()..];
            format!("write a list of exactly {count} values{such_as}")
        }
        "a sequence" if matches!(value, Some(Value::Table(_))) => {
            format!("write [[{key}]], for there may be several")
        }
        "a sequence" => match value {
            Some(Value::String(text)) => format!("write a list: [{text:?}]"),
            _ => format!("write a list{such_as}"),
        },
        table if table.starts_with("struct ") && key.contains('.') => format!("write a table{such_as}"),
        table if table.starts_with("struct ") => format!("write a table, [{key}]"),
        _ => said.to_owned(),
    }
}

/// What to write in place of what is no address with a port, with the port that was written.
fn address(written: &str) -> String {
    let (host, port) = written.rsplit_once(':').unwrap_or(("", written));
    let fix = match (host, port.parse::<u16>()) {
        (_, Err(_)) => r#"write one such as "127.0.0.1:5000""#.to_owned(),
        ("" | "*", Ok(port)) => format!(
            r#"write one such as "127.0.0.1:{port}" for this machine alone, "0.0.0.0:{port}" for all of its IPv4 addresses, or "[::]:{port}" for those of IPv6 too"#
        ),
        (host, Ok(port)) if host.parse::<Ipv6Addr>().is_ok() => format!(r#"write it in brackets: "[{host}]:{port}""#),
        (_, Ok(port)) => format!(
            r#"names are not looked up; write an address of this machine, such as "127.0.0.1:{port}" or "[::1]:{port}""#
        ),
    };
    format!("not an address and a port; {fix}")
}

/// A value as it is written; nothing of an empty one.
fn example(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => String::new(),
        Value::Array(list) if list.is_empty() => String::new(),
        Value::Array(list) if list.iter().any(Value::is_table) => String::new(),
        value => value.to_string(),
    }
}
