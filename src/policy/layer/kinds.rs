//! What a path in a layer says: where it is, what it removes below, and which program it is.

use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// As Linux bounds paths, in bytes.
const LONGEST_PATH: usize = 4096;
/// Where users stand.
pub(super) const USERS: &[u8] = b"etc/passwd";
/// Users that are looked at, the first ones; and of a longer name nothing.
const MOST_USERS: usize = 1000;
const LONGEST_NAME: usize = 32;

/// What a program serves for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    /// It installs what is not there.
    PackageManager,
    /// It runs what it is given.
    Shell,
    /// It fetches from anywhere.
    Downloader,
    /// It makes programs.
    Compiler,
}

impl ToolKind {
    /// As a part of a sentence.
    pub fn phrase(self) -> &'static str {
        match self {
            ToolKind::PackageManager => "a package manager",
            ToolKind::Shell => "a shell",
            ToolKind::Downloader => "a downloader",
            ToolKind::Compiler => "a compiler",
        }
    }
}

/// A path without `.`, empty parts and slashes at its ends.
///
/// # Errors
/// [`Problem::Escapes`] for one with `..`, [`Problem::Path`] for one that is too long.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, Problem> {
    if path.len() > LONGEST_PATH {
        return Err(Problem::Path);
    }
    if leaves(path) {
        return Err(Problem::Escapes);
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    Ok(parts.collect::<Vec<_>>().join(&b'/'))
}

/// Whether a path has a part `..`.
pub(super) fn leaves(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part == b"..")
}

/// What a whiteout removes (image-spec, "Whiteouts"); for an opaque one the directory with a slash at its end.
pub(super) fn removed(path: &[u8]) -> Option<Vec<u8>> {
    let (directory, name) = split(path);
    let mut removed = directory.to_vec();
    if !removed.is_empty() {
        removed.push(b'/');
    }
    match name.strip_prefix(b".wh.")? {
        b".wh..opq" => {}
        // Of AUFS itself.
        rest if rest.starts_with(b".wh.") || rest.is_empty() => return None,
        rest => removed.extend_from_slice(rest),
    }
    Some(removed)
}

/// A path in ASCII. The percent sign is written as one too.
pub(super) fn shown(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'+' | b'@' | b'~' | b':' | b'=' => {
                shown.push(char::from(*byte));
            }
            _ => shown.push_str(&format!("%{byte:02x}")),
        }
    }
    shown
}

/// Directory and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

const PACKAGE_MANAGERS: [&str; 17] = [
    "apk", "apt", "apt-get", "dnf", "dpkg", "gem", "microdnf", "nix", "npm", "opkg", "pacman", "pip", "pip3", "rpm",
    "tdnf", "yum", "zypper",
];
const SHELLS: [&str; 12] =
    ["ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "sh", "tcsh", "toybox", "zsh"];
const DOWNLOADERS: [&str; 3] = ["aria2c", "curl", "wget"];
const COMPILERS: [&str; 10] = ["c++", "cc", "clang", "clang++", "g++", "gcc", "go", "javac", "rustc", "tcc"];

/// The program of a path: by its name, in a directory of programs.
pub(super) fn tool(path: &[u8]) -> Option<ToolKind> {
    let (directory, name) = split(path);
    let name = std::str::from_utf8(name).ok()?;
    if !matches!(split(directory).1, b"bin" | b"sbin") {
        return None;
    }
    // As x86_64-linux-gnu-gcc-12 and gcc-12.
    let is_version = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let bare = name.rsplit_once('-').filter(|(_, version)| is_version(version)).map_or(name, |(bare, _)| bare);
    let is_cross = ["-gcc", "-g++", "-clang"].iter().any(|end| bare.ends_with(end));
    if PACKAGE_MANAGERS.contains(&bare) {
        Some(ToolKind::PackageManager)
    } else if SHELLS.contains(&bare) {
        Some(ToolKind::Shell)
    } else if DOWNLOADERS.contains(&bare) {
        Some(ToolKind::Downloader)
    } else if COMPILERS.contains(&bare) || is_cross {
        Some(ToolKind::Compiler)
    } else {
        None
    }
}

/// Programs that distributions make setuid or setgid. One of them without that, in a layer above, replaces one that has it.
const OFTEN_SETUID: [&str; 40] = [
    "at",
    "bbsuid",
    "chage",
    "chfn",
    "chrome-sandbox",
    "chsh",
    "crontab",
    "dbus-daemon-launch-helper",
    "exim4",
    "expiry",
    "fusermount",
    "fusermount3",
    "gpasswd",
    "mount",
    "mount.cifs",
    "mount.nfs",
    "mtr-packet",
    "newgidmap",
    "newgrp",
    "newuidmap",
    "ntfs-3g",
    "pam_timestamp_check",
    "passwd",
    "ping",
    "ping6",
    "pkexec",
    "polkit-agent-helper-1",
    "postdrop",
    "postqueue",
    "ssh-agent",
    "ssh-keysign",
    "su",
    "sudo",
    "sudoedit",
    "traceroute",
    "umount",
    "unix_chkpwd",
    "unix_update",
    "wall",
    "write",
];

/// Whether a program of this name often is setuid.
pub(super) fn is_often_setuid(path: &[u8]) -> bool {
    std::str::from_utf8(split(path).1).is_ok_and(|name| OFTEN_SETUID.contains(&name))
}

/// Users and their numbers, from the contents of `/etc/passwd`.
pub(super) fn users(content: &[u8]) -> Vec<(String, u32)> {
    let user = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?);
        (!name.is_empty() && name.len() <= LONGEST_NAME).then_some((name.to_owned(), uid.parse().ok()?))
    };
    content.split(|byte| *byte == b'\n').filter_map(user).take(MOST_USERS).collect()
}
