//! Whether the files that a configuration was read from have changed since.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::Config;

/// The configuration file, the htpasswd file, lists of images, certificates and keys, also those of signatures: what they were when they
/// were read, and at the last look.
///
/// An editor or a script that writes a file in place empties it first. A look at that moment would find a configuration without upstreams,
/// which is a valid one. So a change counts when two looks in a row have found the same.
#[derive(Debug)]
pub struct Watch(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    file: PathBuf,
    read: Seen,
    last: Seen,
}

/// When it was written and how long it is; nothing when there is none.
type Seen = Option<(SystemTime, u64)>;

impl Watch {
    /// Looks at the configuration file. To be called before it is read: an edit in between is then seen later.
    pub fn new(file: Option<&Path>) -> Watch {
        Watch(file.map(Watched::new).into_iter().collect())
    }

    /// Looks at the files that the configuration names, before they are read.
    pub fn add(&mut self, config: &Config) {
        let tls = config.server.tls.iter().chain(&config.admin.tls);
        let tls = tls.chain(config.listener.iter().filter_map(|listener| listener.tls.as_ref()));
        let tls = tls.flat_map(|tls| [tls.cert.clone(), tls.key.clone()]);
        let upstreams = config.upstream.iter();
        let upstreams = upstreams.flat_map(|upstream| [&upstream.ca_file, &upstream.client_cert, &upstream.client_key]);
        let tls = tls.chain(upstreams.flatten().cloned());
        let lists = config.warm.iter().map(|table| table.file.clone());
        let signed = config.policy.iter().flat_map(|table| &table.signed).flat_map(|source| source.files());
        let lists = lists.chain(signed.map(PathBuf::from));
        let files =
            tls.chain(lists).chain([config.server.htpasswd.clone()]).filter(|file| !file.as_os_str().is_empty());
        self.0.extend(files.map(|file| Watched::new(&file)));
    }

    /// Whether any of them is another one, or was written, since they were read, and none has changed since the last look. Says so once for
    /// each change. Costs a system call for each.
    pub fn has_changed(&mut self) -> bool {
        let mut settled = true;
        for watched in &mut self.0 {
            let now = seen(&watched.file);
            settled &= now == watched.last;
            watched.last = now;
        }
        let changed = settled && self.0.iter().any(|watched| watched.last != watched.read);
        if changed {
            self.0.iter_mut().for_each(|watched| watched.read = watched.last);
        }
        changed
    }
}

impl Watched {
    fn new(file: &Path) -> Watched {
        let now = seen(file);
        Watched { file: file.to_owned(), read: now, last: now }
    }
}

fn seen(file: &Path) -> Seen {
    let about = std::fs::metadata(file).ok()?;
    Some((about.modified().ok()?, about.len()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_that_is_written_in_place_counts_when_it_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let [file, list] = ["weir.toml", "list"].map(|name| directory.path().join(name));
        std::fs::write(&file, "[server]\n").unwrap();
        std::fs::write(&list, "one\n").unwrap();
        let mut watch = Watch::new(Some(&file));
        watch.0.push(Watched::new(&list));
        assert!(!watch.has_changed());

        let mut writer = std::fs::File::create(&file).unwrap();
        assert!(!watch.has_changed(), "it is empty for the moment");
        writer.write_all(b"[server]\n[admin]\n").unwrap();
        assert!(!watch.has_changed(), "it is still being written");
        std::fs::write(&list, "one\ntwo\n").unwrap();
        assert!(!watch.has_changed(), "another file is being written");
        assert!(watch.has_changed());
        assert!(!watch.has_changed(), "it was said already");

        std::fs::remove_file(&file).unwrap();
        assert!(!watch.has_changed());
        std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:5000\"\n").unwrap();
        assert!(!watch.has_changed());
        assert!(watch.has_changed());
    }
}
