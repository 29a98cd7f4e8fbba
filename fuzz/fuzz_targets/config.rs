//! The text of a configuration file, without an environment.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = weir::config::Config::read(text, []).map_err(|errors| errors.to_string());
});
