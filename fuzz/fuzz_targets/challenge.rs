//! `WWW-Authenticate` header fields of an upstream, a line each.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weir::upstream::fuzzing::challenge(bytes));
