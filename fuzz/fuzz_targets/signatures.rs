//! The bytes of a signature, in each of its forms.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    weir::policy::fuzzing::signatures(bytes);
});
