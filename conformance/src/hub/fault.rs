//! Faults by name and count: what goes wrong, with which requests, how often.

use std::sync::Mutex;
use std::time::Duration;

use super::log::Kind;

/// What goes wrong. The name in the control API and on the command line is in brackets, with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// \[`5xx`, `status=503`\] This status and a JSON error, after authorization was checked.
    Status(u16),
    /// \[`html`\] 200 and a page of HTML, as captive portals and error pages do.
    Html,
    /// \[`corrupt`, `at=start|middle|last`\] One byte of the body is flipped. The position is that in the whole object, so a range that leaves it out is intact.
    Corrupt(At),
    /// \[`truncate`, `share=0.5`\] The connection is closed in order after this share of the body.
    Truncate(f64),
    /// \[`reset`, `share=0.5`\] The same with a TCP reset.
    Reset(f64),
    /// \[`stall`, `share=0.5`\] Nothing more is sent after this share, until [`Hub::release`](super::Hub::release).
    Stall(f64),
    /// \[`slow`, `rate=1`\] So many bytes a second.
    Slow(u64),
    /// \[`short-length`, `by=1000`\] `Content-Length` says so many bytes less than the object has, and only those are sent.
    ShortLength(u64),
    /// \[`long-length`, `by=1000`\] `Content-Length` says so many bytes more; the connection is closed after the object.
    LongLength(u64),
    /// \[`content-encoding`\] The body goes gzip'd, with `Content-Encoding: gzip`, whatever was accepted.
    ContentEncoding,
    /// \[`no-head`\] HEAD answers 405.
    NoHead,
    /// \[`redirect-loop`\] 307 to an address of the CDN that redirects on for ever.
    RedirectLoop,
    /// \[`redirect-private`\] 307 to `http://169.254.169.254/latest/meta-data/`.
    RedirectPrivate,
    /// \[`redirect-evil`\] 307 to the hostile listener, which answers 401 Basic and records all it is sent.
    RedirectEvil,
    /// \[`evil-realm`\] 401 with a Bearer challenge whose realm is the hostile listener.
    EvilRealm,
    /// \[`link-evil`\] The `Link` of a tag list or referrers list leads to the hostile listener.
    LinkEvil,
    /// \[`link-loop`\] The `Link` of a tag list or referrers list leads back to the same page.
    LinkLoop,
    /// \[`token-5xx`, `status=503`\] The token service answers this status.
    TokenStatus(u16),
    /// \[`token-slow`, `delay=5s`\] The token service waits so long.
    TokenSlow(Duration),
    /// \[`token-401`\] The token service refuses.
    TokenRefused,
    /// \[`abuse`, `retry_after=60`\] The abuse limiter: raw `HAP429` bytes with bare line feeds, and the connection is closed.
    Abuse(Option<u64>),
    /// \[`pull-limit`, `retry_after=7`\] 429 with the pull limit's JSON, whatever the budget is.
    PullLimit(Option<String>),
    /// \[`wrong-digest`\] A manifest asked by digest is answered with another manifest's bytes under the asked digest.
    WrongDigest,
    /// \[`no-digest-header`\] No `Docker-Content-Digest`.
    NoDigestHeader,
    /// \[`bad-digest-header`\] A `Docker-Content-Digest` that is not the body's.
    BadDigestHeader,
    /// \[`manifest-1g`, `size=1GiB`\] A chunked body of so many blanks.
    Endless(u64),
}

/// Where a byte is flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The first byte.
    Start,
    /// The byte at half the size.
    Middle,
    /// The last byte.
    Last,
}

/// Which requests. What is `None` matches all; [`Match::default`] leaves the choice of kinds to the fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The kind of request. A fault of the body on `BlobGet` strikes where the blob's bytes come from: at the CDN, when blobs are redirected.
    pub kind: Option<Kind>,
    /// The repository. The CDN knows none: a request there matches by the repository that redirected it.
    pub repository: Option<String>,
    /// Tag or digest.
    pub reference: Option<String>,
    /// The method, in capitals.
    pub method: Option<String>,
}

impl Match {
    /// Every request that the fault can strike.
    pub fn any() -> Match {
        Match::default()
    }

    /// Requests of that kind.
    pub fn kind(kind: Kind) -> Match {
        Match { kind: Some(kind), ..Match::default() }
    }

    /// Of these, the ones for that repository.
    pub fn repository(self, name: impl Into<String>) -> Match {
        Match { repository: Some(name.into()), ..self }
    }

    /// Of these, the ones for that tag or digest.
    pub fn reference(self, reference: impl Into<String>) -> Match {
        Match { reference: Some(reference.into()), ..self }
    }

    /// Of these, the ones with that method.
    pub fn method(self, method: impl Into<String>) -> Match {
        Match { method: Some(method.into()), ..self }
    }

    /// Whether all but the kind agrees.
    fn fits(&self, asked: Asked<'_>) -> bool {
        self.repository.as_deref().is_none_or(|name| name == asked.repository)
            && self.reference.as_deref().is_none_or(|reference| reference == asked.reference)
            && self.method.as_deref().is_none_or(|method| method == asked.method)
    }

    /// Whether the request is one of these, for a gate.
    pub(super) fn holds(&self, asked: Asked<'_>) -> bool {
        self.kind.is_none_or(|kind| kind == asked.kind) && self.fits(asked)
    }
}

/// What a request asks, as faults and gates see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) kind: Kind,
    pub(super) repository: &'a str,
    pub(super) reference: &'a str,
    pub(super) method: &'a str,
}

/// A fault to arm.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub what: What,
    /// With which requests.
    pub on: Match,
    /// How often; `None` is until [`Hub::clear_faults`](super::Hub::clear_faults).
    pub count: Option<u32>,
    /// How many matching requests pass unharmed before.
    pub after: u32,
}

impl Fault {
    /// That fault with every request it can strike, until it is cleared.
    pub fn always(what: What) -> Fault {
        Fault { what, on: Match::any(), count: None, after: 0 }
    }

    /// That fault with the next request it can strike.
    pub fn once(what: What) -> Fault {
        Fault::times(1, what)
    }

    /// That fault with the next `count` requests it can strike.
    pub fn times(count: u32, what: What) -> Fault {
        Fault { count: Some(count), ..Fault::always(what) }
    }

    /// Only with these requests.
    pub fn on(self, on: Match) -> Fault {
        Fault { on, ..self }
    }

    /// Only after so many matching requests have passed.
    pub fn after(self, after: u32) -> Fault {
        Fault { after, ..self }
    }

    fn strikes(&self, asked: Asked<'_>) -> bool {
        let kind = match self.on.kind {
            None => self.what.strikes_by_default(asked.kind),
            Some(Kind::BlobGet) if self.what.is_of_the_body() => matches!(asked.kind, Kind::BlobGet | Kind::CdnGet),
            Some(kind) => kind == asked.kind,
        };
        kind && self.on.fits(asked)
    }
}

/// When in the making of an answer a fault has its say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before anything else, authorization included.
    BeforeAuthorization,
    /// Instead of the answer to an authorized request.
    Response,
    /// On the head of a good answer.
    Head,
    /// While a good body is sent.
    Body,
}

impl What {
    pub(super) fn stage(&self) -> Stage {
        use What::*;
        match self {
            Abuse(_) | EvilRealm | TokenStatus(_) | TokenSlow(_) | TokenRefused => Stage::BeforeAuthorization,
            Status(_) | Html | NoHead | RedirectLoop | RedirectPrivate | RedirectEvil | PullLimit(_) | Endless(_) => {
                Stage::Response
            }
            WrongDigest | NoDigestHeader | BadDigestHeader | LinkEvil | LinkLoop => Stage::Head,
            Corrupt(_) | Truncate(_) | Reset(_) | Stall(_) | Slow(_) | ShortLength(_) | LongLength(_)
            | ContentEncoding => Stage::Body,
        }
    }

    fn is_of_the_body(&self) -> bool {
        self.stage() == Stage::Body
    }

    /// The kinds of request it strikes when none was named.
    fn strikes_by_default(&self, kind: Kind) -> bool {
        use Kind::*;
        match self {
            What::Abuse(_) => !matches!(kind, CdnGet | CdnHead),
            What::EvilRealm | What::Status(_) | What::Html => !matches!(kind, CdnGet | CdnHead | Token | Ping | Other),
            What::TokenStatus(_) | What::TokenSlow(_) | What::TokenRefused => kind == Token,
            What::NoHead => matches!(kind, ManifestHead | BlobHead),
            What::RedirectLoop | What::RedirectPrivate | What::RedirectEvil => kind == BlobGet,
            What::PullLimit(_) | What::WrongDigest | What::Endless(_) => kind == ManifestGet,
            What::NoDigestHeader | What::BadDigestHeader => matches!(kind, ManifestGet | ManifestHead),
            What::LinkEvil | What::LinkLoop => matches!(kind, Tags | Referrers),
            What::Corrupt(_)
            | What::Truncate(_)
            | What::Reset(_)
            | What::Stall(_)
            | What::Slow(_)
            | What::ShortLength(_)
            | What::LongLength(_)
            | What::ContentEncoding => matches!(kind, ManifestGet | BlobGet | CdnGet),
        }
    }
}

/// The faults that are armed.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(super) fn arm(&self, fault: Fault) {
        self.0.lock().unwrap().push(fault);
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    pub(super) fn armed(&self) -> Vec<Fault> {
        self.0.lock().unwrap().clone()
    }

    /// The first armed fault of that stage that strikes this request; one of its count is used up.
    pub(super) fn strike(&self, stage: Stage, asked: Asked<'_>) -> Option<What> {
        let mut faults = self.0.lock().unwrap();
        let mut struck = None;
        for fault in faults.iter_mut().filter(|fault| fault.what.stage() == stage && fault.strikes(asked)) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.count != Some(0) {
                fault.count = fault.count.map(|count| count - 1);
                struck = Some(fault.what.clone());
                break;
            }
        }
        faults.retain(|fault| fault.count != Some(0));
        struck
    }
}
