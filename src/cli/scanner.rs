//! `weir image --scanner`: runs the configured scanner over each platform of a cached image that is here whole, and gives its verdict to
//! the running Weir.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use super::{ask::Ask, output::entries};
use crate::{
    policy::{ARCHIVE, ScannerSettings, Vulnerabilities},
    random,
};

/// A longer output is none of a scanner.
const MOST_OUTPUT: u64 = 256 << 20;
/// How often it is looked whether the scanner has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Scans what the report names.
///
/// # Errors
/// A sentence: no scanner is configured, no platform is here whole, the scanner failed or said what is not read.
pub(super) fn scan(ask: &Ask, settings: &ScannerSettings, report: &Value) -> Result<(), String> {
    let [program, arguments @ ..] = &*settings.command else {
        return Err(r#"no scanner is configured: write scanner.command, such as ["trivy", "image", "--quiet", "--format", "json", "--input", "{archive}"]"#.to_owned());
    };
    let name = report["name"].as_str().unwrap_or_default();
    let known = entries(report, "platforms").iter().filter(|platform| platform["facts"].is_object());
    let known: Vec<&Value> = known.collect();
    if known.is_empty() {
        return Err(format!("no platform of {name} is in the cache; pull it first"));
    }
    for platform in known {
        let directory = Directory::new()?;
        let archive = directory.0.join("image.tar");
        export(ask, name, platform["platform"].as_str().unwrap_or_default(), &archive)?;
        let archive = archive.display().to_string();
        let arguments: Vec<String> = arguments.iter().map(|word| word.replace(ARCHIVE, &archive)).collect();
        let output = run(program, &arguments, settings.timeout)?;
        let found =
            Vulnerabilities::read(&output).map_err(|error| format!("{program} said what is not read: {}", error.0))?;
        let body = json!({"image": name, "digest": platform["digest"], "found": found});
        ask.send_json("POST", "/api/v1/cache/scans", body.to_string())?;
    }
    Ok(())
}

/// The image as an archive; of an index, the one platform.
fn export(ask: &Ask, name: &str, platform: &str, archive: &PathBuf) -> Result<(), String> {
    let mut query = Serializer::new(String::new());
    query.append_pair("name", name).append_pair("reason", "to be scanned");
    if !platform.is_empty() {
        query.append_pair("platform", platform);
    }
    let (length, mut answer) = ask.download(&format!("/api/v1/cache/export?{}", query.finish()))?;
    let written = File::create_new(archive).and_then(|mut file| io::copy(&mut answer, &mut file));
    match written {
        Ok(written) if length.is_none_or(|length| length == written) => Ok(()),
        Ok(_) => Err(format!("{name} ended early")),
        Err(error) => Err(format!("{}: {error}", archive.display())),
    }
}

/// What a program prints, when it succeeds in time.
fn run(program: &str, arguments: &[String], timeout: Duration) -> Result<Vec<u8>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{program}: {why}");
    let mut command = Command::new(program);
    let mut child =
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| failed(&error))?;
    let stdout = child.stdout.take();
    let reading = thread::spawn(move || {
        let mut output = Vec::new();
        stdout.map_or(Ok(0), |stdout| stdout.take(MOST_OUTPUT).read_to_end(&mut output)).map(|_| output)
    });
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < timeout => thread::sleep(LOOK_EVERY),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(&"it took longer than scanner.timeout"));
            }
            Err(error) => return Err(failed(&error)),
        }
    };
    if !status.success() {
        return Err(failed(&format!("it failed, {status}")));
    }
    match reading.join() {
        Ok(output) => output.map_err(|error| failed(&error)),
        Err(_) => Err(failed(&"its output could not be read")),
    }
}

/// A directory that no other user reads, and that is removed.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Directory, String> {
        let name: String = random::bytes::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = std::env::temp_dir().join(format!("weir-scan-{name}"));
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left lies where temporary files are cleared away.
        let _ = fs::remove_dir_all(&self.0);
    }
}
