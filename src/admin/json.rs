//! JSON over HTTP: the parameters and bodies of requests, and answers.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long a body may take to arrive.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest body but for an import.
pub(super) const MAX_SMALL: usize = 64 << 10;

pub(super) fn reply(status: u16, body: &Value) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(status).unwrap_or_default();
    HttpResponse::build(status)
        .content_type("application/json")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .body(body.to_string())
}

/// An error in the shape that registry clients have, too.
pub(super) fn refuse(status: u16, code: &str, message: &str) -> HttpResponse {
    reply(status, &json!({"errors": [{"code": code, "message": message}]}))
}

/// The value of `key` in a query; the last one, when it is there twice.
pub(super) fn parameter(query: &str, key: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(name, value)| name == key && !value.is_empty())
        .last()
        .map(|(_, value)| value.into_owned())
}

/// A body of JSON.
pub(super) async fn read<T: DeserializeOwned>(payload: web::Payload, most: usize) -> Result<T, HttpResponse> {
    let bytes = body(payload, most).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = error.to_string();
        // What is wrong with a value is for people, who did not write the line and the column that serde_json adds.
        let end = if error.is_data() { message.rfind(" at line ") } else { None };
        refuse(400, "INVALID", &message[..end.unwrap_or(message.len())])
    })
}

/// The whole of a body that is no longer than this.
pub(super) async fn body(payload: web::Payload, most: usize) -> Result<Bytes, HttpResponse> {
    match tokio::time::timeout(BODY_TIMEOUT, payload.to_bytes_limited(most)).await {
        Ok(Ok(Ok(bytes))) => Ok(bytes),
        Ok(Err(_)) => Err(refuse(413, "SIZE_INVALID", "the body is too large")),
        Ok(Ok(Err(_))) | Err(_) => Err(refuse(408, "INVALID", "the body did not arrive")),
    }
}

/// How many entries are wanted.
pub(super) fn count(query: &str, default: usize, most: usize) -> Result<usize, Box<HttpResponse>> {
    match parameter(query, "n").map(|n| n.parse::<usize>()) {
        None => Ok(default),
        Some(Ok(count)) => Ok(count.min(most)),
        Some(Err(_)) => Err(Box::new(refuse(400, "INVALID", "n is a number: how many to list"))),
    }
}
