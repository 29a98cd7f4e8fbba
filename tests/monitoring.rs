//! The dashboard, the rules and the alerts of `examples/` name what a running Weir exposes, and the alerts lead to pages that exist.

mod scraped;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use weir_conformance::{
    client::{Client, Request},
    hub::{self, Fault, Hub, Spec, What},
    mirror::process::{Process, Program},
};

use self::scraped::metrics;
use crate::deploy::Running;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn dashboard() -> serde_json::Value {
    serde_json::from_str(&read("examples/grafana/weir.json")).unwrap()
}

/// What Prometheus adds to each sample.
const OF_THE_SCRAPE: [&str; 2] = ["job", "instance"];

/// What only a Weir has that sends traces; `tests/traces.rs` holds it.
const OF_TRACES: &str = "weir_http_traced_request_seconds";

/// The values of each label of each metric.
type Exposed = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// A sample's name and its labels. No value of ours has a quote or a comma in it.
fn sample(line: &str) -> (&str, Vec<(&str, &str)>) {
    let Some((name, rest)) = line.split_once('{') else {
        return (line.split(' ').next().unwrap_or_default(), Vec::new());
    };
    let labels = rest.split_once('}').unwrap_or_else(|| panic!("{line}")).0;
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    (name, pairs.map(|(label, value)| (label, value.trim_matches('"'))).collect())
}

fn exposed(text: &str) -> Exposed {
    let mut all = Exposed::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = sample(line);
        let of = all.entry(name.to_owned()).or_default();
        for (label, value) in labels {
            of.entry(label.to_owned()).or_default().insert(value.to_owned());
        }
    }
    all
}

/// The name under which a sample is described: a histogram's without the suffix of the sample.
fn family<'a>(text: &str, name: &'a str) -> &'a str {
    let of_histogram = |base: &&str| text.contains(&format!("# TYPE {base} histogram\n"));
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix).filter(of_histogram))
        .unwrap_or(name)
}

/// Whether this is the name of a metric that Weir exposes.
fn is_ours(word: &str) -> bool {
    word.starts_with("weir_") || word.starts_with("process_")
}

/// All that stands between an `open` and the next `close`.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close)).map(|(inner, _)| inner)
}

/// Checks one expression, and returns the labels that its result may have.
fn check(expression: &str, exposed: &Exposed) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut labels: BTreeSet<String> = OF_THE_SCRAPE.map(str::to_owned).into();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        let word = rest[start..].split(|c| !is_name(c)).next().unwrap_or_default();
        rest = &rest[start + word.len()..];
        if word.contains(':') {
            // What was recorded has its labels in its name.
            labels.extend(word.split(':').next().unwrap_or_default().split('_').map(str::to_owned));
        }
        if !is_ours(word) {
            continue;
        }
        let has = exposed.get(word).unwrap_or_else(|| panic!("{word} is not exposed: {expression}"));
        labels.extend(has.keys().cloned());
        let matchers = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')).map_or("", |(inner, _)| inner);
        for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
            let (label, value) = matcher.split_once('=').unwrap_or_else(|| panic!("{matcher}: {expression}"));
            if OF_THE_SCRAPE.contains(&label) {
                continue;
            }
            let values = has.get(label).unwrap_or_else(|| panic!("{word} has no label {label}: {expression}"));
            for value in value.trim_start_matches('~').trim_matches('"').split('|') {
                assert!(values.contains(value), "{word} has no {label}={value}, only {values:?}: {expression}");
            }
        }
        rest = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')).map_or(rest, |(_, after)| after);
    }
    for by in between(expression, "by (", ")") {
        for label in by.split(", ") {
            assert!(labels.contains(label), "nothing has a label {label}: {expression}");
        }
    }
    labels
}

/// An entry of the rule file.
struct Rule {
    /// `alert: NAME` or `record: NAME`.
    title: String,
    expression: String,
    text: String,
}

fn rules() -> Vec<Rule> {
    let rule = |text: &str| {
        let title = text.lines().next().unwrap_or_default().to_owned();
        let (_, after) = text.split_once("expr: ").unwrap_or_else(|| panic!("{title} has no expression"));
        let expression = match after.strip_prefix("|\n") {
            Some(block) => {
                block.lines().take_while(|line| line.starts_with("          ")).collect::<Vec<_>>().join(" ")
            }
            None => after.lines().next().unwrap_or_default().to_owned(),
        };
        Rule { title, expression, text: text.to_owned() }
    };
    read("examples/prometheus/weir.rules.yml").split("      - ").skip(1).map(rule).collect()
}

#[tokio::test]
async fn dashboard_and_rules_name_only_what_is_exposed() {
    let exposed = exposed(&metrics().await);
    let dashboard = dashboard();
    let mut checked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let labels = check(target["expr"].as_str().unwrap(), &exposed);
            for label in between(target["legendFormat"].as_str().unwrap(), "{{", "}}") {
                assert!(labels.contains(label), "{}: no label {label}", panel["title"]);
            }
            checked += 1;
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["definition"].as_str() {
            check(query.trim_start_matches("label_values("), &exposed);
            checked += 1;
        }
    }
    for rule in rules() {
        let labels = check(&rule.expression, &exposed);
        for label in between(&rule.text, "{{ $labels.", " }}") {
            assert!(labels.contains(label), "{}: no label {label}", rule.title);
        }
        checked += 1;
    }
    // `weir_…` in the documents, too.
    for page in [
        "docs/operating/monitoring.md",
        "docs/operating/alerts.md",
        "docs/operating/sizing.md",
        "docs/operating/troubleshooting.md",
    ] {
        for name in read(page).split('`').skip(1).step_by(2).filter(|name| is_ours(name)) {
            assert!(exposed.contains_key(name) || name == OF_TRACES, "{page}: {name} is not exposed");
            checked += 1;
        }
    }
    assert!(checked > 75, "{checked}");
}

/// A throttle, the budget, a ban, and what an upstream does not mirror: a client that is refused by any of them is on the dashboard.
#[tokio::test]
async fn the_dashboard_counts_every_kind_of_denial_that_has_a_counter() {
    let exposed = exposed(&metrics().await);
    let counts = |name: &str, labels: &BTreeMap<String, BTreeSet<String>>| {
        let of_decisions = labels.get("decision").is_some_and(|decisions| decisions.contains("denied"));
        of_decisions || name.ends_with("_denied_total") || name.ends_with("_refused_total")
    };
    let denials: Vec<_> = exposed.iter().filter(|(name, labels)| counts(name, labels)).map(|(name, _)| name).collect();
    assert!(denials.len() >= 4, "{denials:?}");
    let dashboard = dashboard();
    for title in ["Who is denied?", "Denied requests a second"] {
        let panels = dashboard["panels"].as_array().unwrap();
        let panel = panels.iter().find(|panel| panel["title"] == title).unwrap();
        let targets = panel["targets"].to_string();
        for name in &denials {
            assert!(targets.contains(&format!("{name}{{")), "{title} lacks {name}");
        }
    }
}

#[tokio::test]
async fn each_sample_is_described_under_its_own_name() {
    let text = metrics().await;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = family(&text, sample(line).0);
        for what in ["HELP", "TYPE"] {
            assert_eq!(text.matches(&format!("# {what} {name} ")).count(), 1, "{what} of {name}\n{text}");
        }
        let counter = text.contains(&format!("# TYPE {name} counter\n"));
        assert_eq!(counter, name.ends_with("_total"), "{name}");
    }
    assert!(!text.contains("# EOF"));
}

/// What clients make up (names, tags, methods, hosts, agents, addresses, credentials) makes no series.
#[tokio::test]
async fn no_label_takes_what_a_client_sends() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let upstream = format!("http://{}", hub.registry_address());
    let running =
        Running::start(&[("WEIR_UPSTREAM__0__URL", &upstream), ("WEIR_SERVER__TRUSTED_PROXIES", "127.0.0.0/8")]);
    let (client, admin) = (Client::new(running.registry, ""), Client::new(running.admin, ""));
    let series = async || {
        let text = admin.send(&Request::get("/metrics")).await.unwrap().text();
        assert!(!text.contains("flood"), "{text}");
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let flood = async |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let name = format!("flood{number}");
            for path in [
                format!("/v2/{name}/manifests/{name}"),
                format!("/v2/{name}/manifests/latest?ns={name}.example"),
                format!("/v2/{name}.example/{name}/blobs/sha256:{number:064}"),
                format!("/v2/{name}/tags/list"),
                format!("/{name}"),
            ] {
                for method in ["GET", "HEAD", "POST", "FLOOD"] {
                    let request = Request::new(method, path.as_str())
                        .with("User-Agent", name.as_str())
                        .with("X-Forwarded-For", format!("10.0.{}.{}", number / 250, number % 250))
                        .with("Authorization", format!("Basic {name}"))
                        .with("X-Request-Id", name.as_str());
                    client.send(&request).await.unwrap();
                }
            }
        }
    };
    flood(0..10).await;
    let before = series().await;
    flood(10..40).await;
    assert_eq!(series().await, before);
    assert!(before < 1000, "{before} series");
}

/// The rows of docs/operating/metrics.md: name, type, labels, help. A metric of which nothing has happened yet is not exposed.
#[tokio::test]
async fn the_reference_of_metrics_says_what_a_weir_says_of_itself() {
    let text = metrics().await;
    let exposed = exposed(&text);
    let mut rows = BTreeMap::new();
    for help in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = help.split_once(' ').unwrap();
        let typed = format!("# TYPE {name} ");
        let kind = between(&text, &typed, "\n").next().unwrap_or_default();
        let Some(labels) = exposed.get(name).or_else(|| exposed.get(&format!("{name}_count"))) else { continue };
        let labels: Vec<String> = labels.keys().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{name}` | {kind} | {} | {} |", labels.join(", "), help.trim_end_matches('.'));
        rows.insert(name.to_owned(), row);
    }
    let page = read("docs/operating/metrics.md");
    let mut described = BTreeSet::new();
    let names = page.lines().filter_map(|line| Some((line, line.strip_prefix("| `")?.split('`').next()?)));
    for (line, name) in names.filter(|(_, name)| is_ours(name)) {
        let row = rows.get(name).unwrap_or_else(|| panic!("{name} is not exposed"));
        assert_eq!(line, row);
        described.insert(name.to_owned());
    }
    let missing: Vec<_> = rows.keys().filter(|name| !described.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in docs/operating/metrics.md");
}

/// Two counters tell of the cache: the one for a hit ratio counts what a client got, and no HEAD and no list, which are free to repeat.
#[tokio::test]
async fn a_hit_ratio_has_a_counter_of_its_own_and_both_say_what_they_count() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let image = hub.push(Spec::new("library/app").single()).unwrap();
    let program = Program::Weir(env!("CARGO_BIN_EXE_weir").into());
    let weir = Process::start(program, hub.registry_address(), "").await.unwrap();
    let (client, admin) = (Client::new(weir.address, ""), Client::new(weir.admin.unwrap(), ""));
    let manifest = client.manifest("library/app", "latest");
    let blob = client.blob("library/app", &image.platforms[0].layers[0].digest);
    for (request, times) in [
        (Request::get(&*manifest).accepting_manifests(), 3),
        (Request::head(&*manifest).accepting_manifests(), 5),
        (Request::get(&*blob), 2),
        (Request::head(&*blob), 4),
        (Request::get(client.path("library/app", "tags/list")), 6),
    ] {
        for _ in 0..times {
            assert_eq!(client.send(&request).await.unwrap().status(), 200, "{}", request.target);
        }
    }
    let counted = |text: &str, metric: &str, kind: &str| {
        let of_kind = format!("{metric}{{kind=\"{kind}\",");
        let values = text.lines().filter(|line| line.starts_with(&of_kind));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    let text = loop {
        let text = admin.send(&Request::get("/metrics")).await.unwrap().text();
        // A request is counted after its client has the last byte.
        if counted(&text, "weir_http_cache_total", "tags") >= 6 {
            break text;
        }
    };
    let of = |metric: &str| ["manifest", "blob", "tags"].map(|kind| counted(&text, metric, kind));
    assert_eq!(of("weir_answers_total"), [3, 2, 0]);
    assert_eq!(of("weir_http_cache_total"), [8, 6, 6]);
    let help = |metric: &str| between(&text, &format!("# HELP {metric} "), "\n").next().unwrap().to_owned();
    assert!(help("weir_answers_total").contains("GETs of manifests and blobs"));
    assert!(help("weir_http_cache_total").contains("HEAD") && help("weir_http_cache_total").contains("use answers"));
}

/// In snake_case, but for the codes of errors, which are the registry protocol's.
#[tokio::test]
async fn labels_of_upstream_requests_are_words() {
    let exposed = exposed(&metrics().await);
    let requests = &exposed["weir_upstream_requests_total"];
    assert!(requests["kind"].contains("manifest_get") && requests["outcome"].contains("ok"), "{requests:?}");
    let is_word = |value: &String| value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    for label in ["kind", "outcome", "status", "state", "flight"] {
        let others = exposed.iter().filter(|(name, _)| *name != "weir_hosted_pushes_total");
        let wrong: Vec<_> =
            others.filter(|(_, labels)| labels.get(label).is_some_and(|values| !values.iter().all(is_word))).collect();
        assert!(wrong.is_empty(), "{label}: {wrong:?}");
    }
}

#[tokio::test]
async fn the_breaker_of_every_upstream_is_exported_before_its_first_request() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    for number in 0..10 {
        hub.push(Spec::new(format!("library/x{number}")).seed(number)).unwrap();
    }
    let program = Program::Weir(env!("CARGO_BIN_EXE_weir").into());
    let weir = Process::start(program, hub.registry_address(), "").await.unwrap();
    let (client, admin) = (Client::new(weir.address, ""), Client::new(weir.admin.unwrap(), ""));
    let open = async || {
        let text = admin.send(&Request::get("/metrics")).await.unwrap().text();
        let line = text.lines().find(|line| line.starts_with("weir_upstream_breaker_open{"));
        line.unwrap_or_else(|| panic!("{text}")).ends_with(" 1")
    };
    assert!(!open().await, "one that was never asked");
    hub.fault(Fault::always(What::Status(503)));
    let mut asked = 0;
    while !open().await {
        assert!(asked < 10, "it did not open");
        client.get_manifest(&format!("library/x{asked}"), "latest").await.unwrap();
        asked += 1;
    }
    hub.clear_faults();
    let answered = async {
        while client.get_manifest("library/x0", "latest").await.unwrap().status() != 200 {
            assert!(open().await, "no request has succeeded");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answered).await.expect("upstream is asked again");
    assert!(!open().await, "upstream has answered");
}

#[test]
fn the_first_row_of_the_dashboard_answers_what_an_operator_asks_first() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let titles: Vec<&str> = panels[1..]
        .iter()
        .take_while(|panel| panel["type"] != "row")
        .filter_map(|panel| panel["title"].as_str())
        .collect();
    let asked = ["up?", "budget?", "come back?", "hit ratio?", "denied?", "down?"];
    assert!(
        titles.len() == asked.len() && titles.iter().zip(asked).all(|(title, ask)| title.ends_with(ask)),
        "{titles:?}"
    );
}

#[test]
fn each_alert_leads_to_what_to_do() {
    let rules = rules();
    let alerts: Vec<_> =
        rules.iter().filter_map(|rule| Some((rule.title.strip_prefix("alert: ")?, &rule.text))).collect();
    assert!(alerts.len() > 10, "{}", alerts.len());
    for (name, text) in alerts {
        let runbook = between(text, "runbook_url: ", "\n").next().unwrap_or_else(|| panic!("{name} has no runbook"));
        let (file, anchor) = runbook.split_once('#').unwrap_or_else(|| panic!("{runbook}"));
        assert_eq!(anchor, name.to_lowercase(), "{name}");
        assert!(read(file).lines().any(|line| line == format!("## {name}")), "{file} says nothing of {name}");
    }
}
