//! Tag lists and referrers: pages of the same origin, merged.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderValue};

use super::Upstream;
use crate::oci::{Digest, MediaType, Name, OCI_IMAGE_INDEX, Tag};
use crate::upstream::{
    encoding,
    error::Error,
    identity::Identity,
    link::{self, Next},
    metrics::Operation,
    request::Request,
};

/// Pages followed, and entries kept. A listing that goes on is cut here, with a line in the log.
const MAX_PAGES: usize = 100;
const MAX_ENTRIES: usize = 100_000;
/// Bytes of one page.
const LONGEST: usize = 16 * 1024 * 1024;
/// Entries asked for at once; ECR refuses more (go-containerregistry #1091).
const PAGE: usize = 1000;

impl Upstream {
    /// All pages, at most 100 and 100,000 tags, in byte order; what is no tag is left out (end-8).
    ///
    /// # Errors
    /// [`Error::Malformed`] when the pages go round in a circle or lead to another origin.
    pub async fn tags(&self, identity: &Identity, repository: &Name) -> Result<Vec<String>, Error> {
        let path = format!("{repository}/tags/list?n={PAGE}");
        let mut tags = BTreeSet::new();
        self.pages(Operation::Tags, identity, repository, &path, None, |bytes| {
            let listed = entries(bytes, "tags")?.into_iter().filter_map(|tag| Some(tag.as_str()?.to_owned()));
            tags.extend(listed.filter(|tag| tag.parse::<Tag>().is_ok()));
            while tags.len() > MAX_ENTRIES {
                tags.pop_last();
            }
            Some(tags.len())
        })
        .await?;
        Ok(tags.into_iter().collect())
    }

    /// The referrers index as upstream has it, all pages merged, or `None` when upstream does not offer the API (end-12): it answers
    /// 400, 404, 405, 406, 410, 415, 422 or 501, a page for people, or JSON of another type.
    ///
    /// # Errors
    /// As [`Upstream::tags`]; [`Error::Malformed`] for what says that it is an OCI index and is none.
    pub async fn referrers(
        &self,
        identity: &Identity,
        repository: &Name,
        digest: &Digest,
    ) -> Result<Option<Vec<serde_json::Value>>, Error> {
        let path = format!("{repository}/referrers/{digest}");
        let mut descriptors = Vec::new();
        let outcome = self
            .pages(Operation::Referrers, identity, repository, &path, Some(OCI_IMAGE_INDEX), |bytes| {
                let objects = entries(bytes, "manifests")?.into_iter().filter(serde_json::Value::is_object);
                descriptors.extend(objects.take(MAX_ENTRIES - descriptors.len()));
                Some(descriptors.len())
            })
            .await;
        match outcome {
            Ok(Pages::All) => Ok(Some(descriptors)),
            Ok(Pages::OtherType) | Err(Error::NotFound | Error::Status(400 | 405 | 406 | 410 | 415 | 422 | 501)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads page after page; `take` says how many entries there are so far, or `None` for what is no page.
    async fn pages(
        &self,
        operation: Operation,
        identity: &Identity,
        repository: &Name,
        path: &str,
        media_type: Option<&'static str>,
        mut take: impl FnMut(&Bytes) -> Option<usize>,
    ) -> Result<Pages, Error> {
        let malformed = |what: &str| Error::Malformed(what.into());
        let endpoint = &self.inner.exchange.endpoint;
        let (base, query) = path.split_once('?').unwrap_or((path, ""));
        let mut query = query.to_owned();
        let mut seen = HashSet::new();
        for page in 0..MAX_PAGES {
            if !seen.insert(query.clone()) {
                return Err(malformed("pages that go round in a circle"));
            }
            let accept = Some(HeaderValue::from_static(media_type.unwrap_or("application/json")));
            let path = if query.is_empty() { base.to_owned() } else { format!("{base}?{query}") };
            let request = Request { accept, ..Request::new(operation, identity, repository, path) };
            let mut reply = match self.inner.exchange.send(request).await {
                // Registries bound `n` differently, and some refuse what is beyond their bound.
                Err(Error::Status(_)) if query.starts_with("n=") && page < 2 => {
                    query = if page == 0 { "n=100".to_owned() } else { String::new() };
                    continue;
                }
                reply => reply?,
            };
            let headers = reply.response.headers().clone();
            let next = link::next(&headers);
            let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let said: Option<MediaType> = said.and_then(|text| text.parse().ok());
            if media_type.is_some_and(|wanted| said.is_none_or(|said| said.as_str() != wanted)) {
                return Ok(Pages::OtherType);
            }
            let bytes = endpoint.transport.body(&mut reply.response, LONGEST).await?;
            drop(reply);
            // A listing has no digest that would tell whether a coding encodes anything; what can be read tells.
            let readings = encoding::readings(&headers, bytes, LONGEST);
            let entries = readings.iter().find_map(&mut take).ok_or_else(|| malformed("a listing that is none"))?;
            match next {
                Next::End => return Ok(Pages::All),
                Next::Unreadable => return Err(malformed("a link to a next page that names no page")),
                Next::Query(_) if entries >= MAX_ENTRIES => break,
                Next::Query(next) => query = next,
            }
        }
        tracing::warn!(upstream = %self.inner.settings.name, %repository, kind = ?operation, "a listing is too long and was cut");
        Ok(Pages::All)
    }
}

/// The entries of a page: none when the field is null or absent, and of two with its name the last. `None` for what is no page.
fn entries(bytes: &[u8], field: &str) -> Option<Vec<serde_json::Value>> {
    match serde_json::from_slice(bytes).ok()? {
        serde_json::Value::Object(mut page) => match page.remove(field) {
            None | Some(serde_json::Value::Null) => Some(Vec::new()),
            Some(serde_json::Value::Array(entries)) => Some(entries),
            Some(_) => None,
        },
        _ => None,
    }
}

/// What the pages of a listing were.
enum Pages {
    All,
    /// A success of another type than was asked for.
    OtherType,
}
