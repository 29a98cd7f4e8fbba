//! A `Range` header field.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| weir::http::fuzzing::range(text));
