//! An admin listener on loopback with accounts, throttles and bans, and a client that asks it as a browser does.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use argon2::{
    Argon2, Params,
    password_hash::{PasswordHasher as _, SaltString},
};
use weir::{
    admin::{self, AllowedHosts, Dependencies, Draining, Reloads, Totals},
    client::{Client, ClientKey},
    identity::Authenticator,
    limits::{
        Account, Limits, LimitsConfig, Role, abuse,
        permit::{AdmissionRequest, RequestInfo, RequestKind},
        recent::RecentRequest,
        throttle::{Algorithm, Mode, Rules, Throttle},
    },
    mirror::{Lookup, Mirror},
    route::Routes,
    telemetry::Tail,
};
use weir_conformance::hub::{self, Spec};

use crate::mirror::support::{Bench, Change, lookup};

/// Totals as of a busy registry: each reading finds some more.
fn growing() -> admin::ReadTotals {
    let readings = AtomicU64::new(0);
    Box::new(move || {
        let count = readings.fetch_add(1, Ordering::Relaxed);
        let requests = 900 * count + 40 * (count % 17);
        let (answers, from_cache) = (requests / 2, requests / 2 - count);
        let (denied, failed, sent_bytes, received_bytes) = (count / 50, count / 300, requests << 20, count << 22);
        // Less of the bytes than of the answers comes from the cache: what is fetched is large.
        let (answer_bytes, from_cache_bytes) = (4 * sent_bytes, 3 * sent_bytes);
        Totals {
            requests,
            denied,
            refused_by_budget: 0,
            failed,
            answers,
            from_cache,
            answer_bytes,
            from_cache_bytes,
            sent_bytes,
            received_bytes,
        }
    })
}

/// Everything that a page shows, running.
pub(crate) struct Harness {
    pub(crate) bench: Bench,
    pub(crate) limits: Limits,
    pub(crate) admin: SocketAddr,
    pub(crate) reloads: Reloads,
    pub(crate) log: Tail,
    _serving: admin::Serving,
}

/// An account whose password is its name and `'s password`.
pub(crate) fn account(name: &str, is_admin: bool, networks: &[&str], namespaces: &[&str]) -> Account {
    let cheap = Argon2::new(Default::default(), Default::default(), Params::new(8, 1, 1, None).unwrap());
    let salt = SaltString::from_b64("c29tZXNhbHQ").unwrap();
    let hash = cheap.hash_password(password(name).as_bytes(), &salt).unwrap().to_string();
    Account {
        name: name.into(),
        password_hash: hash.into(),
        role: if is_admin { Role::Admin } else { Role::User },
        budget_override: false,
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        namespaces: namespaces.iter().map(|namespace| (*namespace).to_owned()).collect(),
        pull: Arc::from([]),
        push: Arc::from([]),
        delete: Arc::from([]),
    }
}

pub(crate) fn password(name: &str) -> String {
    format!("{name}'s password")
}

/// Ann owns 10.1.0.0/16 and `shop/`, bob owns 10.2.0.0/16, ops is an admin; one throttle in dry run; automatic bans in force.
pub(crate) fn rulebook() -> LimitsConfig {
    let throttle = Throttle {
        name: "throttle_unauthenticated_pulls".to_owned(),
        requests_per_period: 40,
        period_in_seconds: 3600,
        burst: Some(10),
        algorithm: Algorithm::Gcra,
        mode: Mode::DryRun,
    };
    LimitsConfig {
        throttles: Rules::new(&[throttle], &[], 8).unwrap(),
        abuse: abuse::Settings { mode: Mode::Enforce, ..abuse::Settings::default() },
        accounts: Arc::from([
            account("ann", false, &["10.1.0.0/16"], &["shop/"]),
            account("bob", false, &["10.2.0.0/16"], &[]),
            account("ops", true, &[], &[]),
        ]),
        ..LimitsConfig::default()
    }
}

/// The admin listener of a mirror, and where it listens.
pub(crate) fn listen(
    mirror: Mirror,
    limits: Limits,
    (reloads, log): (Reloads, Tail),
    change: impl FnOnce(&mut admin::Settings),
) -> (SocketAddr, admin::Serving) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = socket.local_addr().unwrap();
    let mut settings = admin::Settings {
        hosts: AllowedHosts {
            listen: admin,
            public: Some("weir.example.com".to_owned()),
            public_is_https: true,
            others: Vec::new(),
            is_tls: false,
        },
        tls: None,
        login: false,
        routes: Routes::new(Some("docker.io"), ["docker.io"]).into(),
    };
    change(&mut settings);
    let settle: admin::Settle = Box::new(|| Box::pin(std::future::ready(Ok(()))));
    let dependencies = Dependencies {
        mirror,
        limits: limits.clone(),
        authenticator: Authenticator::new(limits),
        settle,
        metrics: weir::telemetry::registry(),
        draining: Draining::default(),
        totals: growing(),
        // A browser sees graphs of a day after a few seconds.
        sample_every: Duration::from_millis(10),
        reloads,
        log,
    };
    (admin, admin::serve(settings, socket, None, dependencies).unwrap())
}

impl Harness {
    pub(crate) async fn start() -> Harness {
        Harness::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut admin::Settings)) -> Harness {
        let limit = hub::Limit { pulls: 100, window: Duration::from_secs(21_600) };
        let bench =
            Bench::start(hub::Settings { limit: Some(limit), ..hub::Settings::default() }, Change::default()).await;
        bench.mirror.warm.start().unwrap();
        let (limits, shown) = (Limits::in_memory(rulebook()), (Reloads::default(), Tail::default()));
        let (admin, serving) = listen(bench.mirror.clone(), limits.clone(), shown.clone(), change);
        let (reloads, log) = shown;
        Harness { bench, limits, admin, reloads, log, _serving: serving }
    }

    /// Lets a client ask for images that do not exist until a rule blocks it, and returns the id of its ban.
    pub(crate) fn block(&self, client: &str, repository: &str) -> String {
        let (address, now): (IpAddr, _) = (client.parse().unwrap(), SystemTime::now());
        let client = Arc::new(self.limits.describe_client(ClientKey::Address(address), address, ""));
        for number in 0..60 {
            // What is asked again within two seconds is a retry and does not count.
            let reference = format!("{number}.{}", self.limits.audit(10_000).len());
            let about = RequestInfo { method: "GET", repository, reference: &reference };
            let request = AdmissionRequest { client: client.clone(), kind: RequestKind::Pull, about, bypass: None };
            if let Ok(permit) = self.limits.admit(&request, now) {
                self.limits.record_outcome(&permit, about, 404, now);
            }
        }
        self.limits.ban_of(&client.key, address, now).expect("sixty different misses lead to a ban").id
    }

    /// Spends some of the budget upstream, in the names of several clients.
    pub(crate) async fn spend(&self) {
        for number in 0..25_u8 {
            let repository = format!("library/image-{}", number % 9);
            self.bench.hub.push(Spec::new(&repository).seed(u64::from(number))).unwrap();
            let client = Arc::new(Client::anonymous([10, 5, 0, number % 4].into(), [10, 5, 0, number % 4].into()));
            let lookup = Lookup { client, ..lookup(&repository, &[]) };
            self.bench.mirror.manifests.get(&lookup, &"latest".parse().unwrap()).await.unwrap();
        }
    }

    /// Lets a client pull so often.
    pub(crate) fn pull(&self, client: &str, times: usize) {
        let address: IpAddr = client.parse().unwrap();
        let client = Arc::new(self.limits.describe_client(ClientKey::Address(address), address, ""));
        let about = RequestInfo { method: "GET", repository: "library/busybox", reference: "1.36" };
        for _ in 0..times {
            let request = AdmissionRequest { client: client.clone(), kind: RequestKind::Pull, about, bypass: None };
            let _ = self.limits.admit(&request, SystemTime::now());
        }
    }

    /// What a client asked so often, as the registry side notes it, and once refused.
    pub(crate) fn ask(&self, client: &str, times: u64) {
        let key = ClientKey::Address(client.parse().unwrap());
        for number in 0..times {
            let is_refused = number == 0;
            let request = RecentRequest {
                at: SystemTime::now(),
                method: "GET",
                path: format!("/v2/library/image-{number}/manifests/latest").into(),
                ns: Some("docker.io".into()),
                status: if is_refused { 429 } else { 200 },
                bytes: 1000,
                milliseconds: number,
                cache: Some("hit").filter(|_| !is_refused),
                rule: is_refused.then(|| "throttle_unauthenticated_pulls".into()),
            };
            self.limits.record_request(&key, request, Some(&format!("library/image-{}:latest", number % 2)));
        }
    }

    /// What the audit says was refused: who, what, why. Newest first.
    pub(crate) fn refusals(&self) -> Vec<(String, String, String)> {
        use weir::limits::{audit::Event, bans::BanEvent};
        let entries = self.limits.audit(10_000).into_iter();
        let refused = entries.filter_map(|entry| match entry.event {
            Event::Ban(event) => match *event {
                BanEvent::Refused { attempt, reason, .. } => Some((entry.by, attempt, reason)),
                _ => None,
            },
            Event::Admin(_) => None,
        });
        refused.collect()
    }

    pub(crate) fn is_blocked(&self, client: &str) -> bool {
        let address: IpAddr = client.parse().unwrap();
        self.limits.ban_of(&ClientKey::Address(address), address, SystemTime::now()).is_some()
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header field; empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or("")
    }

    /// The value of an attribute of the first element that begins so.
    pub(crate) fn attribute(&self, element: &str, name: &str) -> String {
        let rest = self.body.split_once(element).unwrap_or_else(|| panic!("no {element}: {}", self.body)).1;
        let rest = rest.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name}: {}", self.body)).1;
        rest.split('"').next().unwrap().replace("&quot;", "\"").replace("&amp;", "&")
    }

    pub(crate) fn token(&self) -> String {
        self.attribute("name=\"csrf\"", "value")
    }
}

/// Keeps a cookie, sends it, and says where its forms come from.
pub(crate) struct Browser {
    pub(crate) admin: SocketAddr,
    pub(crate) host: String,
    pub(crate) cookie: String,
}

impl Browser {
    pub(crate) fn new(harness: &Harness) -> Browser {
        Browser { admin: harness.admin, host: harness.admin.to_string(), cookie: String::new() }
    }

    pub(crate) fn logged_in(harness: &Harness, name: &str) -> Browser {
        let mut visitor = Browser::new(harness);
        let answer = visitor.log_in(name, &password(name), "/");
        assert_eq!(answer.status, 303, "{answer:?}");
        visitor
    }

    pub(crate) fn log_in(&mut self, name: &str, password: &str, next: &str) -> Answer {
        let token = self.get("/login").token();
        self.post("/login", &[("csrf", &token), ("name", name), ("password", password), ("next", next)])
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    /// Asks for a page until it says so.
    pub(crate) fn until(&mut self, path: &str, words: &str) -> Answer {
        let begun = Instant::now();
        loop {
            let page = self.get(path);
            if page.body.contains(words) {
                return page;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{words}: {}", page.body);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As a browser sends a form of this origin.
    pub(crate) fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let origin = format!("http://{}", self.host);
        self.post_from(&[("Origin", &origin), ("Sec-Fetch-Site", "same-origin")], path, fields)
    }

    pub(crate) fn post_from(&mut self, headers: &[(&str, &str)], path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut headers = headers.to_vec();
        headers.push(("Content-Type", "application/x-www-form-urlencoded"));
        self.send("POST", path, &headers, &body)
    }

    /// Asks for what never ends, and gives its status.
    pub(crate) fn begin(&mut self, path: &str) -> u16 {
        let mut line = String::new();
        BufReader::new(self.ask("GET", path, &[], "")).read_line(&mut line).unwrap();
        line[9..12].parse().unwrap()
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.admin).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.host);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.cookie.is_empty() {
            head += &format!("Cookie: {}\r\n", self.cookie);
        }
        if method != "GET" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        write!(socket, "{head}\r\n{body}").unwrap();
        socket
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut answer = Vec::new();
        self.ask(method, path, headers, body).read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer:?}"));
        let answer = Answer { status: head[9..12].parse().unwrap(), head: head.to_owned(), body: body.to_owned() };
        let set = answer.header("set-cookie");
        if !set.is_empty() {
            self.cookie = set.split(';').next().unwrap().to_owned();
        }
        answer
    }
}
