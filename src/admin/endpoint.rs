//! The endpoints for programs, as one table.

use crate::limits::{Access, permit::RequestKind};

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Health,
    Ready,
    Metrics,
    Status,
    History,
    Budget,
    WhatIf,
    Spends,
    Explain,
    CachedImages,
    CachedImage,
    CachedRegistries,
    CachedRepositories,
    Purge,
    Refresh,
    Pins,
    Pin,
    Unpin,
    ExportImages,
    ImportImages,
    RepositoryRules,
    ImageReport,
    Policies,
    Findings,
    KeepScan,
    Warms,
    Warm,
    OneWarm,
    CancelWarm,
    Verify,
    Verification,
    Clients,
    Throttles,
    Switch,
    Bans,
    Ban,
    Export,
    Import,
    OneBan,
    Lift,
    Audit,
    OpenApi,
}

/// Method, path as actix's router reads it, and endpoint.
pub(super) const ROUTES: [(&str, &str, Endpoint); 42] = [
    ("GET", "/healthz", Endpoint::Health),
    ("GET", "/readyz", Endpoint::Ready),
    ("GET", "/metrics", Endpoint::Metrics),
    ("GET", "/api/v1/status", Endpoint::Status),
    ("GET", "/api/v1/history", Endpoint::History),
    ("GET", "/api/v1/budget", Endpoint::Budget),
    ("GET", "/api/v1/budget/what-if", Endpoint::WhatIf),
    ("GET", "/api/v1/spends", Endpoint::Spends),
    ("GET", "/api/v1/explain", Endpoint::Explain),
    ("GET", "/api/v1/cache", Endpoint::CachedImages),
    ("DELETE", "/api/v1/cache", Endpoint::Purge),
    ("GET", "/api/v1/cache/image", Endpoint::CachedImage),
    ("GET", "/api/v1/cache/registries", Endpoint::CachedRegistries),
    ("GET", "/api/v1/cache/repositories", Endpoint::CachedRepositories),
    ("POST", "/api/v1/cache/refresh", Endpoint::Refresh),
    ("GET", "/api/v1/cache/pins", Endpoint::Pins),
    ("POST", "/api/v1/cache/pins", Endpoint::Pin),
    ("DELETE", "/api/v1/cache/pins", Endpoint::Unpin),
    ("GET", "/api/v1/cache/export", Endpoint::ExportImages),
    ("POST", "/api/v1/cache/import", Endpoint::ImportImages),
    ("GET", "/api/v1/cache/rules", Endpoint::RepositoryRules),
    ("GET", "/api/v1/images/{name}", Endpoint::ImageReport),
    ("GET", "/api/v1/policy", Endpoint::Policies),
    ("GET", "/api/v1/findings", Endpoint::Findings),
    ("POST", "/api/v1/cache/scans", Endpoint::KeepScan),
    ("GET", "/api/v1/cache/warm", Endpoint::Warms),
    ("POST", "/api/v1/cache/warm", Endpoint::Warm),
    ("GET", "/api/v1/cache/warm/{id}", Endpoint::OneWarm),
    ("DELETE", "/api/v1/cache/warm/{id}", Endpoint::CancelWarm),
    ("POST", "/api/v1/verify", Endpoint::Verify),
    ("GET", "/api/v1/verify", Endpoint::Verification),
    ("GET", "/api/v1/clients", Endpoint::Clients),
    ("GET", "/api/v1/throttles", Endpoint::Throttles),
    ("POST", "/api/v1/throttles", Endpoint::Switch),
    ("GET", "/api/v1/bans", Endpoint::Bans),
    ("POST", "/api/v1/bans", Endpoint::Ban),
    ("GET", "/api/v1/bans/export", Endpoint::Export),
    ("POST", "/api/v1/bans/import", Endpoint::Import),
    ("GET", "/api/v1/bans/{id}", Endpoint::OneBan),
    ("POST", "/api/v1/bans/{id}/lift", Endpoint::Lift),
    ("GET", "/api/v1/audit", Endpoint::Audit),
    ("GET", "/api/v1/openapi.json", Endpoint::OpenApi),
];

/// Every endpoint, as a program reads it.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

impl Endpoint {
    /// What a request for it by this method is for. Health answers without a login at any address: probes know no password and no
    /// name. An endpoint that is new here is for viewers when it is asked by GET, and for admins else.
    pub(super) fn access(self, method: &str) -> Access {
        match (self, method) {
            (Endpoint::Health | Endpoint::Ready, _) => Access::Health,
            (Endpoint::Metrics, _) => Access::Metrics,
            // What it sends may be what only some accounts may pull.
            (Endpoint::ExportImages, _) => Access::Change,
            (_, "GET") => Access::Read,
            _ => Access::Change,
        }
    }

    /// Whether its body is an archive, and not JSON.
    pub(super) fn takes_tar(self) -> bool {
        self == Endpoint::ImportImages
    }

    /// What it counts for. Probes and scrapers count for nothing.
    pub(super) fn kind(self) -> RequestKind {
        match self {
            Endpoint::Health | Endpoint::Ready | Endpoint::Metrics => RequestKind::Ping,
            _ => RequestKind::AdminApi,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    #[test]
    fn every_endpoint_is_in_the_openapi_document_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let responses = &operation["responses"];
                assert!(
                    ["200", "201", "202"].iter().any(|status| responses[status].is_object()),
                    "{method} {path} says what it answers"
                );
                described.push((method.to_uppercase(), path.clone()));
            }
        }
        let mut routed: Vec<_> =
            ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
        described.sort();
        routed.sort();
        assert_eq!(described, routed);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn no_request_changes_an_upstream() {
        // With its URL changed and its credential kept, an upstream would be sent the credential of another.
        let places = ["cache", "verify", "throttles", "bans"];
        let is_known = |path: &str| path.split('/').nth(3).is_some_and(|place| places.contains(&place));
        let changes = ROUTES.iter().filter(|(method, _, _)| *method != "GET");
        let others: Vec<_> = changes.filter(|(_, path, _)| !is_known(path)).collect();
        assert!(others.is_empty(), "{others:?}");
    }

    #[test]
    fn references_in_the_openapi_document_lead_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    map.values().for_each(|value| walk(value, document));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, document)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        walk(&document, &document);
    }
}
