//! Credentials from a file, as the AWS programs write it: the profile `default`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use object_store::{CredentialProvider, aws::AwsCredential};

/// How long a file is believed: what rotates it is not waited for longer.
const REREAD: Duration = Duration::from_secs(60);

/// The credentials of a file, which is read again once a minute. A file that cannot be read leaves the last ones in force.
#[derive(Debug)]
pub(crate) struct FileCredentials {
    path: PathBuf,
    // Held while the file is read, which is small.
    last: Mutex<(Instant, Arc<AwsCredential>)>,
}

impl FileCredentials {
    /// # Errors
    /// What is wrong with the file, and what to do about it. Holds nothing of its content.
    pub(crate) fn open(path: PathBuf) -> Result<FileCredentials, String> {
        let first = read(&path)?;
        Ok(FileCredentials { path, last: Mutex::new((Instant::now(), Arc::new(first))) })
    }
}

#[async_trait]
impl CredentialProvider for FileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.elapsed() >= REREAD {
            last.0 = Instant::now();
            match read(&self.path) {
                Ok(found) => last.1 = Arc::new(found),
                Err(error) => tracing::warn!(path = %self.path.display(), error, "the last credentials stay in force"),
            }
        }
        Ok(last.1.clone())
    }
}

fn read(path: &Path) -> Result<AwsCredential, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{error}; name a readable file"))?;
    parse(&text).ok_or_else(|| {
        "it has no aws_access_key_id and aws_secret_access_key under [default]; write both, each on a line of its own".to_owned()
    })
}

fn parse(text: &str) -> Option<AwsCredential> {
    // What stands before any section is of the default one.
    let (mut is_default, mut key_id, mut secret_key, mut token) = (true, None, None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_default = section.trim() == "default";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| is_default) {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match name.trim() {
                "aws_access_key_id" => key_id = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(AwsCredential { key_id: key_id?, secret_key: secret_key?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_read_and_no_other() {
        let text =
            "# ours\n[other]\naws_access_key_id = X\n[default]\naws_access_key_id = AKIA1\naws_secret_access_key=s=e\n";
        let found = parse(text).unwrap();
        assert_eq!((&*found.key_id, &*found.secret_key, found.token), ("AKIA1", "s=e", None));
        assert!(parse("[default]\naws_access_key_id = AKIA1\naws_secret_access_key =\n").is_none());
        assert!(parse("[other]\naws_access_key_id = A\naws_secret_access_key = B\n").is_none());
    }
}
