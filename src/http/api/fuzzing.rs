//! What the fuzz targets `path` and `range` hold. Compiled for them and for the tests, which run the committed inputs.

use super::{path, range};

/// A path that names a resource is of bounded length, and its name has no empty, `.` or `..` component.
pub fn path(text: &str) {
    let Ok(resource) = path::parse(text) else { return };
    assert!(resource.reference().len() <= text.len());
    if let Some(name) = path::written_name(text, "") {
        let _ = path::name(&name);
    }
    if let Some(name) = resource.name() {
        let name = name.name.to_string();
        assert!(!name.split('/').any(|part| matches!(part, "" | "." | "..")), "{name}");
    }
}

/// What a range selects lies within the blob and is never empty.
pub fn range(text: &str) {
    let Some(spec) = range::RangeSpec::parse(text) else { return };
    for size in [0, 1, 7, 1 << 40, u64::MAX] {
        if let range::RangeOutcome::Part(part) = spec.select(size) {
            assert!(part.start < part.end && part.end <= size, "{part:?} of {size}");
        }
    }
}

#[cfg(test)]
mod tests {
    fn each(target: &str, holds: fn(&str)) {
        let corpus = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        for input in std::fs::read_dir(corpus).unwrap() {
            holds(&String::from_utf8_lossy(&std::fs::read(input.unwrap().path()).unwrap()));
        }
    }

    #[test]
    fn the_committed_inputs_hold() {
        each("path", super::path);
        each("range", super::range);
    }
}
