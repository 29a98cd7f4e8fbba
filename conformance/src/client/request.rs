//! One request, as it is sent.

/// One request. Nothing is added to it but `Host` and what frames its body.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: &'static str,
    /// Path and query, sent as they stand: a check may send what no library would.
    pub target: String,
    /// Further headers, in order.
    pub headers: Vec<(String, String)>,
    /// What follows them.
    pub body: Body,
}

/// The body of a request, and how it says where it ends.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// No body, and not a word about it.
    #[default]
    None,
    /// `Content-Length` and so many bytes.
    Bytes(Vec<u8>),
    /// `Transfer-Encoding: chunked`, a chunk for each.
    Chunked(Vec<Vec<u8>>),
}

impl Request {
    /// A request without headers.
    pub fn new(method: &'static str, target: impl Into<String>) -> Request {
        Request { method, target: target.into(), headers: Vec::new(), body: Body::None }
    }
    /// A GET.
    pub fn get(target: impl Into<String>) -> Request {
        Request::new("GET", target)
    }
    /// A HEAD.
    pub fn head(target: impl Into<String>) -> Request {
        Request::new("HEAD", target)
    }
    /// The same with one more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Request {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
    /// The same with a body of known length.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Request {
        self.body = Body::Bytes(bytes.into());
        self
    }
    /// The same with every manifest media type in `Accept`, as container clients send them.
    pub fn accepting_manifests(self) -> Request {
        self.with("Accept", MANIFEST_TYPES)
    }
    /// The same for a range of bytes, as in `bytes=0-99`.
    pub fn range(self, range: impl Into<String>) -> Request {
        self.with("Range", range)
    }
}

/// What containerd sends, in its order.
pub const MANIFEST_TYPES: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, */*";
