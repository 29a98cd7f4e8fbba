//! What the layers of an image hold together, and what rules say of that.
//!
//! A later layer removes or replaces what a lower one has, which disarms a program. A secret stays in the layer below, from which anybody
//! who has the image reads it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{
    layer::{LayerFacts, Leak, MOST, Problem, Tool},
    secrets::{self, Secret},
    user::User,
    verdict::Outcome,
};

/// What is known of all layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Files with a credential.
    pub secrets: Vec<LayerLeak>,
    /// Programs that run as their owner or group.
    pub setuid: Vec<String>,
    /// Files that every user may write.
    pub writable: Vec<String>,
    /// Programs that serve to build or to break in.
    pub tools: Vec<Tool>,
    /// What is wrong with a layer itself, and the layer, counted from 1.
    pub problems: Vec<(usize, Problem)>,
    /// Layers that were not looked at yet.
    pub waiting: usize,
    /// Layers.
    pub layers: usize,
    /// Users and their numbers, as the uppermost layer has them that has any.
    users: Option<Vec<(String, Option<u32>)>>,
    /// A layer may have `/etc/passwd` under another path.
    has_other_etc: bool,
    /// A list of a layer is at its bound, and the layer may hold more.
    is_cut: bool,
}

/// A file of a layer with a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerLeak {
    /// What, and in which file.
    pub leak: Leak,
    /// The layer, counted from 1.
    pub layer: usize,
    /// Whether a later layer removes the file, which does not help.
    pub is_removed: bool,
}

/// Names that a sentence lists.
const NAMED: usize = 3;
/// Letters of a path that a sentence shows: its end says more.
const SHOWN: usize = 100;

impl Contents {
    /// Of layers from the lowest up; one that was not looked at yet is `None`.
    pub fn of(layers: &[Option<Arc<LayerFacts>>]) -> Contents {
        let mut contents = Contents { layers: layers.len(), ..Contents::default() };
        let (mut gone, mut plain) = (HashSet::new(), HashSet::new());
        for (number, layer) in layers.iter().enumerate().rev() {
            let Some(layer) = layer else {
                contents.waiting += 1;
                continue;
            };
            let is_removed = |path: &str| is_removed(&gone, path);
            let stays = |path: &&String| !is_removed(path) && !plain.contains(path.as_str());
            contents.secrets.extend(layer.secrets.iter().map(|leak| LayerLeak {
                leak: leak.clone(),
                layer: number + 1,
                is_removed: is_removed(&leak.path),
            }));
            contents.setuid.extend(layer.setuid.iter().filter(stays).cloned());
            contents.writable.extend(layer.writable.iter().filter(|path| !is_removed(path)).cloned());
            contents.tools.extend(layer.tools.iter().filter(|tool| !is_removed(&tool.path)).cloned());
            contents.problems.extend(layer.problems.iter().map(|problem| (number + 1, *problem)));
            let lengths = [layer.secrets.len(), layer.setuid.len(), layer.writable.len(), layer.tools.len()];
            contents.is_cut |= lengths.contains(&MOST);
            contents.has_other_etc |= layer.has_other_etc;
            contents.users = contents.users.take().or_else(|| layer.users.clone());
            gone.extend(layer.removed.iter().map(String::as_str));
            plain.extend(layer.plain.iter().map(String::as_str));
        }
        let Contents { setuid, writable, tools, secrets, problems, .. } = &mut contents;
        for paths in [setuid, writable] {
            paths.sort_unstable();
            paths.dedup();
        }
        tools.sort_unstable();
        tools.dedup();
        secrets.sort_by_key(|secret| secret.layer);
        problems.sort_unstable();
        contents
    }

    /// Who starts the image by this user.
    pub(super) fn resolve(&self, user: &User) -> Option<User> {
        let User::Name(name) = user else { return Some(user.clone()) };
        // A layer that was not looked at may say it otherwise.
        let is_known = self.waiting == 0 && self.problems.is_empty() && !self.has_other_etc;
        let users = self.users.as_ref().filter(|_| is_known)?;
        match users.iter().find(|(known, _)| **known == **name)?.1? {
            0 => Some(User::Root),
            uid => Some(User::Uid(uid)),
        }
    }

    /// What keeps a rule from saying that all is well; a part of a sentence.
    fn doubt(&self) -> Option<String> {
        match self.problems.first() {
            _ if self.waiting > 0 => {
                Some(format!("has {} of {} layers that were not looked at yet", self.waiting, self.layers))
            }
            Some((layer, problem)) => Some(format!("has a layer, number {layer}, that {}", problem.phrase())),
            None if self.is_cut => Some("has a layer that holds more than can be listed".to_owned()),
            None => None,
        }
    }

    fn verdict(&self, found: Option<String>, pass: &str) -> (Outcome, String) {
        match (found, self.doubt()) {
            (Some(found), _) => (Outcome::Fail, found),
            (None, Some(doubt)) => (Outcome::Unknown, doubt),
            (None, None) => (Outcome::Pass, pass.to_owned()),
        }
    }

    /// `no_secrets`, with what config and history hold.
    pub(super) fn no_secrets(&self, of_config: &[Secret]) -> (Outcome, String) {
        let of_config = of_config.iter().map(|secret| format!("{} in {}", secret.kind, secret.place));
        let of_layer = |leak: &LayerLeak| {
            let removed = if leak.is_removed { ", which a later one removes" } else { "" };
            format!("{} in {} of layer {}{removed}", leak.leak.kind, named(&leak.leak.path), leak.layer)
        };
        let all: Vec<String> = of_config.chain(self.secrets.iter().map(of_layer)).collect();
        let found = (!all.is_empty()).then(|| format!("holds {}", listed(&all)));
        self.verdict(found, "has no secret in its config, history and layers")
    }

    /// `minimal`.
    pub(super) fn minimal(&self) -> (Outcome, String) {
        let mut by_kind = BTreeMap::new();
        for tool in &self.tools {
            by_kind.entry(tool.kind).or_insert(&tool.path);
        }
        let all: Vec<String> =
            by_kind.iter().map(|(kind, path)| format!("{} ({})", kind.phrase(), named(path))).collect();
        let found = (!all.is_empty()).then(|| format!("has {}", all.join(", ")));
        self.verdict(found, "has no package manager, shell, downloader or compiler")
    }

    /// `no_setuid`.
    pub(super) fn no_setuid(&self) -> (Outcome, String) {
        let of = |what: &str, paths: &[String]| {
            let names: Vec<String> = paths.iter().map(|path| named(path)).collect();
            (!paths.is_empty()).then(|| format!("{what}: {}", listed(&names)))
        };
        let all = [
            of("files that are setuid or setgid", &self.setuid),
            of("files that every user may write", &self.writable),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        let found = (!all.is_empty()).then(|| format!("has {}", all.join(", and ")));
        self.verdict(found, "has no file that is setuid or setgid, or that every user may write")
    }
}

/// Whether a path, or a directory above it, was removed by a later layer.
fn is_removed(gone: &HashSet<&str>, path: &str) -> bool {
    let above = |at: usize| gone.contains(&path[..at]) || gone.contains(&path[..=at]);
    !gone.is_empty() && (gone.contains("") || gone.contains(path) || path.match_indices('/').any(|(at, _)| above(at)))
}

/// A path as a sentence shows it.
fn named(path: &str) -> String {
    if secrets::is_in_text(path) {
        return "a file whose name holds a credential".to_owned();
    }
    // It is ASCII.
    match path.len().checked_sub(SHOWN).and_then(|from| path.get(from..)) {
        Some(end) if path.len() > SHOWN => format!("...{end}"),
        _ => path.to_owned(),
    }
}

fn listed(all: &[String]) -> String {
    let mut listed: Vec<String> = all.iter().take(NAMED).cloned().collect();
    if all.len() > NAMED {
        listed.push(format!("{} more", all.len() - NAMED));
    }
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::layer::ToolKind;

    fn layer(change: impl FnOnce(&mut LayerFacts)) -> Option<Arc<LayerFacts>> {
        let mut facts = LayerFacts::default();
        change(&mut facts);
        Some(Arc::new(facts))
    }

    fn paths(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    fn leak(path: &str) -> Leak {
        Leak { kind: "an npm token".to_owned(), path: path.to_owned() }
    }

    #[test]
    fn a_secret_that_a_later_layer_removes_is_still_in_the_image() {
        let contents = Contents::of(&[
            layer(|facts| facts.secrets = vec![leak("app/.npmrc"), leak("etc/keep")]),
            layer(|facts| facts.removed = paths(&["app"])),
        ]);
        let (outcome, finding) = contents.no_secrets(&[]);
        let expected = "holds an npm token in app/.npmrc of layer 1, which a later one removes, an npm token in etc/keep of layer 1";
        assert_eq!((outcome, &*finding), (Outcome::Fail, expected));
        let clean = Contents::of(&[layer(|_| {})]);
        assert_eq!(clean.no_secrets(&[]).0, Outcome::Pass);
    }

    #[test]
    fn a_program_that_a_later_layer_removes_or_disarms_is_not_there() {
        let armed = || layer(|facts| facts.setuid = paths(&["usr/bin/su", "opt/x/run"]));
        let outcome = |upper: Option<Arc<LayerFacts>>| Contents::of(&[armed(), upper]).setuid;
        assert_eq!(outcome(layer(|_| {})), ["opt/x/run", "usr/bin/su"]);
        assert_eq!(outcome(layer(|facts| facts.plain = paths(&["usr/bin/su"]))), ["opt/x/run"]);
        for gone in ["opt/x/run", "opt/x", "opt", "opt/", "opt/x/"] {
            assert_eq!(outcome(layer(|facts| facts.removed = paths(&[gone]))), ["usr/bin/su"], "{gone}");
        }
        assert_eq!(outcome(layer(|facts| facts.removed = paths(&["op", "opt/xy", "opt/x/ru"]))).len(), 2);
        assert!(outcome(layer(|facts| facts.removed = paths(&[""]))).is_empty(), "the whole of it is opaque");
        // What a layer removes is below it, and not in it.
        let one = layer(|facts| (facts.setuid, facts.removed) = (paths(&["a/su"]), paths(&["a/"])));
        assert_eq!(Contents::of(&[one]).setuid, ["a/su"]);
        let tool = Tool { kind: ToolKind::Shell, path: "bin/sh".to_owned() };
        let contents = Contents::of(&[layer(|facts| facts.tools = vec![tool])]);
        assert_eq!(contents.minimal(), (Outcome::Fail, "has a shell (bin/sh)".to_owned()));
    }

    #[test]
    fn what_was_not_looked_at_or_could_not_be_read_is_unknown_and_what_was_found_before_counts() {
        let waiting = Contents::of(&[layer(|_| {}), None]);
        let expected = (Outcome::Unknown, "has 1 of 2 layers that were not looked at yet".to_owned());
        assert_eq!(
            [waiting.no_secrets(&[]), waiting.minimal(), waiting.no_setuid()],
            [(); 3].map(|()| expected.clone())
        );
        let broken = |more: fn(&mut LayerFacts)| {
            Contents::of(&[layer(|facts| {
                facts.problems.insert(Problem::EndsEarly);
                more(facts);
            })])
        };
        assert_eq!(
            broken(|_| {}).no_secrets(&[]),
            (Outcome::Unknown, "has a layer, number 1, that ends early".to_owned())
        );
        assert_eq!(broken(|facts| facts.secrets = vec![leak("a")]).no_secrets(&[]).0, Outcome::Fail);
        let cut = Contents::of(&[
            layer(|facts| facts.setuid = (0..MOST).map(|number| format!("a/{number}")).collect()),
            layer(|facts| facts.removed = paths(&["a"])),
        ]);
        assert_eq!(cut.no_setuid().0, Outcome::Unknown, "there may be more that was not removed");
    }

    #[test]
    fn a_user_by_name_is_who_the_uppermost_layer_says() {
        let users = |uid| layer(|facts| facts.users = Some(vec![("app".to_owned(), Some(uid))]));
        let resolve = |layers: &[Option<Arc<LayerFacts>>]| Contents::of(layers).resolve(&User::parse("app"));
        assert_eq!(resolve(&[users(7), layer(|_| {})]), Some(User::Uid(7)));
        assert_eq!(resolve(&[users(7), users(0)]), Some(User::Root));
        assert_eq!(resolve(&[users(7), None]), None);
        assert_eq!(resolve(&[users(7), layer(|facts| facts.users = Some(Vec::new()))]), None, "a later one removes it");
        assert_eq!(resolve(&[layer(|facts| facts.has_other_etc = true), users(7)]), None);
        assert_eq!(Contents::of(&[users(7)]).resolve(&User::parse("other")), None);
    }

    #[test]
    fn a_sentence_is_short_and_shows_no_credential() {
        let token = format!("ghp_{}", "aB3".repeat(12));
        let long = format!("a/{}", "b".repeat(5000));
        let contents = Contents::of(&[layer(|facts| {
            facts.secrets = vec![leak(&token), leak(&long)];
            facts.setuid = (0..50).map(|number| format!("a/{number}/{long}")).collect();
        })]);
        let said = contents.no_secrets(&[]).1 + &contents.no_setuid().1;
        assert!(said.len() < 1000 && !said.contains("aB3") && said.contains("47 more"), "{said}");
    }
}
