//! The path of a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| weir::http::fuzzing::path(text));
