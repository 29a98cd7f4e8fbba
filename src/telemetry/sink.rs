//! Where lines are written: standard error, a file, or the system's log.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::{fs::OpenOptionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
};

/// Facility `local0`, severity `info` (RFC 5424 section 6.2.1).
const PRIORITY: u8 = 16 * 8 + 6;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    /// Standard error.
    Stderr,
    /// A file, which another program may move away; `None` when it could not be opened anew.
    File(PathBuf, Option<File>),
    /// The datagram socket of a syslog daemon, a line a datagram.
    Syslog(PathBuf, Option<UnixDatagram>),
}

impl Sink {
    /// Appends to this file, which is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn file(path: &Path) -> io::Result<Sink> {
        Ok(Sink::File(path.to_owned(), Some(open(path)?)))
    }

    /// Sends to this socket.
    ///
    /// # Errors
    /// When nothing listens there.
    pub(super) fn syslog(path: &Path) -> io::Result<Sink> {
        Ok(Sink::Syslog(path.to_owned(), Some(connect(path)?)))
    }

    /// Opens it once more, under the same name. What fails is tried again with the next lines.
    pub(super) fn reopen(&mut self) {
        match self {
            Sink::Stderr => {}
            Sink::File(_, file) => *file = None,
            Sink::Syslog(_, socket) => *socket = None,
        }
        // An empty file under the old name is what a rotating program waits for.
        let _ = self.write(&[]);
    }

    /// Writes whole lines.
    ///
    /// # Errors
    /// What the system says; some of the lines may have been written.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stderr => io::stderr().lock().write_all(lines),
            Sink::File(path, file) => {
                let open = file.take().map_or_else(|| open(path), Ok)?;
                let written = (&open).write_all(lines);
                *file = Some(open);
                written
            }
            Sink::Syslog(path, socket) => {
                let open = socket.take().map_or_else(|| connect(path), Ok)?;
                for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let mut message = format!("<{PRIORITY}>weir[{}]: ", std::process::id()).into_bytes();
                    message.extend_from_slice(line);
                    // A daemon that was started again has another socket under this name.
                    open.send(&message)?;
                }
                *socket = Some(open);
                Ok(())
            }
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::Stderr => f.write_str("standard error"),
            Sink::File(path, _) | Sink::Syslog(path, _) => path.display().fmt(f),
        }
    }
}

/// The owner and the group read it, and no other user: it says which client pulls what.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}
