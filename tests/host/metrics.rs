//! The tools of Prometheus, which read what a Weir exposes.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use super::scraped::metrics;

#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_nothing_to_say_against_the_metrics() {
    let text = metrics().await;
    let mut tool = Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().unwrap_or_else(|error| panic!("promtool, of Debian's package prometheus: {error}"));
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
