//! The registry under test: asked by path or by the `Location` it gave, with every answer looked at in passing.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use url::Url;

use super::{
    content::{CONFIG, IMAGE, LAYER, Manifest, descriptor, noise, sha256},
    form,
    tokens::Tokens,
};
use crate::{
    check::Failure,
    client::{Authorities, Client, Request, Response},
};

/// Redirects followed for one request.
const HOPS: usize = 5;

/// A registry, and a namespace in it that may be filled.
#[derive(Debug)]
pub struct Registry {
    base: Url,
    client: Client,
    authorities: Authorities,
    tokens: Tokens,
    namespace: String,
    /// Differs between two runs, so that a registry which kept its data is empty for this one.
    run: u64,
    serial: AtomicU64,
    complaints: Mutex<BTreeSet<String>>,
    judged: AtomicU64,
}

impl Registry {
    /// The registry at `base`, where `namespace` may be pushed to with these credentials. The error says why it cannot be reached.
    pub async fn new(
        base: Url,
        namespace: &str,
        credentials: Option<(String, String)>,
        authorities: Authorities,
    ) -> Result<Registry, String> {
        let client = Client::of(&base, &authorities).await.map_err(|e| e.to_string())?;
        let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Ok(Registry {
            base,
            client,
            tokens: Tokens::new(credentials, authorities.clone()),
            authorities,
            namespace: namespace.trim_matches('/').to_owned(),
            run,
            serial: AtomicU64::new(0),
            complaints: Mutex::default(),
            judged: AtomicU64::new(0),
        })
    }

    /// A repository that is new.
    pub(super) fn repository(&self) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (namespace, run) = (&self.namespace, self.run);
        let slash = if namespace.is_empty() { "" } else { "/" };
        format!("{namespace}{slash}r{run:x}-{serial}")
    }

    /// So many bytes that are new.
    pub(super) fn bytes(&self, length: usize) -> Vec<u8> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        noise(&format!("{}/{serial}", self.run), length)
    }

    /// What was wrong with answers so far, whatever they answered, and how many answers there were.
    pub(super) fn complaints(&self) -> (BTreeSet<String>, u64) {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (complaints, self.judged.load(Ordering::Relaxed))
    }

    /// Asks, with a login where one is wanted, and follows redirects of GET and HEAD. The target is a path, or a URL as it stood
    /// in a `Location`.
    pub(super) async fn ask(&self, request: Request) -> Result<Response, Failure> {
        let mut at = request.target.clone();
        let scope = scope_of(&self.base, &at);
        for _ in 0..HOPS {
            let (client, home, target) = self.place(&at).await?;
            let mut request = Request { target, ..request.clone() };
            if home && let Some(value) = self.tokens.header(&scope) {
                request = request.with("Authorization", value);
            }
            let mut answer = client.send(&request).await?;
            if home && answer.status() == 401 && self.tokens.answer(&answer, &scope).await? {
                request.headers.retain(|(name, _)| name != "Authorization");
                if let Some(value) = self.tokens.header(&scope) {
                    request = request.with("Authorization", value);
                }
                answer = client.send(&request).await?;
            }
            if home {
                self.judged.fetch_add(1, Ordering::Relaxed);
                let found = form::complaints(&request, &answer);
                self.complaints.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            }
            match answer.head.header("location") {
                Some(next)
                    if matches!(answer.status(), 301 | 302 | 303 | 307 | 308)
                        && matches!(request.method, "GET" | "HEAD") =>
                {
                    let here = self.base.join(&at).map_err(|e| format!("{at}: {e}"))?;
                    at = here.join(next).map_err(|e| format!("Location {next}: {e}"))?.into();
                }
                _ => return Ok(answer),
            }
        }
        Err(format!("{} {}: more than {HOPS} redirects", request.method, request.target).into())
    }

    /// Whom to ask for it, whether that is the registry itself, and by which path.
    async fn place(&self, target: &str) -> Result<(Client, bool, String), Failure> {
        if target.starts_with('/') && !target.starts_with("//") {
            return Ok((self.client.clone(), true, target.to_owned()));
        }
        let url = self.base.join(target).map_err(|e| format!("Location {target}: {e}"))?;
        let home = url.origin() == self.base.origin();
        let client = if home { self.client.clone() } else { Client::of(&url, &self.authorities).await? };
        let query = url.query().map_or(String::new(), |query| format!("?{query}"));
        Ok((client, home, format!("{}{query}", url.path())))
    }

    /// Asks, and wants one of these answers. A registry that takes no pushes is not judged by them.
    pub(super) async fn want(&self, wanted: &[u16], request: Request) -> Result<Response, Failure> {
        let (method, what) = (request.method, format!("{} {}", request.method, request.target));
        let answer = self.ask(request).await?;
        if method == "POST" && answer.status() == 405 && !wanted.contains(&405) {
            return Err(Failure::NotRun(format!("nothing can be pushed here: {}", answer.describe())));
        }
        if !wanted.contains(&answer.status()) {
            return Err(format!("{what}: wanted {wanted:?}, came {}", answer.describe()).into());
        }
        Ok(answer)
    }

    /// Begins an upload; where it goes on.
    pub(super) async fn open(&self, repository: &str) -> Result<String, Failure> {
        let request = Request::new("POST", uploads(repository)).body("");
        location(&self.want(&[202], request).await?)
    }

    /// Pushes a blob by POST and PUT; its sha256.
    pub(super) async fn blob(&self, repository: &str, bytes: &[u8]) -> Result<String, Failure> {
        let digest = sha256(bytes);
        let at = self.open(repository).await?;
        self.want(&[201], closing(&at, &digest).body(bytes)).await?;
        Ok(digest)
    }

    /// Pushes a manifest.
    pub(super) async fn put(
        &self,
        repository: &str,
        reference: &str,
        manifest: &Manifest,
    ) -> Result<Response, Failure> {
        self.want(&[201], putting(repository, reference, manifest)).await
    }

    /// The value of an image manifest over a config and a layer that are pushed for it, its media types not yet in it.
    pub(super) async fn parts(&self, repository: &str) -> Result<Value, Failure> {
        let (config, layer) = (self.bytes(100), self.bytes(1000));
        let config = descriptor(CONFIG, &self.blob(repository, &config).await?, config.len());
        let layer = descriptor(LAYER, &self.blob(repository, &layer).await?, layer.len());
        Ok(json!({ "config": config, "layers": [layer] }))
    }

    /// Pushes a whole image, by its digest or by a tag.
    pub(super) async fn image(&self, repository: &str, tag: Option<&str>) -> Result<Manifest, Failure> {
        let manifest = Manifest::of(IMAGE, self.parts(repository).await?);
        self.put(repository, tag.unwrap_or(&manifest.digest), &manifest).await?;
        Ok(manifest)
    }
}

/// A PUT of a manifest.
pub(super) fn putting(repository: &str, reference: &str, manifest: &Manifest) -> Request {
    let path = format!("/v2/{repository}/manifests/{reference}");
    Request::new("PUT", path).with("Content-Type", &*manifest.kind).body(&*manifest.bytes)
}

/// A GET of a manifest.
pub(super) fn manifest(repository: &str, reference: &str) -> Request {
    Request::get(format!("/v2/{repository}/manifests/{reference}")).accepting_manifests()
}

/// A GET of a blob.
pub(super) fn blob(repository: &str, digest: &str) -> Request {
    Request::get(format!("/v2/{repository}/blobs/{digest}"))
}

/// The same by another method.
pub(super) fn by(method: &'static str, request: Request) -> Request {
    Request { method, ..request }
}

/// Where uploads begin.
pub(super) fn uploads(repository: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/")
}

/// The PUT that ends an upload, still without its body.
pub(super) fn closing(at: &str, digest: &str) -> Request {
    let joint = if at.contains('?') { '&' } else { '?' };
    Request::new("PUT", format!("{at}{joint}digest={digest}")).with("Content-Type", "application/octet-stream")
}

/// A PATCH with the bytes that begin at `from`.
pub(super) fn chunk(at: &str, from: usize, bytes: &[u8]) -> Request {
    let range = format!("{from}-{}", from + bytes.len() - 1);
    Request::new("PATCH", at).with("Content-Type", "application/octet-stream").with("Content-Range", range).body(bytes)
}

/// The `Location` of an answer, which must have one.
pub(super) fn location(answer: &Response) -> Result<String, Failure> {
    let found = answer.head.header("location").filter(|value| !value.is_empty());
    found.map(str::to_owned).ok_or_else(|| format!("{} without a Location", answer.status()).into())
}

/// The scope a token for this target needs.
fn scope_of(base: &Url, target: &str) -> String {
    let path = base.join(target).map_or_else(|_| target.to_owned(), |url| url.path().to_owned());
    let ends = ["/manifests/", "/blobs/", "/tags/", "/referrers/"].iter().filter_map(|word| path.rfind(word));
    match (path.strip_prefix("/v2/"), ends.min()) {
        (Some(rest), Some(end)) => format!("repository:{}:pull,push,delete", &rest[..end - 4]),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_the_repository_of_the_path() {
        let base = Url::parse("https://registry.example/").unwrap();
        let scope = "repository:a/b:pull,push,delete";
        for target in [
            "/v2/a/b/manifests/latest",
            "/v2/a/b/blobs/uploads/?digest=x",
            "https://registry.example/v2/a/b/tags/list?n=1",
        ] {
            assert_eq!(scope_of(&base, target), scope);
        }
        assert_eq!(scope_of(&base, "/v2/"), "");
    }
}
