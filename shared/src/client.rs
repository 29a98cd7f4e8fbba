//! One request to the bucket at a time, each with an end. Knows keys and bytes, and not what they are for.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use object_store::{
    BackoffConfig, Certificate, ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt as _,
    PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use weir_storage::setting::ConfigError;

use crate::{credentials::FileCredentials, error::Error, settings::S3};

/// A part of an upload. S3 takes 10,000 of them and wants at least 5 MiB, so blobs may have 78 GiB.
pub(crate) const PART: usize = 8 << 20;

/// How long a part, or the end of an upload, may take: a slow line takes a part in a minute.
const PART_TIMEOUT: Duration = Duration::from_secs(60);

/// A bucket without a memory of how it did. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    store: Arc<AmazonS3>,
    prefix: Arc<str>,
    timeout: Duration,
}

/// A small object, and the version of it that a later update names.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) version: Version,
}

/// What an update replaces: the version that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version(pub(crate) Option<String>);

/// An object as it arrives.
pub(crate) struct Stream {
    /// Bytes of the whole object.
    pub(crate) size: u64,
    /// Offset of the first byte that comes.
    pub(crate) start: u64,
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    timeout: Duration,
}

/// A large object on its way to the bucket. Nothing is under its key before it is complete.
pub(crate) struct Parts(Box<dyn MultipartUpload>);

impl Client {
    /// Sends no request yet.
    ///
    /// # Errors
    /// Files that cannot be read, and what the library does not understand.
    pub(crate) fn open(settings: &S3) -> Result<Client, ConfigError> {
        // The program installs it too; the first of the two stays, and both are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let no_retries =
            RetryConfig { max_retries: 0, retry_timeout: settings.timeout, backoff: BackoffConfig::default() };
        // The library's own time-out would end the stream of a blob that takes long. HTTP/1.1, as towards upstreams: one slow blob does
        // not hold up another on the same connection.
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(settings.connect_timeout)
            .with_http1_only()
            .with_allow_http(settings.endpoint.starts_with("http:"));
        if !settings.ca_file.as_os_str().is_empty() {
            let wrong = |why: String| ConfigError::new("shared.s3.ca_file", &settings.ca_file, why);
            let pem =
                std::fs::read(&settings.ca_file).map_err(|error| wrong(format!("{error}; name a readable file")))?;
            let certificates = Certificate::from_pem_bundle(&pem).ok().filter(|found| !found.is_empty());
            let none = || wrong("it holds no certificate; name a PEM file".to_owned());
            for certificate in certificates.ok_or_else(none)? {
                options = options.with_root_certificate(certificate);
            }
        }
        let mut builder = AmazonS3Builder::from_env()
            .with_region(&settings.region)
            .with_bucket_name(&settings.bucket)
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_client_options(options)
            .with_disable_bulk_delete(true)
            .with_retry(no_retries);
        if !settings.endpoint.is_empty() {
            builder = builder.with_endpoint(endpoint(settings));
        }
        if !settings.credentials_file.as_os_str().is_empty() {
            let wrong = |why: String| ConfigError::new("shared.s3.credentials_file", &settings.credentials_file, why);
            let credentials = FileCredentials::open(settings.credentials_file.clone()).map_err(wrong)?;
            builder = builder.with_credentials(Arc::new(credentials));
        }
        let store = builder.build().map_err(|error| {
            let fix = format!("{}; look at the AWS_* variables, too", Error::of(&error));
            ConfigError::without_value("shared.s3", fix)
        })?;
        let prefix = if settings.prefix.is_empty() { String::new() } else { format!("{}/", settings.prefix) };
        Ok(Client { store: Arc::new(store), prefix: prefix.into(), timeout: settings.timeout })
    }

    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn path(&self, key: &str) -> Result<Path, Error> {
        // `Path::from` would encode what is encoded already.
        Path::parse(format!("{}{key}", self.prefix)).map_err(|_| Error::Malformed("a key that is none"))
    }

    /// The object, when it is there and has at most `most` bytes.
    pub(crate) async fn get(&self, key: &str, most: u64) -> Result<Option<Object>, Error> {
        let path = self.path(key)?;
        let get = async {
            let found = match self.store.get(&path).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                found => found.map_err(|error| Error::of(&error))?,
            };
            if found.meta.size > most {
                return Err(Error::Malformed("it is larger than anything that is written there"));
            }
            let (size, version) = (found.meta.size, Version(found.meta.e_tag.clone()));
            let bytes = found.bytes().await.map_err(|error| Error::of(&error))?;
            match bytes.len() as u64 == size {
                true => Ok(Some(Object { bytes, version })),
                false => Err(Error::Malformed("it is shorter than it says")),
            }
        };
        self.within(self.timeout, get).await
    }

    /// The size of an object in bytes, when it is there.
    pub(crate) async fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        let path = self.path(key)?;
        let head = async {
            match self.store.head(&path).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(Error::of(&error)),
            }
        };
        self.within(self.timeout, head).await
    }

    /// The object from this offset on, when it is there.
    pub(crate) async fn stream(&self, key: &str, from: u64) -> Result<Option<Stream>, Error> {
        let path = self.path(key)?;
        let range = (from > 0).then_some(GetRange::Offset(from));
        let open = async {
            match self.store.get_opts(&path, GetOptions { range, ..GetOptions::default() }).await {
                Ok(found) => Ok(Some(Stream {
                    size: found.meta.size,
                    start: found.range.start,
                    pieces: found.into_stream(),
                    timeout: self.timeout,
                })),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(Error::of(&error)),
            }
        };
        self.within(self.timeout, open).await
    }

    /// Writes a key that is not there.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is. Of one that was not answered nothing is known.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Version, Error> {
        self.put(key, bytes, PutMode::Create).await
    }

    /// Replaces what was read.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is another one by now.
    pub(crate) async fn update(&self, key: &str, bytes: Bytes, version: Version) -> Result<Version, Error> {
        self.put(key, bytes, PutMode::Update(UpdateVersion { e_tag: version.0, version: None })).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<Version, Error> {
        let path = self.path(key)?;
        let limit = if bytes.len() > 64 << 10 { PART_TIMEOUT } else { self.timeout };
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = async {
            let put = self.store.put_opts(&path, PutPayload::from(bytes), options).await;
            put.map(|put| Version(put.e_tag)).map_err(|error| Error::of(&error))
        };
        self.within(limit, put).await
    }

    pub(crate) async fn begin(&self, key: &str) -> Result<Parts, Error> {
        let path = self.path(key)?;
        let begin = async { self.store.put_multipart(&path).await.map(Parts).map_err(|error| Error::of(&error)) };
        self.within(self.timeout, begin).await
    }

    /// A further part; all but the last have [`PART`] bytes.
    pub(crate) async fn append(&self, parts: &mut Parts, bytes: Bytes) -> Result<(), Error> {
        let part = parts.0.put_part(PutPayload::from(bytes));
        self.within(PART_TIMEOUT, async { part.await.map_err(|error| Error::of(&error)) }).await
    }

    pub(crate) async fn complete(&self, parts: &mut Parts) -> Result<(), Error> {
        let complete = async { parts.0.complete().await.map(drop).map_err(|error| Error::of(&error)) };
        self.within(PART_TIMEOUT, complete).await
    }

    /// Lets the store forget the parts; where it is away, the bucket's own rule does.
    pub(crate) async fn abort(&self, parts: &mut Parts) -> Result<(), Error> {
        let abort = async { parts.0.abort().await.map_err(|error| Error::of(&error)) };
        self.within(self.timeout, abort).await
    }

    /// Copies within the store.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        let copy = async { self.store.copy(&from, &to).await.map_err(|error| Error::of(&error)) };
        self.within(PART_TIMEOUT, copy).await
    }

    /// Removes a key, there or not.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), Error> {
        let path = self.path(key)?;
        let remove = async {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(Error::of(&error)),
            }
        };
        self.within(self.timeout, remove).await
    }

    async fn within<T>(&self, limit: Duration, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let late = || Error::Unreachable(format!("no answer within {limit:?}").into());
        tokio::time::timeout(limit, request).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Stream {
    /// The next piece, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(self.timeout, self.pieces.next()).await {
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(Some(Err(error))) => Err(Error::of(&error)),
            Ok(None) => Ok(None),
            Err(_) => Err(Error::Unreachable(format!("no further byte within {:?}", self.timeout).into())),
        }
    }
}

/// The endpoint as the library wants it: with the bucket before the host where it does not stand in the path.
fn endpoint(settings: &S3) -> String {
    let endpoint = settings.endpoint.trim_end_matches('/');
    match endpoint.split_once("://") {
        Some((scheme, host)) if !settings.path_style => format!("{scheme}://{}.{host}", settings.bucket),
        _ => endpoint.to_owned(),
    }
}
