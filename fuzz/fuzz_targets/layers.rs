//! The bytes of a layer, compressed or not.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir::policy::fuzzing::layers(bytes));
