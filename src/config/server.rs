//! `[server]`: where the registry listens and how it stops.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, Network, OneOrMany, Span, tls::Tls};
use crate::http::Origin;

/// The registry's listener, and the bounds on clients that connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Addresses to listen on.
    pub listen: OneOrMany<SocketAddr>,
    /// Proxies whose forwarded headers are believed.
    pub trusted_proxies: Vec<Network>,
    /// A request header that may carry `name:password` of an account; none when empty.
    pub token_header: String,
    /// A file of more users, with bcrypt or Argon2id hashes; none when empty.
    pub htpasswd: PathBuf,
    /// Origins whose pages may use the registry from a browser.
    pub cors: Vec<Origin>,
    /// How long bodies under way may take after SIGTERM.
    pub drain: Span,
    /// Threads that serve; 0 is one per core.
    pub workers: usize,
    /// Connections open at once.
    pub connections: usize,
    /// Connections open at once of one client; an eighth of `connections` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_client: Option<usize>,
    /// From the first byte of a request to the end of its head.
    pub head_timeout: Span,
    /// How long an idle connection is kept.
    pub keep_alive: Span,
    /// How long an answer may make no progress.
    pub write_stall: Span,
    /// How long the body of a request may bring next to nothing before it is cut.
    pub body_stall: Span,
    /// Serve TLS on `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: OneOrMany(vec![SocketAddr::from(([127, 0, 0, 1], 5000))]),
            trusted_proxies: Vec::new(),
            token_header: String::new(),
            htpasswd: PathBuf::new(),
            cors: Vec::new(),
            drain: Span::seconds(30),
            workers: 0,
            connections: 8192,
            connections_per_client: None,
            head_timeout: Span::seconds(5),
            keep_alive: Span::seconds(75),
            write_stall: Span::seconds(30),
            body_stall: Span::seconds(30),
            tls: None,
        }
    }
}

impl Server {
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        if self.listen.0.is_empty() {
            errors.push(ConfigError::without_value(
                "server.listen",
                r#"name at least one address, such as "127.0.0.1:5000""#,
            ));
        }
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if !self.token_header.chars().all(token) {
            errors.push(ConfigError::new(
                "server.token_header",
                &self.token_header,
                r#"not a header name; write one such as "X-Weir-Token""#,
            ));
        }
        if self.workers > 512 {
            errors.push(ConfigError::new("server.workers", self.workers, "write at most 512; 0 is one per core"));
        }
        if self.connections == 0 {
            errors.push(ConfigError::new("server.connections", 0, "no client could connect; write 1 or more"));
        }
        if let Some(most) = self.connections_per_client
            && !(1..=self.connections).contains(&most)
        {
            errors.push(ConfigError::new(
                "server.connections_per_client",
                most,
                format!("write 1 or more, at most server.connections, which is {}", self.connections),
            ));
        }
        for (key, span) in [
            ("server.head_timeout", self.head_timeout),
            ("server.keep_alive", self.keep_alive),
            ("server.write_stall", self.write_stall),
            ("server.body_stall", self.body_stall),
        ] {
            if span < Span::seconds(1) {
                errors.push(ConfigError::new(key, span.to_string(), r#"too short for a network; write "1s" or more"#));
            }
        }
        if let Some(tls) = &self.tls
            && let Err(error) = tls.load("server.tls")
        {
            errors.push(error);
        }
    }

    /// Connections open at once of one client.
    pub(super) fn connections_per_client(&self) -> usize {
        self.connections_per_client.unwrap_or(self.connections.div_ceil(8))
    }

    /// Threads that serve.
    pub(super) fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }
}
