//! Requests to the services of a cloud: bounded, timed, never redirected. Metadata services are asked directly, all others by the way
//! out of the upstream.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Method, RequestBuilder, redirect};

use crate::upstream::{
    proxy::Proxies,
    transport::{Transport, cause, way_out},
};

/// For the whole of one request, and to connect.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of an answer.
const MAX_BODY: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Services {
    proxies: Arc<Proxies>,
}

/// The body of a success.
#[derive(Debug)]
pub(super) struct Answer {
    from: String,
    pub(super) body: String,
}

impl Answer {
    /// # Errors
    /// When it is no JSON.
    pub(super) fn json(&self) -> Result<serde_json::Value, String> {
        serde_json::from_str(&self.body).map_err(|_| format!("{} gives no JSON", self.from))
    }

    /// One field of a JSON object.
    ///
    /// # Errors
    /// When it is no text or is not there.
    pub(super) fn text(&self, field: &str) -> Result<String, String> {
        let value = self.json()?;
        value[field].as_str().map(ToOwned::to_owned).ok_or_else(|| format!("{} gives no {field}", self.from))
    }
}

impl Services {
    pub(super) fn new(transport: &Transport) -> Services {
        Services { proxies: transport.proxies.clone() }
    }

    /// Asks a metadata service.
    ///
    /// # Errors
    /// Where, and what it answered.
    pub(super) async fn metadata(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Answer, String> {
        let client = client(None)?;
        let request =
            headers.iter().fold(client.request(method, url), |request, (name, value)| request.header(*name, *value));
        send(url, request).await
    }

    /// Posts a form (`application/x-www-form-urlencoded`).
    ///
    /// # Errors
    /// As [`Services::metadata`].
    pub(super) async fn form(&self, url: &str, pairs: &[(&str, &str)]) -> Result<Answer, String> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        self.post(url, &[("content-type", "application/x-www-form-urlencoded".to_owned())], body).await
    }

    /// Posts a body.
    ///
    /// # Errors
    /// As [`Services::metadata`].
    pub(super) async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Result<Answer, String> {
        let client = client(Some(self.proxies.clone()))?;
        let request = headers.iter().fold(client.post(url), |request, (name, value)| request.header(*name, value));
        send(url, request.body(body)).await
    }
}

/// Credentials are asked for once in hours, so a client is made for each request.
fn client(proxies: Option<Arc<Proxies>>) -> Result<Client, String> {
    let builder = Client::builder()
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT);
    let builder = match proxies {
        Some(proxies) => builder.proxy(way_out(proxies)),
        None => builder,
    };
    builder.build().map_err(|error| cause(&error))
}

async fn send(url: &str, request: RequestBuilder) -> Result<Answer, String> {
    let from = url.split('?').next().unwrap_or_default().to_owned();
    let mut response = request.send().await.map_err(|error| format!("{from}: {}", cause(&error)))?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("{from} answers {status}"));
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| format!("{from}: {}", cause(&error)))? {
        if body.len() + piece.len() > MAX_BODY {
            return Err(format!("{from} answers more than {MAX_BODY} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    let body = String::from_utf8(body).map_err(|_| format!("{from} gives no text"))?;
    Ok(Answer { from, body })
}

/// A variable of the environment that is set and not empty.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
