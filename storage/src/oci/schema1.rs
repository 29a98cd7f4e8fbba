//! The digest of a signed schema 1 manifest is that of its payload, which the signatures describe (distribution v2.8,
//! docs/spec/manifest-v2-1.md, "Signed Manifests"). Pure.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Signed {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    protected: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
}

/// The bytes that were signed: the first `formatLength` bytes of the manifest, then `formatTail`. `None` for what is no signed
/// manifest, and for one that says anything else than its payload beside the signatures: under the digest of one document another
/// must not be served.
pub(super) fn payload(bytes: &[u8]) -> Option<Vec<u8>> {
    let signed: Signed = serde_json::from_slice(bytes).ok()?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
    let protected: Protected = serde_json::from_slice(&decode(&signed.signatures.first()?.protected)?).ok()?;
    let mut payload = bytes.get(..protected.format_length)?.to_vec();
    payload.extend(decode(&protected.format_tail)?);
    let mut document: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    document.remove("signatures");
    let is_first = document.get("schemaVersion").and_then(Value::as_u64) == Some(1);
    (is_first && serde_json::from_slice::<Map<String, Value>>(&payload).ok()? == document).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_the_manifest_without_its_signatures() {
        let payload_text = "{\n   \"schemaVersion\": 1\n}";
        let head = "{\n   \"schemaVersion\": 1";
        let protected =
            format!(r#"{{"formatLength":{},"formatTail":"{}"}}"#, head.len(), URL_SAFE_NO_PAD.encode("\n}"));
        let protected = URL_SAFE_NO_PAD.encode(protected);
        let signed = format!("{head},\n   \"signatures\": [{{\"protected\":\"{protected}\"}}]\n}}");
        assert_eq!(payload(signed.as_bytes()).unwrap(), payload_text.as_bytes());
        for bad in ["", "{}", r#"{"signatures":[]}"#, r#"{"signatures":[{"protected":"?"}]}"#] {
            assert_eq!(payload(bad.as_bytes()), None, "{bad}");
        }
        // A length beyond the manifest is none.
        let far = URL_SAFE_NO_PAD.encode(r#"{"formatLength":99999,"formatTail":"fQ"}"#);
        assert_eq!(payload(format!(r#"{{"signatures":[{{"protected":"{far}"}}]}}"#).as_bytes()), None);
        // Nor is a document that says more than what was signed, or a later kind of manifest.
        let more = format!("{head},\n   \"layers\": [],\n   \"signatures\": [{{\"protected\":\"{protected}\"}}]\n}}");
        assert_eq!(payload(more.as_bytes()), None);
        let second = URL_SAFE_NO_PAD.encode(r#"{"formatLength":18,"formatTail":"fQ"}"#);
        let second = format!(r#"{{"schemaVersion":2,"signatures":[{{"protected":"{second}"}}]}}"#);
        assert_eq!(payload(second.as_bytes()), None);
    }
}
