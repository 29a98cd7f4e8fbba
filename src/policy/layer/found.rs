//! What was found in a layer. Paths are publishers' text: all but plain ASCII is written as `%xx`, so that they are safe to print and no
//! two of them become one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    entries::{Entry, Kind},
    kinds::{self, ToolKind},
    problem::Problem,
};

/// More of one sort are not listed: a list of this length may lack some.
pub(in crate::policy) const MOST: usize = 200;
/// What is removed may be more: an upper layer may replace a whole tree. Of what is not listed, it is not known that it is gone.
const MOST_REMOVED: usize = 2000;

/// What one layer holds. No value of a secret is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFacts {
    /// Entries of its tar.
    pub files: u64,
    /// Bytes that it unpacks to.
    pub bytes: u64,
    /// Files with a credential.
    pub secrets: Vec<Leak>,
    /// Files that run as their owner or group.
    pub setuid: Vec<String>,
    /// Files that every user may write.
    pub writable: Vec<String>,
    /// Programs that serve to build or to break in.
    pub tools: Vec<Tool>,
    /// What it removes from the layers below: paths, and with a slash at their end what is in a directory.
    pub removed: Vec<String>,
    /// Files that often are setuid, and are not here.
    pub plain: Vec<String>,
    /// Users and their numbers, when it changes `/etc/passwd`; none when what it makes of that file is not known. `None` is a number that no
    /// engine takes.
    pub users: Option<Vec<(String, Option<u32>)>>,
    /// Whether `/etc` may have another path, or be none, so that a file of another name may be `/etc/passwd`.
    pub has_other_etc: bool,
    /// What kept it from being read whole, or is in no sound layer.
    pub problems: BTreeSet<Problem>,
}

/// A file with a credential.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leak {
    /// What it is, as `an AWS access key`.
    pub kind: String,
    /// The file.
    pub path: String,
}

/// A program that serves to build or to break in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tool {
    /// What it is.
    pub kind: ToolKind,
    /// The file.
    pub path: String,
}

const SETUID: u32 = 0o6000;
const WRITABLE: u32 = 0o002;

impl LayerFacts {
    /// Of a layer that cannot be unpacked.
    pub fn unreadable() -> LayerFacts {
        LayerFacts { problems: BTreeSet::from([Problem::Damaged]), ..LayerFacts::default() }
    }

    pub(super) fn look_at(&mut self, path: &[u8], entry: &Entry) {
        let is_file = matches!(entry.kind, Kind::File | Kind::Link);
        if is_file && entry.mode & SETUID != 0 {
            self.list(path, |facts| &mut facts.setuid);
        } else if is_file && kinds::is_often_setuid(path) {
            self.list(path, |facts| &mut facts.plain);
        }
        if is_file && entry.mode & WRITABLE != 0 {
            self.list(path, |facts| &mut facts.writable);
        }
        if !matches!(entry.kind, Kind::Directory | Kind::Other)
            && let Some(kind) = kinds::tool(path)
            && self.tools.len() < MOST
        {
            self.tools.push(Tool { kind, path: kinds::shown(path) });
        }
    }

    pub(super) fn remove(&mut self, path: Vec<u8>) {
        if self.removed.len() < MOST_REMOVED {
            self.removed.push(kinds::shown(&path));
        }
    }

    pub(super) fn leak(&mut self, kind: &str, path: &[u8]) {
        if self.secrets.len() < MOST {
            self.secrets.push(Leak { kind: kind.to_owned(), path: kinds::shown(path) });
        }
    }

    fn list(&mut self, path: &[u8], list: impl FnOnce(&mut LayerFacts) -> &mut Vec<String>) {
        let list = list(self);
        if list.len() < MOST {
            list.push(kinds::shown(path));
        }
    }
}
