//! What a layer of an image holds, from its bytes: a tar, plain or compressed by gzip or Zstandard, read as a stream.
//!
//! Nothing is written anywhere, and no path of a layer is ever opened. The memory is bounded whatever the input: a window of at most
//! 16 MiB, one file of at most 1 MiB and bounded lists. What is no tar, ends early, unpacks to too much or leaves its directory
//! is a [`Problem`]; what was found before it is kept.

mod bounds;
mod entries;
mod found;
mod kinds;
mod problem;
#[cfg(test)]
mod tests;
mod unpack;

use std::io::Read;

use self::entries::{Entries, Kind};
pub(super) use self::found::MOST;
pub use self::{
    bounds::Bounds,
    found::{LayerFacts, Leak, Tool},
    kinds::ToolKind,
    problem::Problem,
};
use super::secrets;

/// Reads a layer to its end, or to what keeps it from that. `may_go_on` is asked after each 64 KiB that it unpacks to.
pub fn scan(input: impl Read, bounds: Bounds, may_go_on: &dyn Fn() -> bool) -> LayerFacts {
    let mut facts = LayerFacts::default();
    let read = unpack::unpack(input).and_then(|tar| {
        let mut entries = Entries::new(tar, bounds, may_go_on);
        let read = look(&mut entries, &mut facts);
        (facts.files, facts.bytes) = entries.counts();
        read
    });
    if let Err(problem) = read {
        facts.problems.insert(problem);
    }
    facts
}

fn look<R: Read>(entries: &mut Entries<'_, R>, facts: &mut LayerFacts) -> Result<(), Problem> {
    let mut content = Vec::new();
    let mut removes_users = false;
    while let Some(entry) = entries.next()? {
        let path = match kinds::clean(&entry.path) {
            Ok(path) => path,
            Err(problem) => {
                facts.problems.insert(problem);
                continue;
            }
        };
        if kinds::leaves(&entry.target) && entry.kind == Kind::Link {
            facts.problems.insert(Problem::Escapes);
        }
        if let Some(removed) = kinds::removed(&path) {
            // An opaque directory hides what is below, and keeps what this layer has.
            match &*removed {
                kinds::ETC | kinds::USERS => removes_users = true,
                b"" | b"etc/" if facts.users.is_none() => facts.users = Some(Vec::new()),
                _ => {}
            }
            facts.remove(removed);
            continue;
        }
        facts.look_at(&path, &entry);
        let is_users = path == kinds::USERS;
        if is_users {
            // What a link leads to may be changed under its own name.
            facts.users = Some(Vec::new());
        }
        facts.has_other_etc |= match entry.kind {
            Kind::Symlink => path == kinds::ETC || kinds::may_lead_to_etc(&path, &entry.target),
            Kind::Directory => false,
            Kind::File | Kind::Link | Kind::Other => path == kinds::ETC,
        };
        if entry.kind == Kind::File && entry.size > 0 && (is_users || secrets::is_looked_at(&path)) {
            entries.content(&mut content, secrets::MOST_FILE)?;
            if is_users && !entry.is_sparse {
                facts.users = Some(kinds::users(&content));
            }
            secrets::in_file(&path, &content).for_each(|kind| facts.leak(kind, &path));
        }
    }
    if removes_users {
        facts.users = Some(Vec::new());
    }
    Ok(())
}
