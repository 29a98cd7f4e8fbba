//! A redis-server on a port of its own, which fails on demand. Debian's package `redis-server` has the program.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running server that keeps nothing on the disk. Dropping it ends the process.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens, also after a restart.
    pub address: SocketAddr,
    password: String,
    child: Child,
    directory: tempfile::TempDir,
}

impl Redis {
    /// Starts it, and waits until it listens. An empty password is none.
    ///
    /// # Errors
    /// When the program is not there, or does not listen.
    pub fn start(password: &str) -> io::Result<Redis> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let directory = tempfile::tempdir()?;
        let child = launch(address, password, &directory)?;
        Ok(Redis { address, password: password.to_owned(), child, directory })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it: connections are closed, and all that it held is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again, empty.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn restart(&mut self) -> io::Result<()> {
        // It may have been killed before.
        let _ = self.kill();
        self.child = launch(self.address, &self.password, &self.directory)?;
        Ok(())
    }

    /// Lets it take what is sent and answer nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends the pause.
    ///
    /// # Errors
    /// The system's.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

fn launch(address: SocketAddr, password: &str, directory: &tempfile::TempDir) -> io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(directory.path());
    if !password.is_empty() {
        command.args(["--requirepass", password]);
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("redis-server ended: {status}")));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            return Err(io::Error::other("redis-server does not listen"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}
