//! `weir verify`: hashes every stored object again. It takes the data directory, so weir must be stopped.

use std::fmt::Write;

use super::say;
use crate::config::Config;

pub(super) fn run(config: &Config) -> Result<(), String> {
    let settings = config.settings().map_err(|errors| errors.to_string())?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let scrubbed = runtime.block_on(async {
        let store = weir_storage::Store::open(settings.storage).map_err(|error| error.to_string())?;
        // Nobody is being served, so the disk may be read as fast as it gives.
        let scrubbed = store.scrub.run(u64::MAX).await.map_err(|error| error.to_string());
        store.close().await;
        scrubbed
    })?;
    let mut text = format!("{} objects, {} bytes: ", scrubbed.objects, scrubbed.bytes);
    if scrubbed.quarantined.is_empty() {
        text.push_str("every one matches its digest\n");
        return say(&text);
    }
    let _ = writeln!(
        text,
        "{} did not match and were put aside; they come again when asked for",
        scrubbed.quarantined.len()
    );
    for digest in &scrubbed.quarantined {
        let _ = writeln!(text, "  {digest}");
    }
    say(&text)?;
    Err("the disk does not hold what was written to it".to_owned())
}
