//! Whole pulls in the shapes real clients give them, every byte checked against the digest that named it.
//!
//! What a pull costs upstream depends on how the client asks. containerd and dockerd resolve a tag by HEAD and then GET by digest;
//! podman and everything built on containers/image GET the tag itself, every time; a digest-pinned deployment never names a tag. A
//! mirror that is cheap for one shape only is not a mirror, so checks name the shape they use.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};

use super::Client;
use crate::client::{request::Request, response::Response};

/// How a client asks for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// HEAD tag, then GET by the digest it named: containerd, BuildKit, CRI.
    HeadFirst,
    /// `GET /v2/`, HEAD tag, GET by digest: dockerd.
    Docker,
    /// `GET /v2/`, then GET the tag, no HEAD: podman, CRI-O, skopeo.
    TagGet,
    /// GET by digest and nothing else: pinned deployments.
    DigestOnly,
}

impl Shape {
    /// As the table prints it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::HeadFirst => "HEAD first (containerd)",
            Shape::Docker => "docker",
            Shape::TagGet => "tag GET (podman)",
            Shape::DigestOnly => "digest only",
        }
    }
}

/// A pull that succeeded; every digest was verified.
#[derive(Clone, Debug)]
pub struct Pull {
    /// What the tag named: an index or a manifest.
    pub digest: String,
    /// Digests of config and layers, in the manifest's order.
    pub blobs: Vec<String>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// When the first byte of the first layer came.
    pub first_layer_byte: Option<Instant>,
    /// From the first request to the last byte.
    pub total: Duration,
    /// Values of `Warning` headers met on the way.
    pub warnings: Vec<String>,
}

impl Client {
    /// Pulls `repository` for linux/amd64. `reference` is a tag, or a digest for [`Shape::DigestOnly`]. The error is a sentence that
    /// says which request went wrong and what came.
    pub async fn pull(&self, repository: &str, reference: &str, shape: Shape) -> Result<Pull, String> {
        let start = Instant::now();
        let mut warnings = Vec::new();
        if matches!(shape, Shape::Docker | Shape::TagGet) {
            let ping = self.send(&Request::get("/v2/")).await.map_err(|e| format!("GET /v2/: {e}"))?;
            if !matches!(ping.status(), 200 | 401) {
                return Err(format!("GET /v2/: {}", ping.describe()));
            }
        }
        let reference = match shape {
            Shape::HeadFirst | Shape::Docker => self.resolve(repository, reference, &mut warnings).await?,
            Shape::TagGet | Shape::DigestOnly => reference.to_owned(),
        };
        let (digest, mut body) = self.verified_manifest(repository, &reference, &mut warnings).await?;
        if body.get("manifests").is_some_and(serde_json::Value::is_array) {
            let platform = platform_digest(&body).ok_or("the index names no linux/amd64 manifest")?;
            (_, body) = self.verified_manifest(repository, &platform, &mut warnings).await?;
        }
        let blobs = manifest_children(&body);
        if blobs.is_empty() {
            return Err(format!("the manifest of {repository} names no blobs: {body}"));
        }
        let mut pulls = stream::iter(blobs.clone())
            .map(|blob| async move { self.verified_blob(repository, &blob).await })
            .buffered(3);
        let (mut bytes, mut first_layer_byte) = (0, None);
        let mut at = 0;
        while let Some(answer) = pulls.next().await {
            let answer = answer?;
            bytes += answer.length;
            if at == 1 {
                first_layer_byte = answer.timing.first_byte_at();
            }
            at += 1;
        }
        Ok(Pull { digest, blobs, bytes, first_layer_byte, total: start.elapsed(), warnings })
    }

    async fn resolve(&self, repository: &str, tag: &str, warnings: &mut Vec<String>) -> Result<String, String> {
        let what = format!("HEAD {repository}:{tag}");
        let answer = self.head_manifest(repository, tag).await.map_err(|e| format!("{what}: {e}"))?;
        if answer.status() != 200 {
            return Err(format!("{what}: {}", answer.describe()));
        }
        collect_warnings(&answer, warnings);
        if answer.head.content_length().is_none() {
            return Err(format!("{what}: no Content-Length"));
        }
        answer.head.digest().map(str::to_owned).ok_or(format!("{what}: no Docker-Content-Digest"))
    }

    /// GET a manifest; its bytes must hash to the digest that named it, or else to what the answer says they are.
    async fn verified_manifest(
        &self,
        repository: &str,
        reference: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(String, serde_json::Value), String> {
        let what = format!("GET {repository} manifest {}", short(reference));
        let answer = self.get_manifest(repository, reference).await.map_err(|e| format!("{what}: {e}"))?;
        if !answer.complete() {
            return Err(format!("{what}: {}", answer.describe()));
        }
        collect_warnings(&answer, warnings);
        let named = if reference.starts_with("sha256:") { Some(reference) } else { answer.head.digest() };
        match named {
            Some(named) if named == answer.sha256 => Ok((answer.sha256.clone(), answer.json())),
            Some(named) => Err(format!("{what}: named {named}, came {}", answer.sha256)),
            None => Err(format!("{what}: no Docker-Content-Digest")),
        }
    }

    async fn verified_blob(&self, repository: &str, digest: &str) -> Result<Response, String> {
        let what = format!("GET {repository} blob {}", short(digest));
        let answer = self.get_blob(repository, digest).await.map_err(|e| format!("{what}: {e}"))?;
        if answer.status() != 200 || !answer.complete() {
            return Err(format!("{what}: {}", answer.describe()));
        }
        if answer.sha256 != digest {
            return Err(format!("{what}: a complete body of {} bytes that is {}", answer.length, answer.sha256));
        }
        Ok(answer)
    }
}

/// Config and layers of a manifest, without repeats.
pub fn manifest_children(manifest: &serde_json::Value) -> Vec<String> {
    let config = manifest.pointer("/config/digest").into_iter();
    let layers =
        manifest.get("layers").and_then(|l| l.as_array()).into_iter().flatten().filter_map(|l| l.get("digest"));
    let mut out: Vec<String> = Vec::new();
    for digest in config.chain(layers).filter_map(|d| d.as_str()) {
        if !out.iter().any(|have| have == digest) {
            out.push(digest.to_owned());
        }
    }
    out
}

fn platform_digest(index: &serde_json::Value) -> Option<String> {
    let entries = index.get("manifests")?.as_array()?;
    let ours = entries.iter().find(|entry| {
        entry.pointer("/platform/architecture").and_then(|a| a.as_str()) == Some("amd64")
            && entry.pointer("/platform/os").and_then(|o| o.as_str()) == Some("linux")
    })?;
    ours.get("digest")?.as_str().map(str::to_owned)
}

fn collect_warnings(answer: &Response, into: &mut Vec<String>) {
    into.extend(answer.head.header("warning").map(str::to_owned));
}

/// Digests are printed by their first twelve digits.
fn short(reference: &str) -> &str {
    match reference.split_once(':') {
        Some((_, hex)) if hex.len() == 64 => &hex[..12],
        _ => reference,
    }
}
