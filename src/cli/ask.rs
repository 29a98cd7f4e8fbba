//! Asks the admin API of a running weir: the least HTTP/1.1 that does, over a blocking socket.
//!
//! The registry client (reqwest) is `upstream`'s alone, and a command that asks one question of its own server needs
//! no connection pool, no TLS and no redirects. The answer is bounded in size and in time.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use base64::Engine;
use clap::Args;
use serde_json::Value;

use crate::config::Config;

/// Where the running weir is, and who asks.
#[derive(Debug, Args)]
pub(super) struct Admin {
    /// Its admin listener, as http://HOST:PORT; as configured when absent
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// An `[[account]]` with role admin, when the listener is not on loopback
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// The file that holds its password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
}

/// A server to ask.
pub(super) struct Ask {
    authority: String,
    /// Asked instead, when it is there and no address was named.
    local: Option<PathBuf>,
    authorization: Option<String>,
}

/// An answer that is longer is none of ours.
const LONGEST_ANSWER: u64 = 64 << 20;
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
        let answer = self.send(method, path, &body).map_err(|error| {
            format!(
                "no weir answers on http://{}: {error}; is it running, and is that its admin listener?",
                self.authority
            )
        })?;
        let (status, body) = split(&answer).ok_or_else(|| format!("http://{} does not speak HTTP", self.authority))?;
        let json: Value = serde_json::from_slice(body).map_err(|_| {
            format!("http://{}{path} answered {status} without JSON: not an admin listener", self.authority)
        })?;
        if matches!(status, 200..=202) {
            return Ok(json);
        }
        let message = json["errors"][0]["message"].as_str().unwrap_or("no reason given");
        Err(format!("weir answered {status}: {message}"))
    }

    fn send(&self, method: &str, path: &str, body: &str) -> std::io::Result<Vec<u8>> {
        if let Some(local) = &self.local
            && let Ok(socket) = UnixStream::connect(local)
        {
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            return self.exchange(socket, method, path, body);
        }
        let address = self.authority.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        self.exchange(socket, method, path, body)
    }

    fn exchange(
        &self,
        mut socket: impl Read + Write,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<Vec<u8>> {
        let authorization =
            self.authorization.as_ref().map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
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
