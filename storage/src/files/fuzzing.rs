//! What the fuzz targets `journal` and `record` hold. Compiled for them and for the tests, which run the committed inputs.

use bytes::Bytes;

use super::{journal, record};

/// What is read of a damaged journal is a prefix that reads the same without the damage.
pub fn journal(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let Some((records, end)) = journal::records(&bytes) else { return };
    assert!(end <= bytes.len() as u64);
    assert_eq!(journal::records(&bytes.slice(..end as usize)), Some((records, end)));
}

/// A record that is read is sealed to one that reads the same; and so is any JSON.
pub fn record(bytes: &[u8]) {
    let sealed = record::unseal::<serde_json::Value>(bytes);
    let plain = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    for value in sealed.into_iter().chain(plain) {
        let bytes = record::seal(&value).expect("JSON is a record");
        assert!(record::unseal::<serde_json::Value>(&bytes).is_some());
    }
}

#[cfg(test)]
mod tests {
    fn each(target: &str, holds: fn(&[u8])) {
        let corpus = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        for input in std::fs::read_dir(corpus).unwrap() {
            holds(&std::fs::read(input.unwrap().path()).unwrap());
        }
    }

    #[test]
    fn the_committed_inputs_hold() {
        each("journal", super::journal);
        each("record", super::record);
    }
}
