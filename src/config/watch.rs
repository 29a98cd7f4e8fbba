//! Whether the files that a configuration was read from have changed since.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::Config;

/// The configuration file, the htpasswd file, lists of images, certificates and keys, also those of signatures, as they were at the last look.
#[derive(Debug)]
pub struct Watch(Vec<(PathBuf, Seen)>);

type Seen = Option<(SystemTime, u64)>;

impl Watch {
    /// Looks at the configuration file. To be called before it is read: an edit in between is then seen later.
    pub fn new(file: Option<&Path>) -> Watch {
        Watch(file.map(|file| (file.to_owned(), seen(file))).into_iter().collect())
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
        self.0.extend(files.map(|file| (file.clone(), seen(&file))));
    }

    /// Whether any of them is another one, or was written, since the last look. Costs a system call for each.
    pub fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for (file, before) in &mut self.0 {
            let now = seen(file);
            changed |= now != *before;
            *before = now;
        }
        changed
    }
}

fn seen(file: &Path) -> Seen {
    let about = std::fs::metadata(file).ok()?;
    Some((about.modified().ok()?, about.len()))
}
