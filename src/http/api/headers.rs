//! The headers of an answer: the registry's own, the cache's facts, and those that are built once and reused.

use std::{cell::RefCell, collections::HashMap, sync::Arc, time::Duration};

use actix_http::header::{AGE, HeaderMap, HeaderName, HeaderValue, WARNING};

use crate::{
    answer::{CacheFacts, CacheStatus},
    limits::{
        headers as limit_headers,
        permit::Permit,
        throttle::{Meter, ThrottleStatus},
    },
    oci::Digest,
    policy::Breach,
};

pub(crate) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
pub(crate) const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
pub(crate) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(crate) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// All `Warning` headers of an answer together (distribution-spec, "Warnings").
const MOST_WARNING_BYTES: usize = 4096;

/// Digests whose header values are kept per worker; about 300 bytes each.
const KEPT_DIGESTS: usize = 4096;

/// A digest as two header values. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub(crate) struct DigestHeaders {
    /// `sha256:…`
    pub(crate) plain: HeaderValue,
    /// `"sha256:…"`
    pub(crate) etag: HeaderValue,
}

/// The header values of a digest: a look-up for those that are asked often, and no formatting.
pub(crate) fn of_digest(digest: &Digest) -> DigestHeaders {
    thread_local! {
        static KEPT: RefCell<HashMap<Digest, DigestHeaders>> = RefCell::new(HashMap::new());
    }
    KEPT.with_borrow_mut(|kept| {
        if let Some(headers) = kept.get(digest) {
            return headers.clone();
        }
        let value = |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        let headers = DigestHeaders { plain: value(digest.to_string()), etag: value(format!("\"{digest}\"")) };
        // Starting over is crude and rare; a worker that serves more than this many manifests is not helped by an order of age.
        if kept.len() >= KEPT_DIGESTS {
            kept.clear();
        }
        kept.insert(digest.clone(), headers.clone());
        headers
    })
}

/// What every answer under `/v2/` carries.
pub(crate) fn add_common(headers: &mut HeaderMap) {
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
}

/// How the answer came about: `X-Cache`, `Cache-Status` (RFC 9211), `Age`, `Warning`.
pub(crate) fn add_cache_facts(headers: &mut HeaderMap, facts: &CacheFacts) {
    let (word, rfc) = match facts.status {
        CacheStatus::Hit => ("hit", "weir; hit"),
        CacheStatus::Miss => ("miss", "weir; fwd=miss"),
        CacheStatus::Revalidated => ("revalidated", "weir; fwd=stale; fwd-status=304"),
        CacheStatus::Stale => ("stale", "weir; hit; detail=stale"),
        CacheStatus::Bypass => ("bypass", "weir; fwd=bypass"),
    };
    headers.insert(X_CACHE, HeaderValue::from_static(word));
    headers.insert(CACHE_STATUS, HeaderValue::from_static(rfc));
    if matches!(facts.status, CacheStatus::Hit | CacheStatus::Stale) {
        headers.insert(AGE, seconds(facts.age));
    }
    if let Some(text) = &facts.warning {
        headers.insert(WARNING, warning(text));
    }
}

fn seconds(age: Duration) -> HeaderValue {
    match age.as_secs() {
        0 => HeaderValue::from_static("0"),
        seconds => HeaderValue::from(seconds),
    }
}

/// Header fields of limits, whose names are in lower case.
pub(crate) fn add_fields(headers: &mut HeaderMap, fields: &[(&'static str, String)]) {
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Throttles whose header values are kept per worker; about 300 bytes each. A configuration has 16, and two limits of each.
const KEPT_RULES: usize = 32;

/// The part of a throttle's header values that is the same for every client, and all that it is made of.
struct Limit {
    of: (Meter, bool, u32, u32),
    policy: HeaderValue,
}

fn of_limit<R>(standing: &ThrottleStatus<'_>, work: impl FnOnce(&Limit) -> R) -> R {
    thread_local! {
        static KEPT: RefCell<Vec<Limit>> = const { RefCell::new(Vec::new()) };
    }
    KEPT.with_borrow_mut(|kept| {
        let (rule, limit) = (standing.rule, standing.limit);
        let of = (rule.meter(), rule.is_authenticated(), limit, rule.period());
        if let Some(found) = kept.iter().find(|limit| limit.of == of) {
            return work(found);
        }
        let mut policy = String::new();
        limit_headers::policy(standing, &mut policy);
        let made = Limit { of, policy: take(&mut policy) };
        // A reload makes other rules; the values of the old ones go when their room is needed.
        if kept.len() >= KEPT_RULES {
            kept.clear();
        }
        let result = work(&made);
        kept.push(made);
        result
    })
}

/// What [`Permit::fields`] says, on the path of every answer: what does not change is kept, and what does is written once.
pub(crate) fn add_quota(headers: &mut HeaderMap, permit: &Permit) {
    thread_local! {
        static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
    }
    if let Some(standing) = permit.decision.tightest() {
        headers.insert(RATELIMIT_POLICY, of_limit(&standing, |limit| limit.policy.clone()));
        TEXT.with_borrow_mut(|text| {
            limit_headers::left(&standing, text);
            headers.insert(RATELIMIT, take(text));
        });
    }
}

/// The text as a header value; what remains is empty and has its room. A name that cannot stand in a header says nothing.
fn take(text: &mut String) -> HeaderValue {
    let value = HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    text.clear();
    value
}

/// One more `Warning: 299`.
pub(crate) fn add_warning(headers: &mut HeaderMap, text: &str) {
    headers.append(WARNING, warning(text));
}

/// Breaches whose header values are kept per worker; about 600 bytes each.
const KEPT_BREACHES: usize = 1024;

/// The `Warning: 299` of an image that breaks a policy, on the path of every answer for it: a worker writes the value once.
pub(crate) fn add_breach(headers: &mut HeaderMap, breach: &Arc<Breach>) {
    thread_local! {
        // The breach is kept with its value, so that no other one comes to lie at its address.
        static KEPT: RefCell<HashMap<*const Breach, (Arc<Breach>, HeaderValue)>> = RefCell::new(HashMap::new());
    }
    let value = KEPT.with_borrow_mut(|kept| {
        if let Some((_, value)) = kept.get(&Arc::as_ptr(breach)) {
            return value.clone();
        }
        let value = warning(&breach.sentence);
        // An image is judged anew each minute; the values of old breaches go when their room is needed.
        if kept.len() >= KEPT_BREACHES {
            kept.clear();
        }
        kept.insert(Arc::as_ptr(breach), (breach.clone(), value.clone()));
        value
    });
    headers.append(WARNING, value);
}

/// `299 - "text"`: no date, quotes and backslashes escaped, what is not visible ASCII a question mark, cut at the spec's bound.
fn warning(text: &str) -> HeaderValue {
    let mut value = String::with_capacity(text.len() + 10);
    value.push_str("299 - \"");
    for character in text.chars() {
        if value.len() + 3 > MOST_WARNING_BYTES {
            break;
        }
        match character {
            '"' | '\\' => value.extend(['\\', character]),
            ' '..='~' => value.push(character),
            _ => value.push('?'),
        }
    }
    value.push('"');
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("299 - \"\""))
}

/// Whether `If-None-Match` names this entity tag, weakly compared (RFC 9110, section 13.1.2).
pub(crate) fn none_match(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(etag) = etag.to_str() else { return false };
    headers.get_all(actix_http::header::IF_NONE_MATCH).filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        client::ClientKey,
        limits::{
            Limits, LimitsConfig,
            audit::Actor,
            permit::{AdmissionRequest, RequestInfo, RequestKind},
            throttle::{Algorithm, Mode, Rules, Throttle},
        },
    };

    #[test]
    fn a_warning_is_one_quoted_string_within_the_spec_s_bound() {
        assert_eq!(warning("docker.io answers 429"), "299 - \"docker.io answers 429\"");
        assert_eq!(warning("a \"b\\c\"\r\nX: y\u{202e}"), "299 - \"a \\\"b\\\\c\\\"??X: y?\"");
        for text in ["x", "\"", "é"] {
            let long = warning(&text.repeat(10_000));
            assert!(long.len() <= MOST_WARNING_BYTES && long.as_bytes().ends_with(b"\""), "{}", long.len());
        }
    }

    #[test]
    fn an_entity_tag_matches_itself_weak_or_in_a_list() {
        let etag = HeaderValue::from_static("\"sha256:aa\"");
        let matches = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(actix_http::header::IF_NONE_MATCH, HeaderValue::from_static(value));
            none_match(&headers, &etag)
        };
        for value in ["\"sha256:aa\"", "W/\"sha256:aa\"", "\"x\", \"sha256:aa\"", "*"] {
            assert!(matches(value), "{value}");
        }
        for value in ["", "sha256:aa", "\"sha256:ab\"", "\"sha256:aa"] {
            assert!(!matches(value), "{value}");
        }
        assert!(!none_match(&HeaderMap::new(), &etag));
    }

    #[test]
    fn a_quota_in_headers_is_what_the_permit_says_at_any_moment() {
        let rules = |limit: u32| {
            let setting = |what: &str, burst| Throttle {
                name: format!("throttle_{what}"),
                requests_per_period: limit,
                period_in_seconds: 60,
                burst: Some(burst),
                algorithm: Algorithm::Gcra,
                mode: Mode::Enforce,
            };
            let settings = [
                setting("unauthenticated_pulls", 3),
                setting("unauthenticated_registry_api", limit),
                setting("unauthenticated_bytes", 4),
                setting("authenticated_pulls", 5),
            ];
            LimitsConfig { throttles: Rules::new(&settings, &[], 2).unwrap(), ..LimitsConfig::default() }
        };
        let limits = Limits::in_memory(rules(20));
        let mut said = std::collections::HashSet::new();
        for step in 0..400_u64 {
            // A proxy's connection: many clients, of one network and not, and a reload now and then.
            let key = match step % 4 {
                3 => ClientKey::Principal("cé".into()),
                2 => ClientKey::Principal("ci".into()),
                last => ClientKey::Address([192, 0, 2, last as u8].into()),
            };
            let now = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + step);
            if step % 50 == 49 {
                limits.reload(rules(20 + step as u32), &Actor::auto(), now);
            }
            let client = Arc::new(limits.describe_client(key, [192, 0, 2, 1].into(), ""));
            let about = RequestInfo { method: "GET", repository: "a", reference: "b" };
            let request = AdmissionRequest { client, kind: RequestKind::Pull, about, bypass: None };
            let Ok(permit) = limits.admit(&request, now) else { continue };
            limits.charge_bytes(&permit, if step % 7 == 0 { 60_000 } else { 0 }, now);
            let (mut written, mut kept) = (HeaderMap::new(), HeaderMap::new());
            add_fields(&mut written, &permit.fields());
            add_quota(&mut kept, &permit);
            let sorted = |headers: &HeaderMap| {
                let mut all: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
                all.sort();
                all
            };
            assert_eq!(sorted(&kept), sorted(&written));
            said.extend(sorted(&kept));
        }
        assert!(said.len() > 20, "{}", said.len());
    }

    #[test]
    fn header_values_of_digests_are_kept_within_bounds() {
        for number in 0..(KEPT_DIGESTS as u32 + 10) {
            let digest = crate::oci::Algorithm::Sha256.digest(&number.to_le_bytes());
            let headers = of_digest(&digest);
            assert_eq!(headers.plain, digest.to_string());
            assert_eq!(of_digest(&digest).etag, format!("\"{digest}\""));
        }
    }
}
