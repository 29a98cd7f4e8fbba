//! Traces: what a collector receives from a running Weir, over OTLP/HTTP in protobuf.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use weir_conformance::hub::{self, Hub, Match, Spec};

use crate::deploy::{PATIENCE, Running, ask};

/// A span as it was received.
#[derive(Clone, Debug, Default)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u64,
    start: u64,
    end: u64,
    attributes: BTreeMap<String, String>,
    links: Vec<(String, String)>,
    failed: bool,
}

/// A field of a message of protobuf: its number, and a number or bytes.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message (the encoding is at protobuf.dev; no group and no 32-bit number is expected).
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => {
                let (number, rest) = bytes.split_first_chunk::<8>().unwrap();
                bytes = rest;
                Field::Number(u64::from_le_bytes(*number))
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (content, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(content)
            }
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

/// The messages in a field.
fn messages(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    let of =
        |(found, field)| if let (true, Field::Bytes(bytes)) = (found == number, field) { Some(bytes) } else { None };
    fields(bytes).into_iter().filter_map(of).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_value(bytes: &[u8]) -> (String, String) {
    let (mut key, mut value) = (String::new(), String::new());
    for field in fields(bytes) {
        match field {
            (1, Field::Bytes(name)) => key = text(name),
            (2, Field::Bytes(any)) => {
                value = match fields(any).pop() {
                    Some((1, Field::Bytes(value))) => text(value),
                    Some((2 | 3, Field::Number(value))) => value.to_string(),
                    _ => panic!("{key} has no value"),
                }
            }
            (number, _) => panic!("KeyValue has no field {number}"),
        }
    }
    (key, value)
}

fn span(bytes: &[u8]) -> Span {
    let mut span = Span::default();
    for field in fields(bytes) {
        match field {
            (1, Field::Bytes(id)) => span.trace = hex(id),
            (2, Field::Bytes(id)) => span.id = hex(id),
            (4, Field::Bytes(id)) => span.parent = hex(id),
            (5, Field::Bytes(name)) => span.name = text(name),
            (6, Field::Number(kind)) => span.kind = kind,
            (7, Field::Number(start)) => span.start = start,
            (8, Field::Number(end)) => span.end = end,
            (9, Field::Bytes(pair)) => span.attributes.extend([key_value(pair)]),
            (13, Field::Bytes(link)) => {
                span.links.push((hex(messages(link, 1)[0]), hex(messages(link, 2)[0])));
            }
            (15, Field::Bytes(_)) => span.failed = true,
            (number, _) => panic!("Span has no field {number}"),
        }
    }
    span
}

/// What a collector has received so far.
#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    heads: Vec<String>,
}

/// A collector on loopback that takes everything.
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Arc::<Mutex<Received>>::default());
        let all = received.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (mut socket, mut bytes) = (socket.unwrap(), Vec::new());
                let body = loop {
                    let mut piece = [0; 4096];
                    let count = socket.read(&mut piece).unwrap();
                    bytes.extend_from_slice(&piece[..count]);
                    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                    let head = text(&bytes[..end]);
                    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
                    if bytes.len() - end - 4 == length.parse::<usize>().unwrap() {
                        all.lock().unwrap().heads.push(head);
                        break bytes.split_off(end + 4);
                    }
                };
                let mut all = all.lock().unwrap();
                for resource_spans in messages(&body, 1) {
                    let resource = messages(resource_spans, 1)[0];
                    all.resource.extend(messages(resource, 1).into_iter().map(key_value));
                    for scope_spans in messages(resource_spans, 2) {
                        all.spans.extend(messages(scope_spans, 2).into_iter().map(span));
                    }
                }
                drop(all);
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            }
        });
        Collector { address, received }
    }

    /// The spans, once this is true of them.
    fn until(&self, is_enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let begun = std::time::Instant::now();
        loop {
            let spans = self.received.lock().unwrap().spans.clone();
            if is_enough(&spans) {
                return spans;
            }
            assert!(begun.elapsed() < PATIENCE, "{spans:#?}");
            std::thread::yield_now();
        }
    }

    fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()),
        ]
    }
}

fn weir(hub: &Hub, environment: &[(&'static str, String)]) -> Running {
    let upstream = [("WEIR_UPSTREAM__0__URL", format!("http://{}", hub.registry_address()))];
    let all: Vec<_> = environment.iter().chain(&upstream).map(|(name, value)| (*name, value.as_str())).collect();
    Running::start(&all)
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_pull_is_one_trace_from_the_request_to_the_upstream_and_the_disk() {
    let (hub, collector) = (Hub::start(hub::Settings::default()).await.unwrap(), Collector::start());
    hub.push(Spec::new("library/app").tags(["1.0"]).single()).unwrap();
    let running = weir(&hub, &collector.environment());
    let extra = format!("Accept: */*\r\nUser-Agent: crane/1\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n");
    assert_eq!(ask(running.registry, "GET", "/v2/library/app/manifests/1.0", &extra).0, 200);
    let has = |spans: &[Span], name: &str| spans.iter().any(|span| span.name == name);
    let spans =
        collector.until(|spans| ["request", "flight", "upstream", "storage"].iter().all(|name| has(spans, name)));
    let request = spans.iter().find(|span| span.name == "request").unwrap();
    assert_eq!((&*request.trace, &*request.parent, request.kind), (TRACE, PARENT, 2), "the client's trace goes on");
    for (attribute, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", "/v2/library/app/manifests/1.0"),
        ("user_agent.original", "crane/1"),
        ("client.address", "127.0.0.1"),
        ("weir.upstream", "docker.io"),
        ("oci.repository", "library/app"),
        ("oci.reference", "1.0"),
        ("outcome", "miss"),
    ] {
        assert_eq!(request.attributes.get(attribute).map(String::as_str), Some(value), "{attribute}: {request:#?}");
    }
    // Each span lies in another one of the same trace, and ends after it began.
    for each in &spans {
        let parent = spans.iter().find(|parent| parent.id == each.parent);
        assert!(each.trace == TRACE && each.start > 0 && each.end >= each.start, "{each:#?}");
        match &*each.name {
            "request" => assert!(parent.is_none()),
            // The flight of a tag lies in that of its manifest.
            "flight" => assert!(["request", "flight"].contains(&&*parent.unwrap().name), "{each:#?}"),
            "upstream" => assert_eq!((&*parent.unwrap().name, each.kind), ("flight", 3)),
            _ => assert!(["flight", "upstream", "request"].contains(&&*parent.unwrap().name), "{each:#?}"),
        }
    }
    let received = collector.received.lock().unwrap();
    assert_eq!(received.resource["service.name"], "weir");
    let head = &received.heads[0];
    assert!(
        head.starts_with("POST /v1/traces HTTP/1.1") && head.contains("\r\nauthorization: Bearer canary"),
        "{head}"
    );
    drop(received);
    // The line of the log leads to the trace.
    while !running.log().contains(&format!(r#""trace_id":"{TRACE}""#)) {
        std::thread::yield_now();
    }
    assert!(!running.log().contains("canary"));
    let metrics = ask(running.admin, "GET", "/metrics", "").2;
    assert!(
        !metrics.contains("\nweir_trace_sent_spans_total 0\n") && metrics.contains("\nweir_trace_lost_spans_total 0\n")
    );
    // So does the bucket of the histogram, for who reads OpenMetrics.
    let exemplar = format!(" # {{trace_id=\"{TRACE}\"}} ");
    assert!(!metrics.contains("trace_id"), "{metrics}");
    let open_metrics = ask(running.admin, "GET", "/metrics", "Accept: application/openmetrics-text\r\n").2;
    let found: Vec<_> = open_metrics.lines().filter_map(|line| line.split_once(&exemplar)).collect();
    let [(sample, of)] = found[..] else { panic!("one bucket has it: {open_metrics}") };
    let (labels, count) = sample.rsplit_once(' ').unwrap();
    assert!(
        labels.starts_with("weir_http_traced_request_seconds_bucket{") && labels.contains("kind=\"manifest\""),
        "{sample}"
    );
    let bound: f64 = labels.split_once("le=\"").unwrap().1.split('"').next().unwrap().parse().unwrap();
    let seconds: f64 = of.parse().unwrap();
    assert!(count == "1" && 0.0 < seconds && seconds <= bound, "{sample}: {of}");
    // No upstream is told of it.
    assert_eq!(
        hub.count(|request| request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("traceparent"))),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_linked_to_the_flight_of_its_leader() {
    let (hub, collector) = (Hub::start(hub::Settings::default()).await.unwrap(), Collector::start());
    hub.push(Spec::new("library/app").tags(["1.0"]).single()).unwrap();
    let gate = hub.hold(Match::any().repository("library/app"));
    let running = weir(&hub, &collector.environment());
    let registry = running.registry;
    let pull =
        move || std::thread::spawn(move || ask(registry, "GET", "/v2/library/app/manifests/1.0", "Accept: */*\r\n").0);
    let pulls = [pull(), pull()];
    let joined = || {
        let metrics = ask(running.admin, "GET", "/metrics", "").2;
        let lines = metrics.lines().filter(|line| line.starts_with("weir_flights_joined_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    while joined() == 0 {
        std::thread::yield_now();
    }
    gate.open();
    for pull in pulls {
        assert_eq!(pull.join().unwrap(), 200);
    }
    let requests = |spans: &[Span]| spans.iter().filter(|span| span.name == "request").count();
    let spans = collector.until(|spans| requests(spans) == 2 && spans.iter().any(|span| span.name == "flight"));
    let linked: Vec<_> = spans.iter().filter(|span| span.name == "request" && !span.links.is_empty()).collect();
    assert!(!linked.is_empty(), "{spans:#?}");
    for follower in linked {
        let (trace, id) = &follower.links[0];
        let flight =
            spans.iter().find(|span| span.id == *id && span.trace == *trace).unwrap_or_else(|| panic!("{spans:#?}"));
        assert_eq!((&*flight.name, flight.trace == follower.trace), ("flight", false), "the leader has its own trace");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_sampled_leaves_no_span_and_no_collector_holds_up_a_request() {
    let (hub, collector) = (Hub::start(hub::Settings::default()).await.unwrap(), Collector::start());
    hub.push(Spec::new("library/app").tags(["1.0"]).single()).unwrap();
    let running = weir(
        &hub,
        &[&collector.environment()[..], &[("OTEL_TRACES_SAMPLER", "parentbased_always_off".to_owned())]].concat(),
    );
    let path = "/v2/library/app/manifests/1.0";
    assert_eq!(ask(running.registry, "GET", path, "Accept: */*\r\n").0, 200);
    let extra = format!("Accept: */*\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n");
    assert_eq!(ask(running.registry, "GET", path, &extra).0, 200);
    let spans = collector.until(|spans| !spans.is_empty());
    assert!(spans.iter().all(|span| span.trace == TRACE), "the client that asked for it is sampled alone: {spans:#?}");

    // One that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = weir(
        &hub,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", silent.local_addr().unwrap())),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4".to_owned()),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1".to_owned()),
        ],
    );
    for _ in 0..50 {
        assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
    }
    let lost = || {
        let metrics = ask(running.admin, "GET", "/metrics", "").2;
        let line = metrics.lines().find_map(|line| line.strip_prefix("weir_trace_lost_spans_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    while lost() < 40 {
        std::thread::yield_now();
    }
}
