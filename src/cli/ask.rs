//! Asks the admin API of a running weir: the least HTTP/1.1 that does, over a blocking socket.
//!
//! The registry client (reqwest) is `upstream`'s alone, and a command that asks one question of its own server needs
//! no connection pool, no TLS and no redirects. The answer is bounded in size and in time, but for an archive, which is passed on as it comes.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use base64::Engine;
use clap::Args;
use serde_json::Value;

use super::say;
use crate::config::Config;

/// Where the running weir is, and who asks.
#[derive(Debug, Args)]
pub(super) struct Admin {
    /// Its admin listener, as http://HOST:PORT; as configured when absent
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// An `[[account]]` with role admin, or viewer to see, when the listener is not on loopback
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// The file that holds its password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
}

/// Where to ask, and how to print the answer.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// Print what the API answers, as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) admin: Admin,
}

impl Output {
    /// Prints an answer as it is, or what `text` makes of it.
    pub(super) fn print(&self, answer: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), String> {
        say(&if self.json { format!("{answer:#}\n") } else { text(answer) })
    }
}

/// A server to ask.
pub(super) struct Ask {
    authority: String,
    /// Asked instead, when it is there and no address was named.
    local: Option<PathBuf>,
    authorization: Option<String>,
}

/// A connection to the admin listener, or to its local socket.
trait Socket: Read + Write {}

impl<S: Read + Write> Socket for S {}

/// An answer that is longer is none of ours.
const LONGEST_ANSWER: u64 = 64 << 20;
/// Bytes that are sent at once.
const UPLOAD_PIECE: usize = 256 << 10;
/// A head that is longer is none of ours.
const LONGEST_HEAD: u64 = 64 << 10;
/// The API answers from memory; a minute is a server that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

impl Ask {
    pub(super) fn new(admin: &Admin, config: &Config) -> Result<Ask, String> {
        let is_named = admin.admin.is_some() || admin.user.is_some();
        let local = (!is_named).then(|| config.admin_socket()).filter(|path| path.exists());
        let url = match &admin.admin {
            Some(url) => url.clone(),
            // What listens on all addresses is reached on loopback from here.
            None if config.admin.listen.ip().is_unspecified() => {
                format!("http://127.0.0.1:{}", config.admin.listen.port())
            }
            None => format!("http://{}", config.admin.listen),
        };
        let authority = match url.strip_prefix("http://") {
            Some(rest) => rest.trim_end_matches('/').to_owned(),
            None => return Err(format!("{url}: write http://HOST:PORT; for TLS ask through a proxy or an ssh tunnel")),
        };
        let authorization = match (&admin.user, &admin.password_file) {
            (Some(user), Some(file)) => {
                let password = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
                let pair = format!("{user}:{}", password.trim_end_matches(['\r', '\n']));
                Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
            }
            _ => None,
        };
        Ok(Ask { authority, local, authorization })
    }

    /// The JSON answer, or the sentence that the server refused with.
    pub(super) fn json(&self, method: &str, path: &str) -> Result<Value, String> {
        self.send_json(method, path, String::new())
    }

    /// The same, with a body of JSON.
    pub(super) fn send_json(&self, method: &str, path: &str, body: String) -> Result<Value, String> {
        let answer = self.exchange(method, path, &body).map_err(|error| self.silent(&error))?;
        self.answered(path, &answer)
    }

    /// The JSON of a whole answer, or the sentence that the server refused with.
    fn answered(&self, path: &str, answer: &[u8]) -> Result<Value, String> {
        let (status, body) = split(answer).ok_or_else(|| format!("http://{} does not speak HTTP", self.authority))?;
        let json: Value = serde_json::from_slice(body).map_err(|_| {
            format!("http://{}{path} answered {status} without JSON: not an admin listener", self.authority)
        })?;
        if matches!(status, 200..=202) {
            return Ok(json);
        }
        let message = json["errors"][0]["message"].as_str().unwrap_or("no reason given");
        Err(format!("weir answered {status}: {message}"))
    }

    /// A body that is not JSON, of any length: its length, when the server says it, and a reader of it.
    ///
    /// # Errors
    /// The sentence that the server refused with.
    pub(super) fn download(&self, path: &str) -> Result<(Option<u64>, impl Read + use<>), String> {
        let (authorization, authority) = (self.authorization(), &self.authority);
        let begin = || -> std::io::Result<_> {
            let mut socket = self.connect()?;
            write!(socket, "GET {path} HTTP/1.0\r\nHost: {authority}\r\n{authorization}Accept: */*\r\n\r\n")?;
            let mut reader = BufReader::new(socket);
            let head = read_head(&mut reader)?;
            Ok((head, reader))
        };
        let (head, reader) = begin().map_err(|error| self.silent(&error))?;
        let Some((200, _)) = split(head.as_bytes()) else {
            let mut answer = head.into_bytes();
            reader.take(LONGEST_ANSWER).read_to_end(&mut answer).map_err(|error| self.silent(&error))?;
            return Err(self
                .answered(path, &answer)
                .err()
                .unwrap_or_else(|| "it answered without an archive".to_owned()));
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
        });
        Ok((length, reader))
    }

    /// Sends a body of any length, as it is read, and gives the JSON answer.
    ///
    /// # Errors
    /// The sentence that the server refused with; that the body cannot be read.
    pub(super) fn upload(&self, path: &str, content_type: &str, body: &mut dyn Read) -> Result<Value, String> {
        let (authorization, authority) = (self.authorization(), &self.authority);
        let mut socket = self.connect().map_err(|error| self.silent(&error))?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\n{authorization}Accept: application/json\r\nConnection: close\r\n\
             Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let mut sent = socket.write_all(head.as_bytes());
        let mut buffer = vec![0; UPLOAD_PIECE];
        while sent.is_ok() {
            let count = body.read(&mut buffer).map_err(|error| format!("cannot be read: {error}"))?;
            let size = format!("{count:x}\r\n");
            sent = [size.as_bytes(), &buffer[..count], b"\r\n"].iter().try_for_each(|piece| socket.write_all(piece));
            if count == 0 {
                break;
            }
        }
        // A server that refuses may say so before it has read everything.
        let mut answer = Vec::new();
        let read = socket.take(LONGEST_ANSWER).read_to_end(&mut answer);
        match (sent, read) {
            (Err(error), _) | (_, Err(error)) if answer.is_empty() => Err(self.silent(&error)),
            _ => self.answered(path, &answer),
        }
    }

    fn silent(&self, error: &std::io::Error) -> String {
        let authority = &self.authority;
        format!("no weir answers on http://{authority}: {error}; is it running, and is that its admin listener?")
    }

    fn connect(&self) -> std::io::Result<Box<dyn Socket>> {
        if let Some(local) = &self.local
            && let Ok(socket) = UnixStream::connect(local)
        {
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            return Ok(Box::new(socket));
        }
        let address = self.authority.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Box::new(socket))
    }

    fn authorization(&self) -> String {
        self.authorization.as_ref().map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default()
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<Vec<u8>> {
        let mut socket = self.connect()?;
        let authorization = self.authorization();
        let authority = &self.authority;
        let content = match (method, body.len()) {
            ("GET", 0) => String::new(),
            (_, length) => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
        };
        // HTTP/1.0, so that no answer comes in chunks.
        write!(
            socket,
            "{method} {path} HTTP/1.0\r\nHost: {authority}\r\n{authorization}Accept: application/json\r\n{content}\r\n{body}"
        )?;
        let mut answer = Vec::new();
        socket.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// The head of an answer with the empty line behind it.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<String> {
    let (mut head, mut reader) = (String::new(), reader.take(LONGEST_HEAD));
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// Status and body.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut words = head.strip_prefix("HTTP/1.")?.split(' ');
    let status = words.nth(1)?.get(..3)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

/// `debian:12` as `repository=debian&reference=12`. What comes after the last colon is a reference unless a slash follows,
/// which is a registry's port; `@` separates a digest.
pub(super) fn repository_and_reference(image: &str) -> String {
    let (repository, reference) = split_reference(image);
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("repository", repository);
    if let Some(reference) = reference {
        query.append_pair("reference", reference);
    }
    query.finish()
}

/// The repository of an image as people write it, and its tag or digest.
pub(super) fn split_reference(image: &str) -> (&str, Option<&str>) {
    match image.split_once('@') {
        Some((repository, digest)) => (repository, Some(digest)),
        None => match image.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (image, None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_repository_and_maybe_a_reference() {
        for (image, query) in [
            ("busybox", "repository=busybox"),
            ("debian:12", "repository=debian&reference=12"),
            ("localhost:5000/app", "repository=localhost%3A5000%2Fapp"),
            ("localhost:5000/app:1", "repository=localhost%3A5000%2Fapp&reference=1"),
            ("ghcr.io/a/b@sha256:00", "repository=ghcr.io%2Fa%2Fb&reference=sha256%3A00"),
        ] {
            assert_eq!(repository_and_reference(image), query);
        }
    }

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        assert_eq!(split(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}"), Some((200, &b"{}"[..])));
        assert_eq!(split(b"HTTP/1.0 403\r\n\r\n"), Some((403, &b""[..])));
        for bad in [&b""[..], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n"] {
            assert_eq!(split(bad), None);
        }
    }
}
