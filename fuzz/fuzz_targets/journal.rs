//! The bytes of a journal.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir_storage::fuzzing::journal(bytes));
