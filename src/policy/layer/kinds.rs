//! What a path in a layer says: where it is, what it removes below, and which program it is.

use std::num::IntErrorKind;

use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// As Linux bounds paths, in bytes.
const LONGEST_PATH: usize = 4096;
/// Where users stand.
pub(super) const USERS: &[u8] = b"etc/passwd";
pub(super) const ETC: &[u8] = b"etc";
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
    Ok(parts(path).collect::<Vec<_>>().join(&b'/'))
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

/// Whether what a symbolic link leads to may be `/etc` or a directory above it, so that a path through the link may be `/etc/passwd`.
pub(super) fn may_lead_to_etc(path: &[u8], target: &[u8]) -> bool {
    let is_absolute = target.starts_with(b"/");
    let mut parts: Vec<&[u8]> = if is_absolute { Vec::new() } else { parts(split(path).0).collect() };
    let mut has_gone_down = false;
    for part in self::parts(target) {
        match part {
            // What was gone through may be a link too, and its directory another one.
            b".." if has_gone_down => return true,
            b".." => drop(parts.pop()),
            part => {
                has_gone_down = true;
                parts.push(part);
            }
        }
    }
    parts.is_empty() || parts.join(&b'/') == ETC
}

/// The parts of a path that say something.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// Users and their numbers, from the contents of `/etc/passwd`, as engines read them (moby/sys/user): the line without white space around
/// it; what is no number is 0. `None` for a number that no engine takes.
pub(super) fn users(content: &[u8]) -> Vec<(String, Option<u32>)> {
    let user = |line: &[u8]| {
        let line = trimmed(line);
        let mut fields = line.split(|byte| *byte == b':');
        let name = std::str::from_utf8(fields.next()?).ok()?;
        let uid = fields.nth(1).and_then(|field| std::str::from_utf8(field).ok()).unwrap_or_default().parse::<i64>();
        let uid = match uid {
            Ok(uid) => u32::try_from(uid).ok(),
            Err(error) if matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => None,
            Err(_) => Some(0),
        };
        (!line.is_empty() && name.len() <= LONGEST_NAME).then(|| (name.to_owned(), uid))
    };
    content.split(|byte| *byte == b'\n').filter_map(user).take(MOST_USERS).collect()
}

/// A line without Unicode's white space around it; what is no UTF-8 stays, as in Go.
fn trimmed(mut line: &[u8]) -> &[u8] {
    let space_at = |bytes: &[u8]| {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        text.chars().next().filter(|letter| letter.is_whitespace()).map(char::len_utf8)
    };
    while let Some(length) = space_at(&line[..line.len().min(4)]) {
        line = &line[length..];
    }
    // A letter has one to four bytes.
    while let Some(length) =
        (1..=line.len().min(4)).find(|length| space_at(&line[line.len() - length..]) == Some(*length))
    {
        line = &line[..line.len() - length];
    }
    line
}
