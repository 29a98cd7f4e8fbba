//! What a scanner says of the vulnerabilities of an image: the JSON of Trivy or Grype, as far as a rule looks at it.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::verdict::Outcome;
use crate::{
    oci::Malformed,
    setting::{ConfigError, Span, as_span},
};

/// `[scanner]`: the command that `weir image --scanner` runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScannerSettings {
    /// A program and its arguments; none by default.
    pub command: Vec<String>,
    /// How long it may take (10 min).
    #[serde(with = "as_span")]
    pub timeout: Duration,
}

impl Default for ScannerSettings {
    fn default() -> ScannerSettings {
        ScannerSettings { command: Vec::new(), timeout: Duration::from_secs(600) }
    }
}

/// Stands in the command for the file with the image, an OCI image layout in a tar.
pub const ARCHIVE: &str = "{archive}";

impl ScannerSettings {
    /// Everything that is wrong with the table. The keys begin with `scanner`.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let names_archive = self.command.iter().skip(1).any(|word| word.contains(ARCHIVE));
        if !self.command.is_empty() && !names_archive {
            let fix = r#"name the image that it scans, as ["trivy", "image", "--quiet", "--format", "json", "--input", "{archive}"]"#;
            errors.push(ConfigError::new("scanner.command", self.command.join(" "), fix));
        }
        if self.timeout.is_zero() {
            let fix = r#"write how long a scan may take, such as "10m""#;
            errors.push(ConfigError::new("scanner.timeout", Span(self.timeout).to_string(), fix));
        }
        errors
    }
}

/// What a scanner found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vulnerabilities {
    /// `trivy` or `grype`.
    pub scanner: Scanner,
    /// How many are critical, each counted once.
    pub critical: u64,
    /// How many are high.
    pub high: u64,
    /// The first critical ones by name.
    pub named: Vec<String>,
}

/// The scanners whose output is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scanner {
    /// Trivy: `--format json`.
    Trivy,
    /// Grype: `-o json`.
    Grype,
}

impl Scanner {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Scanner::Trivy => "trivy",
            Scanner::Grype => "grype",
        }
    }
}

/// Critical ones that are named.
const NAMED: usize = 5;
/// CVE-2026-123456, GHSA-aaaa-bbbb-cccc.
const LONGEST_NAME: usize = 40;
/// What was found is old after this: new vulnerabilities become known each day.
const FRESH: Duration = Duration::from_secs(30 * 86_400);

#[derive(Deserialize)]
struct Output {
    #[serde(rename = "SchemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "Results")]
    results: Option<Vec<TrivyResult>>,
    matches: Option<Vec<Match>>,
}

#[derive(Deserialize)]
struct TrivyResult {
    #[serde(rename = "Vulnerabilities")]
    vulnerabilities: Option<Vec<TrivyVulnerability>>,
}

#[derive(Deserialize)]
struct TrivyVulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    #[serde(rename = "Severity")]
    severity: String,
}

#[derive(Deserialize)]
struct Match {
    vulnerability: GrypeVulnerability,
}

#[derive(Deserialize)]
struct GrypeVulnerability {
    id: String,
    severity: Option<String>,
}

impl Vulnerabilities {
    /// Reads the output of a scanner.
    ///
    /// # Errors
    /// [`Malformed`] when it is the JSON of neither.
    pub fn read(output: &[u8]) -> Result<Vulnerabilities, Malformed> {
        let output: Output = serde_json::from_slice(output).map_err(|error| Malformed(error.to_string()))?;
        let (scanner, all): (_, Vec<(String, String)>) = match (output.matches, output.schema_version) {
            (Some(matches), _) => {
                let of = |it: Match| (it.vulnerability.id, it.vulnerability.severity.unwrap_or_default());
                (Scanner::Grype, matches.into_iter().map(of).collect())
            }
            (None, Some(_)) => {
                let results = output.results.unwrap_or_default().into_iter();
                let all = results.flat_map(|result| result.vulnerabilities.unwrap_or_default());
                (Scanner::Trivy, all.map(|it| (it.id, it.severity)).collect())
            }
            (None, None) => return Err(Malformed("it is the JSON of neither trivy nor grype".to_owned())),
        };
        let of = |severity: &str| -> BTreeSet<&str> {
            all.iter().filter(|(_, is)| is.eq_ignore_ascii_case(severity)).map(|(id, _)| &**id).collect()
        };
        let (critical, high) = (of("critical"), of("high"));
        let named = critical.iter().filter(|id| is_name(id)).take(NAMED).map(|id| (*id).to_owned()).collect();
        Ok(Vulnerabilities { scanner, critical: critical.len() as u64, high: high.len() as u64, named })
    }

    /// Whether its names are names, and no more than are named.
    pub fn is_sound(&self) -> bool {
        self.named.len() <= NAMED && self.named.iter().all(|id| is_name(id))
    }
}

fn is_name(id: &str) -> bool {
    !id.is_empty() && id.len() <= LONGEST_NAME && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `no_critical`: what a scanner found, and when.
pub(super) fn no_critical(scanned: Option<&(SystemTime, Vulnerabilities)>, now: SystemTime) -> (Outcome, String) {
    let Some((at, found)) = scanned else {
        return (Outcome::Unknown, "was not scanned for vulnerabilities".to_owned());
    };
    let Vulnerabilities { scanner, critical, high, named } = found;
    let scanner = scanner.as_str();
    let days = now.duration_since(*at).unwrap_or_default();
    if *critical > 0 {
        let plural = if *critical == 1 { "vulnerability" } else { "vulnerabilities" };
        let names = if named.is_empty() { String::new() } else { format!(", such as {}", named.join(", ")) };
        return (Outcome::Fail, format!("has {critical} critical {plural}{names}, by {scanner}"));
    }
    let so_long = days.as_secs() / 86_400;
    match days > FRESH {
        true => (Outcome::Unknown, format!("had no critical vulnerability {so_long} days ago, by {scanner}")),
        false => (Outcome::Pass, format!("has no critical vulnerability and {high} high ones, by {scanner}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_either_scanner_is_read_and_no_other() {
        let trivy = br#"{"SchemaVersion":2,"ArtifactName":"a","Results":[{"Target":"a","Vulnerabilities":[
            {"VulnerabilityID":"CVE-2026-1","Severity":"CRITICAL"},{"VulnerabilityID":"CVE-2026-1","Severity":"CRITICAL"},
            {"VulnerabilityID":"CVE-2026-2","Severity":"HIGH"},{"VulnerabilityID":"evil\u001b[2J","Severity":"CRITICAL"}]},
            {"Target":"b"}]}"#;
        let grype = br#"{"matches":[{"vulnerability":{"id":"GHSA-aaaa-bbbb-cccc","severity":"Critical"}},
            {"vulnerability":{"id":"CVE-2026-2","severity":"Low"}}],"descriptor":{"name":"grype"}}"#;
        let found = Vulnerabilities::read(trivy).unwrap();
        assert_eq!((found.scanner, found.critical, found.high), (Scanner::Trivy, 2, 1));
        assert_eq!(found.named, ["CVE-2026-1"]);
        let found = Vulnerabilities::read(grype).unwrap();
        assert_eq!((found.scanner, found.critical, found.high), (Scanner::Grype, 1, 0));
        assert_eq!(Vulnerabilities::read(br#"{"SchemaVersion":2}"#).unwrap().critical, 0);
        assert_eq!(Vulnerabilities::read(br#"{"matches":[]}"#).unwrap().critical, 0);
        for other in [&b"{}"[..], b"", b"[]", b"scan failed", br#"{"Results":[]}"#, br#"{"matches":[{}]}"#] {
            assert!(Vulnerabilities::read(other).is_err());
        }
    }

    #[test]
    fn a_critical_one_fails_and_what_was_not_scanned_lately_does_not_pass() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * 86_400);
        let outcome = |critical, days: u64| {
            let found = Vulnerabilities { scanner: Scanner::Trivy, critical, high: 0, named: Vec::new() };
            no_critical(Some(&(now - Duration::from_secs(days * 86_400), found)), now).0
        };
        assert_eq!(no_critical(None, now).0, Outcome::Unknown);
        assert_eq!((outcome(0, 1), outcome(0, 31)), (Outcome::Pass, Outcome::Unknown));
        assert_eq!((outcome(1, 1), outcome(1, 31)), (Outcome::Fail, Outcome::Fail));
    }

    #[test]
    fn a_command_that_names_no_image_is_refused() {
        let of = |command: &[&str]| {
            let command = command.iter().map(|word| (*word).to_owned()).collect();
            ScannerSettings { command, ..ScannerSettings::default() }.validate().len()
        };
        assert_eq!((of(&[]), of(&["grype", "oci-archive:{archive}", "-o", "json"])), (0, 0));
        assert_eq!((of(&["trivy"]), of(&["{archive}"])), (1, 1));
    }
}
