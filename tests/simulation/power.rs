//! What a directory is after its process was killed, and after the power was cut.
//!
//! A kill leaves the directory as it is. A power cut leaves of each file and of each directory at least what was synced, and of
//! all that was written since any part, by the seed: names that came or went, bytes at the end, a file without its bytes. No
//! file system loses more, most lose less.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use weir_storage::Faults;

use super::random::Random;

/// What is below a directory: the bytes of each file, `None` for a directory.
pub(super) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Sled writes its files itself. They may be lost at any time, so that a cut leaves any part of them.
const INDEX: &str = "index";

/// An entry of a directory. An open file keeps its inode from being given to another.
#[derive(Clone)]
struct Entry {
    inode: u64,
    /// `None` for a directory.
    file: Option<Arc<File>>,
}

type Listing = BTreeMap<String, Entry>;

#[derive(Default)]
struct Synced {
    /// The bytes of files, by inode. The file is kept open for the same reason.
    files: HashMap<u64, (Arc<File>, Vec<u8>)>,
    directories: HashMap<PathBuf, Listing>,
}

impl Synced {
    fn note(&mut self, path: &Path) {
        // A file that is gone again was synced for nothing.
        let Ok(metadata) = fs::metadata(path) else { return };
        if metadata.is_dir() {
            self.directories.insert(path.to_owned(), list(path));
        } else if let Ok(file) = File::open(path) {
            let bytes = whole(&file);
            self.files.insert(metadata.ino(), (Arc::new(file), bytes));
        }
    }

    fn note_all(&mut self, path: &Path) {
        self.note(path);
        for name in list(path).into_keys().filter(|name| name != INDEX) {
            let below = path.join(name);
            if below.is_dir() { self.note_all(&below) } else { self.note(&below) }
        }
    }

    /// What is left of `path`, which is `relative` to the root.
    fn cut(&self, path: &Path, relative: &Path, random: &mut Random, into: &mut Tree) {
        let (now, nothing) = (list(path), Listing::new());
        let kept = self.directories.get(path).unwrap_or(&nothing);
        let mut names: Vec<&String> = now.keys().chain(kept.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (kept, now) = (kept.get(name), now.get(name));
            let same = matches!((kept, now), (Some(kept), Some(now)) if kept.inode == now.inode);
            let Some(entry) = (if same || random.below(2) == 0 { now } else { kept }) else { continue };
            let (below, relative) = (path.join(name), relative.join(name));
            match &entry.file {
                None if relative == Path::new(INDEX) => {}
                None => {
                    into.insert(relative.clone(), None);
                    self.cut(&below, &relative, random, into);
                }
                Some(file) => {
                    let synced = self.files.get(&entry.inode).map(|(_, bytes)| bytes);
                    into.insert(relative, Some(torn(whole(file), synced, random)));
                }
            }
        }
    }
}

fn list(path: &Path) -> Listing {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let entry = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        let file = if metadata.is_dir() { None } else { Some(Arc::new(File::open(entry.path()).ok()?)) };
        Some((entry.file_name().into_string().ok()?, Entry { inode: metadata.ino(), file }))
    };
    entries.filter_map(entry).collect()
}

fn whole(file: &File) -> Vec<u8> {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; length as usize];
    let count = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(count);
    bytes
}

/// The bytes of a file of which only `synced` is certain.
fn torn(now: Vec<u8>, synced: Option<&Vec<u8>>, random: &mut Random) -> Vec<u8> {
    let kept = synced.map_or(0, |synced| if now.starts_with(synced) { synced.len() } else { now.len() });
    match (synced, random.below(4)) {
        (Some(synced), _) if *synced == now => now,
        (_, 0) => now,
        (Some(synced), 1) => synced.clone(),
        (_, 2) => {
            // The length came to the disk and the bytes did not.
            let zeros = vec![0; now.len() - kept];
            [&now[..kept], &zeros].concat()
        }
        _ => {
            let some = random.below((now.len() - kept) as u64 + 1) as usize;
            now[..kept + some].to_vec()
        }
    }
}

/// Watches what a store syncs.
pub(super) struct Power {
    root: PathBuf,
    synced: Arc<Mutex<Synced>>,
    faults: Faults,
}

impl Power {
    /// All that is in the directory counts as synced.
    pub(super) fn watch(root: &Path, faults: &Faults) -> Power {
        let mut synced = Synced::default();
        synced.note_all(root);
        let synced = Arc::new(Mutex::new(synced));
        let noted = synced.clone();
        faults.after_sync(move |path| noted.lock().unwrap().note(path));
        Power { root: root.to_owned(), synced, faults: faults.clone() }
    }

    /// The directory as the process leaves it that is killed now.
    pub(super) fn kill(&self) -> Tree {
        self.faults.fail_all(5);
        // A call that was under way may still end; it is of one moment when it is twice the same.
        let mut before = Tree::new();
        loop {
            let mut now = Tree::new();
            copy(&self.root, Path::new(""), &mut now);
            if before == now {
                copy(&self.root.join(INDEX), Path::new(INDEX), &mut now);
                return now;
            }
            before = now;
        }
    }

    /// The directory as it is when the power is back.
    pub(super) fn cut(&self, random: &mut Random) -> Tree {
        let mut index: Tree = self.kill().into_iter().filter(|(path, _)| path.starts_with(INDEX)).collect();
        let mut tree = Tree::new();
        self.synced.lock().unwrap().cut(&self.root, Path::new(""), random, &mut tree);
        match random.below(3) {
            0 => index.clear(),
            1 => index.values_mut().flatten().for_each(|bytes| bytes.truncate(bytes.len() / 2)),
            _ => {}
        }
        tree.extend(index);
        tree
    }
}

fn copy(path: &Path, relative: &Path, into: &mut Tree) {
    if !relative.as_os_str().is_empty() {
        into.insert(relative.to_owned(), None);
    }
    for (name, entry) in list(path) {
        let relative = relative.join(&name);
        match entry.file {
            Some(file) => drop(into.insert(relative, Some(whole(&file)))),
            None if relative == Path::new(INDEX) => {}
            None => copy(&path.join(name), &relative, into),
        }
    }
}

/// Makes a directory that holds this.
pub(super) fn lay_out(tree: &Tree, root: &Path) {
    fs::create_dir_all(root).unwrap();
    for (path, bytes) in tree {
        match bytes {
            None => fs::create_dir_all(root.join(path)).unwrap(),
            Some(bytes) => fs::write(root.join(path), bytes).unwrap(),
        }
    }
}
