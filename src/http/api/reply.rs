//! The answer to a request, as a value.

use std::ops::Range;

use actix_http::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use bytes::Bytes;

use crate::{answer::CacheFacts, mirror::Reader};

/// The answer to a request. Headers that every answer has are added by the service.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    /// How it came about, with the warning that goes along: `X-Cache`, `Age`, `Warning`.
    pub(crate) cache: Option<CacheFacts>,
}

/// The content of a reply.
pub(crate) enum Content {
    /// None, and no length: 204 and 304.
    Empty,
    /// The length of what a GET would bring, in answer to a HEAD.
    Promised(u64),
    /// Few bytes, in memory; of their length alone when the request is a HEAD.
    Bytes(Bytes),
    /// These bytes of a blob, at least one.
    Blob(Reader, Range<u64>),
}

impl Reply {
    /// A reply without bytes.
    pub(crate) fn new(status: StatusCode) -> Reply {
        let content = match status {
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Content::Empty,
            _ => Content::Bytes(Bytes::new()),
        };
        Reply { status, headers: HeaderMap::with_capacity(12), content, cache: None }
    }

    /// 200 with JSON of this media type.
    pub(crate) fn json(media_type: &'static str, body: &serde_json::Value) -> Reply {
        let mut reply = Reply::new(StatusCode::OK);
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        reply.content = Content::Bytes(Bytes::from(body.to_string()));
        reply
    }

    /// Sets a header, unless the text cannot stand in one.
    pub(crate) fn set(&mut self, name: HeaderName, value: String) {
        if let Ok(value) = HeaderValue::try_from(value) {
            self.headers.append(name, value);
        }
    }
}
