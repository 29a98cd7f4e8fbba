//! What rules say of all that is cached: for programs, for the page and for the report of one image alike; as rows, CSV or SARIF.

use std::time::{Duration, SystemTime};

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::{
    budget::at,
    cache::only,
    images::{FILTERS, Filter, span},
    json::{count, parameter, refuse, reply},
    state::State,
};
use crate::{
    mirror::{Image, PlatformFacts},
    policy::{Outcome, Rule, Verdict},
};

/// The parameters beside those of a list of images.
pub(super) const MORE_FILTERS: [&str; 4] = ["rule", "outcome", "arrived_within", "not_arrived_within"];
/// Images that are judged for one answer, in which those that do not fit count. Each takes some milliseconds.
const MOST_JUDGED: usize = 500;
/// Images of which the list is read at once.
const BATCH: usize = 50;
/// Images with findings of one answer.
const DEFAULT: usize = 100;

/// What a rule says of one platform of an image.
pub(super) struct Finding {
    pub(super) image: Image,
    pub(super) platform: String,
    /// The manifest of the platform.
    pub(super) digest: String,
    /// When the image came into the cache.
    pub(super) arrived: Option<SystemTime>,
    /// The policy whose thresholds it was held to; `None` for those of a report.
    pub(super) policy: Option<String>,
    pub(super) verdict: Verdict,
}

/// Which findings are looked for.
pub(super) struct Wanted {
    images: Filter,
    rule: Option<Rule>,
    outcome: Outcome,
    arrived_within: Option<Duration>,
    not_arrived_within: Option<Duration>,
}

/// A page of findings, and after which image the next begins.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) rows: Vec<Finding>,
    pub(super) next: Option<String>,
}

impl Wanted {
    /// Reads it from a query.
    ///
    /// # Errors
    /// A sentence that says which parameter is wrong.
    pub(super) fn parse(state: &State, query: &str) -> Result<Wanted, String> {
        if parameter(query, "sort").is_some_and(|sort| sort != "name") {
            return Err("findings are listed by name".to_owned());
        }
        let rule = parameter(query, "rule").map(|name| {
            let rule = Rule::ALL.into_iter().find(|rule| rule.as_str() == name);
            rule.ok_or_else(|| format!("rule is one of {}", Rule::ALL.map(Rule::as_str).join(", ")))
        });
        let outcome = match parameter(query, "outcome").as_deref() {
            None | Some("fail") => Outcome::Fail,
            Some("unknown") => Outcome::Unknown,
            Some("pass") => Outcome::Pass,
            Some(_) => return Err("outcome is fail, unknown or pass".to_owned()),
        };
        Ok(Wanted {
            images: Filter::parse(state, query)?,
            rule: rule.transpose()?,
            outcome,
            arrived_within: span(query, "arrived_within")?,
            not_arrived_within: span(query, "not_arrived_within")?,
        })
    }

    /// The findings of at most so many images.
    ///
    /// # Errors
    /// A sentence, when `last` is no name of an image.
    pub(super) async fn find(&self, state: &State, most: usize, last: Option<String>) -> Result<Findings, String> {
        let now = SystemTime::now();
        let (mut found, mut images, mut judged, mut last) = (Findings::default(), 0, 0, last);
        loop {
            let page = self.images.find(state, &state.mirror.images().read(), BATCH, last.as_deref(), now)?;
            for image in page.images {
                if images >= most || judged >= MOST_JUDGED {
                    found.next = last;
                    return Ok(found);
                }
                judged += 1;
                last = Some(image.name());
                let before = found.rows.len();
                found.rows.extend(self.of(state, &image, now).await);
                images += usize::from(found.rows.len() > before);
            }
            last = page.next;
            if last.is_none() {
                return Ok(found);
            }
        }
    }

    async fn of(&self, state: &State, image: &Image, now: SystemTime) -> Vec<Finding> {
        // What the disk does not give now has no findings now; the report of the image says so.
        let platforms = state.mirror.facts.of(image, None).await.unwrap_or_default();
        let platforms = platforms.into_iter().filter(|platform| platform.facts.is_ok() && self.has_age(platform, now));
        let (policy, judged) = state.mirror.enforcement.findings(image, platforms.collect(), now).await;
        let all = of_platforms(image, policy.as_deref(), &judged);
        let is_wanted = |finding: &Finding| {
            finding.verdict.outcome == self.outcome && self.rule.is_none_or(|rule| finding.verdict.rule == rule)
        };
        all.into_iter().filter(is_wanted).collect()
    }

    fn has_age(&self, platform: &PlatformFacts, now: SystemTime) -> bool {
        let age = platform.arrived.map(|arrived| now.duration_since(arrived).unwrap_or_default());
        self.arrived_within.is_none_or(|span| age.is_some_and(|age| age <= span))
            && self.not_arrived_within.is_none_or(|span| age.is_some_and(|age| age > span))
    }
}

/// What the rules of a policy, or those of a report, said of the platforms of an image.
fn of_platforms(image: &Image, policy: Option<&str>, judged: &[(PlatformFacts, Vec<Verdict>)]) -> Vec<Finding> {
    let all = judged.iter().flat_map(|(platform, verdicts)| verdicts.iter().map(move |verdict| (platform, verdict)));
    let finding = |(platform, verdict): (&PlatformFacts, &Verdict)| Finding {
        image: image.clone(),
        platform: platform.platform.clone(),
        digest: platform.digest.to_string(),
        arrived: platform.arrived,
        policy: policy.map(str::to_owned),
        verdict: verdict.clone(),
    };
    all.map(finding).collect()
}

/// The rules that the platforms of an image break, as the report of the image judges.
pub(super) fn of_report(image: &Image, judged: &[(PlatformFacts, Vec<Verdict>)]) -> Vec<Finding> {
    let mut broken = of_platforms(image, None, judged);
    broken.retain(|finding| finding.verdict.outcome == Outcome::Fail);
    broken
}

/// `/api/v1/findings`: what rules say of all that is cached.
pub(super) async fn list(state: &State, request: &HttpRequest, query: &str) -> HttpResponse {
    let known = [&FILTERS[..], &MORE_FILTERS, &["n", "last", "format"]].concat();
    if let Err(refusal) = only(query, &known) {
        return *refusal;
    }
    let most = match count(query, DEFAULT, MOST_JUDGED) {
        Ok(most) => most,
        Err(refusal) => return *refusal,
    };
    let found = match Wanted::parse(state, query) {
        Ok(wanted) => wanted.find(state, most, parameter(query, "last")).await,
        Err(why) => Err(why),
    };
    match found {
        Err(why) => refuse(400, "INVALID", &why),
        Ok(found) => match parameter(query, "format").as_deref() {
            None | Some("json") => reply(200, &found.json()),
            Some("csv") => csv(&found, request.path(), query),
            Some("sarif") => sarif_reply(&found.rows),
            Some(_) => refuse(400, "INVALID", "format is json, csv or sarif"),
        },
    }
}

impl Findings {
    fn json(&self) -> Value {
        let row = |finding: &Finding| {
            json!({
                "name": finding.image.name(),
                "platform": finding.platform,
                "digest": finding.digest,
                "arrived": finding.arrived.map(at),
                "policy": finding.policy,
                "rule": finding.verdict.rule.as_str(),
                "outcome": finding.verdict.outcome.as_str(),
                "finding": finding.verdict.finding,
                "mend": finding.verdict.mend,
            })
        };
        json!({"findings": self.rows.iter().map(row).collect::<Vec<_>>(), "next": self.next})
    }
}

/// The rows as CSV (RFC 4180). When there are more, `Link` says where they begin.
pub(super) fn csv(found: &Findings, path: &str, query: &str) -> HttpResponse {
    let mut text = "image,platform,digest,arrived,policy,rule,outcome,finding,mend\r\n".to_owned();
    for finding in &found.rows {
        let Finding { image, platform, digest, arrived, policy, verdict } = finding;
        let cells = [
            &*image.name(),
            platform,
            digest,
            &arrived.map(at).unwrap_or_default(),
            policy.as_deref().unwrap_or_default(),
            verdict.rule.as_str(),
            verdict.outcome.as_str(),
            &verdict.finding,
            verdict.mend,
        ]
        .map(cell);
        text += &cells.join(",");
        text += "\r\n";
    }
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/csv; charset=utf-8")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("Content-Disposition", "attachment; filename=\"findings.csv\""));
    if let Some(next) = &found.next {
        let kept = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "last");
        let query =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).append_pair("last", next).finish();
        response.insert_header(("Link", format!("<{path}?{query}>; rel=\"next\"")));
    }
    response.body(text)
}

/// A cell. What a spreadsheet would take for a formula gets a quote before it: a platform is a publisher's text.
fn cell(text: &str) -> String {
    let formula = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    format!("\"{formula}{}\"", text.replace('"', "\"\""))
}

/// As [`sarif`], as an answer.
pub(super) fn sarif_reply(rows: &[Finding]) -> HttpResponse {
    let mut response = reply(200, &sarif(rows));
    let sarif = actix_web::http::header::HeaderValue::from_static("application/sarif+json");
    response.headers_mut().insert(actix_web::http::header::CONTENT_TYPE, sarif);
    response
}

/// The rows as SARIF 2.1.0, for the pages of code scanning. An image is the place, as there is no file.
fn sarif(rows: &[Finding]) -> Value {
    let rule = |rule: Rule| {
        json!({
            "id": rule.as_str(),
            "shortDescription": {"text": rule.wanted()},
            "help": {"text": crate::policy::mend(rule)},
            "defaultConfiguration": {"level": "error"},
        })
    };
    let result = |finding: &Finding| {
        let Finding { image, platform, digest, verdict, .. } = finding;
        let index = Rule::ALL.iter().position(|rule| *rule == verdict.rule);
        let name = image.name();
        // A colon after the first part would make a scheme of it.
        let uri: String =
            name.split('/').map(|part| part.replace('%', "%25").replace(':', "%3A")).collect::<Vec<_>>().join("/");
        json!({
            "ruleId": verdict.rule.as_str(),
            "ruleIndex": index,
            "kind": if verdict.outcome == Outcome::Fail { "fail" } else if verdict.outcome == Outcome::Pass { "pass" } else { "review" },
            "level": if verdict.outcome == Outcome::Fail { "error" } else { "none" },
            "message": {"text": format!("{name} {platform}: it {}. {}", verdict.finding, verdict.mend)},
            "locations": [{
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
                "logicalLocations": [{"fullyQualifiedName": format!("{name}@{digest}"), "kind": "module"}],
            }],
            "partialFingerprints": {"imageRule/v1": format!("{digest}:{}", verdict.rule.as_str())},
        })
    };
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "Weir",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": Rule::ALL.map(rule),
            }},
            "results": rows.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_text_for_every_spreadsheet() {
        assert_eq!(cell("a \"b\", c"), "\"a \"\"b\"\", c\"");
        for formula in ["=cmd()", "+1", "-1", "@a"] {
            assert_eq!(cell(formula), format!("\"'{formula}\""));
        }
    }
}
