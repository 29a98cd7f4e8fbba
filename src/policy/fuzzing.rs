//! What holds of any bytes that are taken for a layer or for a signature, for the fuzz targets of these names and their committed inputs.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{Beside, Bounds, Contents, Evidence, Layer, LookedUp, SignedBy, Signers, layer::MOST, scan};

/// Those who signed what the inputs begin with.
static SIGNERS: LazyLock<Signers> = LazyLock::new(|| {
    let key = |file: &str| SignedBy { key: Some(file.to_owned()), ..SignedBy::default() };
    let keyless = SignedBy {
        issuer: Some("https://issuer.example".to_owned()),
        subject: Some("*@example.com".to_owned()),
        roots: Some("trusted-root.json".to_owned()),
        ..SignedBy::default()
    };
    let notation = SignedBy {
        notation: Some("notation-root.pem".to_owned()),
        identities: vec!["*".to_owned()],
        ..SignedBy::default()
    };
    let sources = [key("release.pub"), key("ed.pub"), key("rsa.pub"), keyless, notation];
    let read = |file: &str| {
        let bytes: &[u8] = match file {
            "release.pub" => include_bytes!("../../tests/signatures/release.pub"),
            "ed.pub" => include_bytes!("../../tests/signatures/ed.pub"),
            "rsa.pub" => include_bytes!("../../tests/signatures/rsa.pub"),
            "trusted-root.json" => include_bytes!("../../tests/signatures/trusted-root.json"),
            "notation-root.pem" => include_bytes!("../../tests/signatures/notation-root.pem"),
            file => return Err(format!("{file} is not here")),
        };
        Ok(bytes.to_vec())
    };
    Signers::read(&sources, read).unwrap_or_default()
});
/// A time at which their certificates are valid: the first day of 2027, in seconds since 1970.
const NOW: Duration = Duration::from_secs(1_798_761_600);
/// What was signed, and what was not.
const SIGNED: &str = "sha256:a7b756a3b338367f4b5d3be505ef133aa86b3e3dc743b73321b084f4616e35ab";
const NOT_SIGNED: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Verifies them in the form that their first letter names: `p` a payload behind the line with its signature, `e` a DSSE envelope, `b` a
/// bundle, `j` a JWS, any other a manifest with signatures. Gives whether it counts for the digest that was signed.
pub fn signatures(bytes: &[u8]) -> bool {
    let Some((form, bytes)) = bytes.split_first() else { return false };
    let bytes = Bytes::copy_from_slice(bytes);
    let evidence = match form {
        b'p' => {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
            let signature = String::from_utf8_lossy(&bytes[..end]).into_owned();
            Evidence::Payload { payload: bytes.slice((end + 1).min(bytes.len())..), signature }
        }
        b'e' => Evidence::Envelope(bytes),
        b'b' => Evidence::Bundle(bytes),
        b'j' => Evidence::Jws(bytes),
        _ => {
            let layers = Layer::read(&bytes).unwrap_or_default();
            let read = layers.into_iter().map(|layer| layer.unread().unwrap_or_else(|| layer.evidence(Bytes::new())));
            assert!(read.into_iter().all(|evidence| evidence.size() <= bytes.len()));
            return false;
        }
    };
    assert!(!SIGNERS.is_empty());
    let beside = |digest: &str| Beside {
        digests: digest.parse().into_iter().collect(),
        repository: "docker.io/signed/app".to_owned(),
        found: vec![[evidence.clone()].into()],
        looked_up: LookedUp::Wholly,
    };
    let now = SystemTime::UNIX_EPOCH + NOW;
    let forged = beside(NOT_SIGNED).check(&SIGNERS, now);
    assert!(forged.by.is_none() && forged.predicates.is_empty() && forged.nearest.is_some(), "{forged:?}");
    let signed = beside(SIGNED);
    let checked = signed.check(&SIGNERS, now);
    assert!(checked.by.is_some() != checked.nearest.is_some() && !checked.by_index, "{checked:?}");
    assert!(checked.predicates.iter().all(|predicate| signed.claims().contains(predicate)), "{checked:?}");
    checked.by.is_some()
}

/// Reads them, in bounds that no input leaves, and judges what was found; twice, as one layer on the other.
pub fn layers(bytes: &[u8]) {
    let bounds = Bounds { entries: 2000, bytes: 4 << 20 };
    let facts = scan(bytes, bounds, &|| true);
    assert!(facts.files <= bounds.entries + 1 && facts.bytes <= bounds.bytes + (1 << 20), "{facts:?}");
    let tools = facts.tools.iter().map(|tool| &tool.path);
    let secrets = facts.secrets.iter().map(|leak| &leak.path);
    let paths: Vec<_> = facts.setuid.iter().chain(&facts.writable).chain(tools).chain(secrets).collect();
    let is_plain =
        |path: &&String| path.bytes().all(|byte| byte.is_ascii_graphic()) && !path.split('/').any(|part| part == "..");
    assert!(paths.len() <= 4 * MOST && paths.iter().all(is_plain), "{paths:?}");
    let facts = Some(Arc::new(facts));
    let contents = Contents::of(&[facts.clone(), facts]);
    let said = [contents.no_secrets(&[]), contents.minimal(), contents.no_setuid()];
    assert!(said.iter().all(|(_, finding)| finding.len() < 2000 && !finding.contains(char::is_control)), "{said:?}");
}

#[cfg(test)]
mod tests {
    fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
        let corpus = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let input = |entry: std::fs::DirEntry| {
            (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
        };
        let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| input(entry.unwrap())).collect();
        assert!(!inputs.is_empty());
        inputs
    }

    #[test]
    fn the_committed_layers_pass() {
        inputs("layers").iter().for_each(|(_, input)| super::layers(input));
    }

    #[test]
    fn the_committed_signatures_pass_and_count_where_their_name_says_so() {
        for (name, input) in inputs("signatures") {
            assert_eq!(super::signatures(&input), name.starts_with("signed"), "{name}");
        }
    }
}
