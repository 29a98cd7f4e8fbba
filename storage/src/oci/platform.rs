//! Whether a manifest is for a platform that an operator names.

/// Whether a platform that is claimed, such as `linux/arm64/v8`, is the one that is wanted. `linux/arm64` is any variant of it, and
/// `linux/arm64/v8` is what has no variant, too, for that is what the image-spec says of arm64 without one.
pub fn is_platform(claimed: &str, wanted: &str) -> bool {
    let variant = claimed.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/'));
    claimed == wanted || variant || (wanted == "linux/arm64/v8" && claimed == "linux/arm64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_without_a_variant_is_every_variant_of_it() {
        for (wanted, claimed, is_wanted) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v3", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm/v7", "linux/arm/v7", true),
            ("linux/arm/v7", "linux/arm", false),
            ("linux/arm", "linux/arm64", false),
            ("linux/amd64", "unknown/unknown", false),
        ] {
            assert_eq!(is_platform(claimed, wanted), is_wanted, "{wanted} {claimed}");
        }
    }
}
