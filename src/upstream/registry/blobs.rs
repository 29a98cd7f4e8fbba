//! Blobs: how large they are, and their bytes from anywhere on.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue},
};

use super::Upstream;
use crate::oci::{Digest, Name};
use crate::upstream::{
    body::Body,
    encoding::{self, Decoder},
    error::Error,
    identity::Identity,
    metrics::Operation,
    request::Request,
};

/// Bytes of a body that are read before the blob is begun, when its size or its coding cannot be told otherwise.
const LOOK_AHEAD: usize = 4 << 20;
/// And what those may decode to.
const LONGEST_DECODED: usize = 16 << 20;
/// As much of a body tells whether it can be decoded.
const PROBE: usize = 512;

impl Upstream {
    /// Whether the repository has the blob, and its size in bytes, `None` when upstream does not say (end-2). A GET, whose body is
    /// dropped, decides where a registry answers the HEAD with 400, 405 or 406, refuses what a manifest of the repository names
    /// (`named`), or says 404 where it counts no pulls: proxy caches do so for what they have not cached. GETs of blobs are not counted.
    ///
    /// # Errors
    /// As [`Upstream::get_blob`].
    pub async fn head_blob(
        &self,
        identity: &Identity,
        repository: &Name,
        digest: &Digest,
        named: bool,
    ) -> Result<Option<u64>, Error> {
        match self.head_blob_only(identity, repository, digest).await {
            Err(Error::HeadRefused | Error::Status(_)) => {}
            Err(Error::NotFound | Error::Denied) if named => {}
            Err(Error::NotFound) if self.is_unmetered(identity) => {}
            answer => return answer,
        }
        Ok(self.get_blob(identity, repository, digest, 0, None).await?.size)
    }

    async fn head_blob_only(
        &self,
        identity: &Identity,
        repository: &Name,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let reply = self.inner.exchange.send(blob(Operation::BlobHead, identity, repository, digest, None)).await?;
        Ok(size(reply.response.headers()).filter(|_| reply.response.status().is_success()))
    }

    /// From `from` on, to `to` (exclusive) when given. Redirects are walked anew each time: signed CDN addresses expire (end-2).
    ///
    /// # Errors
    /// [`Error::Malformed`] when the reply is of another range, shorter than `from`, or the part of an encoded body.
    pub async fn get_blob(
        &self,
        identity: &Identity,
        repository: &Name,
        digest: &Digest,
        from: u64,
        to: Option<u64>,
    ) -> Result<Body, Error> {
        let range = match to {
            Some(to) => Some(format!("bytes={from}-{}", to.saturating_sub(1).max(from))),
            None if from > 0 => Some(format!("bytes={from}-")),
            None => None,
        };
        let range = range.and_then(|range| HeaderValue::from_str(&range).ok());
        let reply = self.inner.exchange.send(blob(Operation::BlobGet, identity, repository, digest, range)).await?;
        let headers = reply.response.headers();
        let malformed = |what: &str| Error::Malformed(what.into());
        let transport = self.inner.exchange.endpoint.transport.clone();
        let counter = self.inner.exchange.metrics.received(&self.inner.exchange.upstream);
        let body = |size, start, open| {
            let (ahead, decoder, waited, received) = (Bytes::new(), None, Duration::ZERO, 0);
            Body { size, start, ahead, decoder, open, transport, waited, received, counter }
        };
        match reply.response.status() {
            StatusCode::OK => Ok(body(size(headers), 0, Some((reply.response, reply.permits)))),
            // Nothing would tell what a part of an encoded body decodes to.
            StatusCode::PARTIAL_CONTENT if to.is_some() && encoding::coding(headers).is_some() => {
                Err(malformed("a range of an encoded body"))
            }
            StatusCode::PARTIAL_CONTENT => match content_range(headers) {
                Some((Some((first, last)), total))
                    if first == from && number(headers).is_none_or(|n| n == last - first + 1) =>
                {
                    Ok(body(total, from, Some((reply.response, reply.permits))))
                }
                _ => Err(malformed("another range than was asked for")),
            },
            // RFC 9110 section 15.5.17: nothing lies behind the end, which for a whole partial file is just what is hoped for.
            StatusCode::RANGE_NOT_SATISFIABLE => match content_range(headers) {
                Some((None, Some(total))) if total == from => Ok(body(Some(total), from, None)),
                _ => Err(malformed("a blob that is shorter than what was had of it")),
            },
            status => Err(Error::Status(status.as_u16())),
        }
    }

    /// As [`Upstream::get_blob`] of the whole blob, decoded if it has to be, with its size: what upstream says, else what a manifest
    /// says (`named`), else what can be read of it at once, else what its HEAD says. Where nothing does (RFC 9112 section 6.3),
    /// the body is read once to count its bytes and asked for again.
    ///
    /// # Errors
    /// As [`Upstream::get_blob`].
    pub async fn get_whole_blob(
        &self,
        identity: &Identity,
        repository: &Name,
        digest: &Digest,
        named: Option<u64>,
    ) -> Result<Body, Error> {
        let mut body = self.get_blob(identity, repository, digest, 0, None).await?;
        let headers = body.headers();
        if encoding::coding(&headers).is_some() && !settle(&mut body, &headers, digest, named).await? {
            // A layer that is compressed by itself can be decoded, too. How many bytes come tells which of the two has the size.
            let received = count(body).await?;
            body = self.get_blob(identity, repository, digest, 0, None).await?;
            if let Some(size) = named.filter(|size| received != *size) {
                body.decoder = Decoder::new(&body.headers(), size);
            }
        }
        body.size = body.size.or(named);
        if body.size.is_some() {
            return Ok(body);
        }
        if body.look_ahead(LOOK_AHEAD).await? {
            body.size = Some(body.ahead.len() as u64);
            return Ok(body);
        }
        // Some servers send a length of zero with every HEAD.
        if let Ok(Some(size @ 1..)) = self.head_blob_only(identity, repository, digest).await {
            body.size = Some(size);
            return Ok(body);
        }
        let size = count(body).await?;
        let mut body = self.get_blob(identity, repository, digest, 0, None).await?;
        body.size.get_or_insert(size);
        Ok(body)
    }
}

/// Finds out whether a body that has a Content-Encoding is encoded: what is short enough to be read at once by the digest, what is
/// longer by the size that its manifest says. Returns whether it could, which is not so when upstream does not say how much comes.
async fn settle(body: &mut Body, headers: &HeaderMap, digest: &Digest, named: Option<u64>) -> Result<bool, Error> {
    let said = number(headers);
    if body.look_ahead(LOOK_AHEAD).await? {
        let readings = encoding::readings(headers, body.ahead.clone(), LONGEST_DECODED);
        if let Some(content) = readings.into_iter().find(|content| digest.algorithm().digest(content) == *digest) {
            (body.size, body.ahead) = (Some(content.len() as u64), content);
            return Ok(true);
        }
    }
    body.size = said;
    if let Some(size) = named.filter(|size| said != Some(*size))
        && let Some(mut trial) = Decoder::new(headers, size)
    {
        trial.give(body.ahead.slice(..body.ahead.len().min(PROBE)));
        if trial.next().is_ok() {
            if said.is_none() {
                return Ok(false);
            }
            (body.size, body.decoder) = (Some(size), Decoder::new(headers, size));
        }
    }
    Ok(true)
}

/// How many bytes a body has.
async fn count(mut body: Body) -> Result<u64, Error> {
    let mut size = 0;
    while let Some(bytes) = body.next().await? {
        size += bytes.len() as u64;
    }
    Ok(size)
}

fn blob<'a>(
    operation: Operation,
    identity: &'a Identity,
    repository: &'a Name,
    digest: &Digest,
    range: Option<HeaderValue>,
) -> Request<'a> {
    Request { range, ..Request::new(operation, identity, repository, format!("{repository}/blobs/{digest}")) }
}

/// The size of what a body stands for, if that is what Content-Length counts.
fn size(headers: &HeaderMap) -> Option<u64> {
    number(headers).filter(|_| encoding::coding(headers).is_none())
}

fn number(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

type Range = (Option<(u64, u64)>, Option<u64>);

/// `bytes 5-9/20` → first, last and total; either half may be `*` (RFC 9110 section 14.4).
fn content_range(headers: &HeaderMap) -> Option<Range> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim();
    let (unit, rest) = text.split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    if range == "*" {
        return Some((None, total));
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && total.is_none_or(|total| last < total)).then_some((Some((first, last)), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_or_refused() {
        for (text, expected) in [
            ("bytes 5-9/20", Some((Some((5, 9)), Some(20)))),
            ("Bytes 0-0/*", Some((Some((0, 0)), None))),
            ("bytes */20", Some((None, Some(20)))),
            ("bytes 9-5/20", None),
            ("bytes 5-20/20", None),
            ("bytes 5-9", None),
            ("lines 5-9/20", None),
            ("bytes -5-9/20", None),
            ("bytes 5-99999999999999999999/20", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(text));
            assert_eq!(content_range(&headers), expected, "{text}");
        }
    }
}
