//! Variables whose name says that their value is a secret.

/// How the names end that say so, in words.
const ENDS: [&[&str]; 13] = [
    &["password"],
    &["passwd"],
    &["passphrase"],
    &["secret"],
    &["token"],
    &["apikey"],
    &["api", "key"],
    &["access", "key"],
    &["secret", "key"],
    &["private", "key"],
    &["encryption", "key"],
    &["credentials"],
    &["secret", "key", "base"],
];
/// Values that stand for one that is given later.
const PLACEHOLDERS: [&str; 14] = [
    "changeit",
    "change-it",
    "changeme",
    "change-me",
    "change_me",
    "dummy",
    "example",
    "placeholder",
    "replace",
    "todo",
    "undefined",
    "unset",
    "your",
    "xxxx",
];
/// A shorter value is a switch or a number.
const LEAST_BYTES: usize = 6;

/// Whether `name=value` holds a secret, by its name: the value is neither a reference, nor a path, nor a placeholder.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words: Vec<&str> = name.split(['_', '-', '.']).filter(|word| !word.is_empty()).collect();
    let says_so = ENDS.iter().any(|end| words.ends_with(end)) && !words.contains(&"public");
    says_so && is_literal(value.trim_matches(['"', '\'']))
}

fn is_literal(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    value.len() >= LEAST_BYTES
        && !value.starts_with(['/', '$', '%', '<', '{', '@'])
        && !value.contains("${")
        && !PLACEHOLDERS.iter().any(|placeholder| lower.contains(placeholder))
        && value.bytes().any(|byte| byte != b'*' && byte != b'.' && byte != b'x')
        && !value.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_that_its_value_is_a_secret_unless_that_is_none() {
        for name in ["DB_PASSWORD", "npm_token", "AWS_SECRET_ACCESS_KEY", "app.secret", "X_API_KEY", "SECRET_KEY_BASE"]
        {
            assert!(is_secret(name, "correct-horse"), "{name}");
            for value in [
                "",
                "short",
                "/run/secrets/a",
                "$OTHER",
                "<given later>",
                "********",
                "1234567",
                "changeme",
                "a-${B}-c",
            ] {
                assert!(!is_secret(name, value), "{name}={value}");
            }
        }
        for name in [
            "GPG_KEY",
            "PYTHON_SHA256",
            "TOKEN_URL",
            "PASSWORD_FILE",
            "KEY",
            "PUBLIC_API_KEY",
            "TOKENIZER",
            "SECRETS_DIR",
        ] {
            assert!(!is_secret(name, "correct-horse"), "{name}");
        }
    }
}
