//! JSON that two readers cannot read in two ways. Pure.
//!
//! One parser takes the first of two equal keys, another the last; Go's takes `Layers` for `layers`. A manifest that is pushed
//! here is refused when any of that could make it one thing to us and another to a client (CVE-2021-41190).

use std::{collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::Malformed;

/// Keys that decide what a manifest is, in the only case they may be written in.
const MEANING: [&str; 13] = [
    "annotations",
    "artifacttype",
    "blobs",
    "config",
    "digest",
    "fslayers",
    "layers",
    "manifests",
    "mediatype",
    "platform",
    "schemaversion",
    "size",
    "subject",
];

/// Checks that no object in this JSON has two equal keys, nor a key that differs from one of a manifest's in case alone, and
/// that nothing follows the document. One pass, and no more nesting than serde_json allows (128).
///
/// # Errors
/// [`Malformed`], with what is wrong and where.
pub fn unambiguous(bytes: &[u8]) -> Result<(), Malformed> {
    serde_json::from_slice::<Unambiguous<true>>(bytes).map(drop).map_err(|error| Malformed(error.to_string()))
}

/// A key as Go compares it: letters of ASCII in one case, and the two others that fold into one of those, the long s and the sign of
/// the kelvin (Go, encoding/json, `foldName`).
pub fn folded(key: &str) -> String {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    key.chars().map(fold).collect()
}

/// Any value, looked at and not kept. `MEANS`: whether its keys mean something; those of annotations do not.
struct Unambiguous<const MEANS: bool>;

impl<'de, const MEANS: bool> Deserialize<'de> for Unambiguous<MEANS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look::<MEANS>)
    }
}

struct Look<const MEANS: bool>;

impl<'de, const MEANS: bool> Visitor<'de> for Look<MEANS> {
    type Value = Unambiguous<MEANS>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Unambiguous)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Unambiguous)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Unambiguous)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Unambiguous)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Unambiguous)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Unambiguous)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_element::<Unambiguous<MEANS>>()?.is_some() {}
        Ok(Unambiguous)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let lower = folded(&key);
            let named = matches!(&*key, "mediaType" | "artifactType" | "schemaVersion" | "fsLayers");
            if MEANS && MEANING.contains(&&*lower) && key != lower && !named {
                return Err(A::Error::custom(format!("the key {key:?} would be read as another by some clients")));
            }
            if key == "annotations" {
                entries.next_value::<Unambiguous<false>>()?;
            } else {
                entries.next_value::<Unambiguous<MEANS>>()?;
            }
            if !seen.insert(key) {
                return Err(A::Error::custom("an object has the same key twice"));
            }
        }
        Ok(Unambiguous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for bad in [
            r#"{"layers":[],"layers":[]}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"x":[{"a":{"b":1,"b":2}}]}"#,
            r#"{"layers":[],"Manifests":[]}"#,
            r#"{"MediaType":"a/b"}"#,
            r#"{"config":{},"Config":{}}"#,
            r#"{"layers":[{"digest":"a","Digest":"b"}]}"#,
            r#"{"layer\u017f":[]}"#,
            r#"{"manifests":[{"platform":{},"Platform":{}}]}"#,
            r#"{"a":1,"\u0061":2}"#,
            "{} {}",
            "{}x",
            "",
        ] {
            assert!(unambiguous(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(unambiguous("[".repeat(100_000).as_bytes()).is_err());
        for good in [
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"a/b","layers":[{"size":1},{"size":1}],"artifactType":"x/y"}"#,
            r#"{"annotations":{"A":"1","a":"2","Size":"3"},"n":null,"f":1.5,"i":-1,"t":true}"#,
            "{}\n",
        ] {
            assert!(unambiguous(good.as_bytes()).is_ok(), "{good}");
        }
    }
}
