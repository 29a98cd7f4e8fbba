//! Small answers: `wrk -t1 -c32` and what it prints.

use std::net::SocketAddr;

use tokio::process::Command;

use crate::client::MANIFEST_TYPES;

/// GETs a second over so many seconds. An error when any of them was not a 2xx.
pub(super) async fn rate(address: SocketAddr, target: &str, seconds: u32) -> Result<f64, String> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c32", &format!("-d{seconds}s"), "-H"])
        .arg(format!("Accept: {MANIFEST_TYPES}"))
        .arg(format!("http://{address}{target}"));
    let output = wrk.output().await.map_err(|e| format!("wrk: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| format!("wrk on {address}{target}:\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn parse(text: &str) -> Option<f64> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_run_with_errors_has_no_rate() {
        let good = "Running 3s test\n  1000 requests in 3.00s\nRequests/sec:  83012.50\nTransfer/sec:  1MB\n";
        assert_eq!(parse(good), Some(83_012.5));
        let bad = format!("{good}  Non-2xx or 3xx responses: 3\n");
        assert_eq!(parse(&bad), None);
    }
}
