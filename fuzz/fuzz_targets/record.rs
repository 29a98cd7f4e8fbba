//! The bytes of a record.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_storage::fuzzing::record(bytes));
