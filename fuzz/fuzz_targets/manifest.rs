//! The bytes of a manifest.
#![no_main]

use weir::oci::Description;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Description::read(bytes);
});
