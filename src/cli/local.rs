//! The local socket: where a running weir takes orders from this machine, past logins and throttles.
//!
//! A user that may open the file is an operator, so only its owner may.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

/// Binds it, in place of one that a killed process left behind.
///
/// # Errors
/// When another process listens there, and when the file system does not want it; a path has at most 107 bytes.
pub fn local_socket(path: &Path) -> io::Result<UnixListener> {
    if is_socket(path) {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes it at the end. What cannot be removed is replaced at the next start.
pub fn remove_socket(path: &Path) {
    if is_socket(path) {
        let _ = fs::remove_file(path);
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket())
}
