//! Whether the files that a configuration was read from have changed since.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::Config;

/// The configuration file, the htpasswd file, certificates and keys, as they were when somebody last looked.
#[derive(Debug)]
pub struct Watch(Vec<(PathBuf, Seen)>);

type Seen = Option<(SystemTime, u64)>;

impl Watch {
    /// Looks at all files of this configuration, which was read from `file` if from any.
    pub fn new(file: Option<&Path>, config: &Config) -> Watch {
        let tls = config.server.tls.iter().chain(config.listener.iter().filter_map(|listener| listener.tls.as_ref()));
        let tls = tls.flat_map(|tls| [tls.cert.clone(), tls.key.clone()]);
        let files = file.map(Path::to_owned).into_iter().chain([config.server.htpasswd.clone()]).chain(tls);
        Watch(files.filter(|file| !file.as_os_str().is_empty()).map(|file| (file.clone(), seen(&file))).collect())
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
