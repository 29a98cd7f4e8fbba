//! What holds of any bytes that are taken for a layer, for the fuzz target of that name and for its committed inputs.

use std::sync::Arc;

use super::{Bounds, Contents, layer::MOST, scan};

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
    #[test]
    fn the_committed_inputs_pass() {
        let corpus = format!("{}/fuzz/corpus/layers", env!("CARGO_MANIFEST_DIR"));
        let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
        assert!(!inputs.is_empty());
        for input in inputs {
            super::layers(&std::fs::read(input.unwrap().path()).unwrap());
        }
    }
}
