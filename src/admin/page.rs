//! `/`: what an operator wants to see first, without a script: the budget, the cache, the newest spends.

use actix_web::HttpResponse;
use std::fmt::Write;

use super::{State, budget::at};

pub(super) fn page(state: &State) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .body(render(state))
}

fn render(state: &State) -> String {
    let mut html = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Weir</title><h1>Weir</h1><h2>Budget</h2>",
    );
    html += "<table><tr><th>Upstream<th>Identity<th>Left<th>Spent<th>By others<th>Next pull back</tr>";
    for left in state.mirror.budget() {
        let account = left.identity.account.as_deref().unwrap_or("anonymous");
        let remaining = match (left.remaining, left.limit) {
            (Some(remaining), Some(limit)) => format!("{remaining} of {limit}"),
            _ => "unmetered".to_owned(),
        };
        row(
            &mut html,
            &[
                &left.identity.upstream,
                account,
                &remaining,
                &left.spent.to_string(),
                &left.external.to_string(),
                &left.next_at.map(at).unwrap_or_default(),
            ],
        );
    }
    let usage = state.mirror.usage();
    let _ = write!(
        html,
        "</table><p>The cache has saved {} pulls since the start.<h2>Cache</h2><p>{} blobs of {} bytes and {} manifests of {} bytes; {} bytes may be used.",
        state.mirror.saved(),
        usage.blobs,
        usage.blob_bytes,
        usage.manifests,
        usage.manifest_bytes,
        usage.capacity
    );
    html += "<h2>Newest spends</h2><table><tr><th>At<th>Who<th>Upstream<th>On what<th>Why<th>Left</tr>";
    for spend in state.mirror.spends(50) {
        let separator = if spend.reference.contains(':') { '@' } else { ':' };
        let what = format!("{}{separator}{}", spend.repository, spend.reference);
        let why = serde_json::to_value(spend.reason).ok();
        let remaining = spend.remaining.map(|remaining| remaining.to_string()).unwrap_or_default();
        let why = why.as_ref().and_then(|why| why.as_str()).unwrap_or_default();
        row(&mut html, &[&at(spend.at), &spend.client, &spend.upstream, &what, why, &remaining]);
    }
    html += "</table><p><a href=\"/api/v1/openapi.json\">API</a> · <a href=\"/metrics\">Metrics</a></html>\n";
    html
}

fn row(html: &mut String, cells: &[&str]) {
    html.push_str("<tr>");
    for cell in cells {
        html.push_str("<td>");
        html.push_str(&escape(cell));
    }
    html.push_str("</tr>");
}

/// Whatever comes from a client or an upstream is text.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_text() {
        let mut html = String::new();
        row(&mut html, &["<img src=x onerror=\"alert('1')\">", "a&b"]);
        assert_eq!(html, "<tr><td>&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;<td>a&amp;b</tr>");
    }
}
