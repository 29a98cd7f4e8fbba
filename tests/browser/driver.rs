//! The dozen WebDriver commands that the browser tests need, over a chromedriver of their own. A program that is missing fails the test.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// Nothing here takes longer, but on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser that runs a script of a test in its page.
pub(crate) trait Window {
    fn evaluate(&mut self, script: &str) -> Value;
    /// Of what calls its last argument with a value once it has one.
    fn evaluate_later(&mut self, script: &str) -> Value;
}

impl<W: Window> Window for &mut W {
    fn evaluate(&mut self, script: &str) -> Value {
        W::evaluate(self, script)
    }

    fn evaluate_later(&mut self, script: &str) -> Value {
        W::evaluate_later(self, script)
    }
}

impl Window for &Browser {
    fn evaluate(&mut self, script: &str) -> Value {
        Browser::evaluate(self, script)
    }

    fn evaluate_later(&mut self, script: &str) -> Value {
        Browser::evaluate_later(self, script)
    }
}

/// A headless Chromium with an empty profile. Dropping it ends it.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// One that knows no host but this machine, with JavaScript or without.
    pub(crate) fn start(with_javascript: bool) -> Browser {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: install Debian's chromium-driver");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("chromedriver says its port").unwrap();
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        // It goes on talking, and must not block on that.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().unwrap();
        let mut flags: Vec<String> = [
            "headless",
            "no-sandbox",
            "disable-gpu",
            "disable-quic",
            "disable-dev-shm-usage",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            // Every name is this machine, so that a page cannot fetch anything from another.
            "host-resolver-rules=MAP * 127.0.0.1",
        ]
        .map(|flag| format!("--{flag}"))
        .into();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        let javascript = if with_javascript { 1 } else { 2 };
        let mut browser =
            Browser { driver, address: ([127, 0, 0, 1], port).into(), session: String::new(), _profile: profile };
        let options = json!({
            "args": flags,
            "prefs": {"profile.managed_default_content_settings.javascript": javascript},
        });
        let wanted =
            json!({"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let made = browser.command("POST", "/session", json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = made["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    pub(crate) fn open(&self, url: &str) {
        self.ask("POST", "/url", json!({"url": url}));
    }

    pub(crate) fn url(&self) -> String {
        self.ask("GET", "/url", Value::Null).as_str().unwrap().to_owned()
    }

    pub(crate) fn has(&self, css: &str) -> bool {
        !self.all(css).is_empty()
    }

    fn all(&self, css: &str) -> Vec<Value> {
        let found = self.ask("POST", "/elements", json!({"using": "css selector", "value": css}));
        found.as_array().unwrap().clone()
    }

    fn find(&self, css: &str) -> String {
        let found = self.ask("POST", "/element", json!({"using": "css selector", "value": css}));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// What is visible of it.
    pub(crate) fn text(&self, css: &str) -> String {
        let element = self.find(css);
        self.ask("GET", &format!("/element/{element}/text"), Value::Null).as_str().unwrap().to_owned()
    }

    pub(crate) fn is_enabled(&self, css: &str) -> bool {
        let element = self.find(css);
        self.ask("GET", &format!("/element/{element}/enabled"), Value::Null) == json!(true)
    }

    pub(crate) fn click(&self, css: &str) {
        let element = self.find(css);
        self.ask("POST", &format!("/element/{element}/click"), json!({}));
    }

    /// Clicks what leads to another page, and waits until that is there: an element of one page is none of another.
    pub(crate) fn go(&self, css: &str) {
        let before = self.all("h1");
        self.click(css);
        self.wait("the next page", |browser| {
            let now = browser.all("h1");
            !now.is_empty() && now != before
        });
    }

    pub(crate) fn type_into(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.ask("POST", &format!("/element/{element}/clear"), json!({}));
        self.ask("POST", &format!("/element/{element}/value"), json!({"text": text}));
    }

    /// What the browser itself says of a page, also where pages may run no script.
    pub(crate) fn evaluate(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", json!({"script": script, "args": []}))
    }

    /// As [`Browser::evaluate`], of what calls its last argument with a value once it has one.
    pub(crate) fn evaluate_later(&self, script: &str) -> Value {
        self.ask("POST", "/execute/async", json!({"script": script, "args": []}))
    }

    /// Asks until it is so; the pages have no event that tells a test.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Browser) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {}\n{}", self.url(), self.text("body"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Errors on the console since the last time: scripts that failed, and what the content security policy forbade.
    pub(crate) fn errors(&self) -> Vec<String> {
        let log = self.ask("POST", "/se/log", json!({"type": "browser"}));
        let severe = log.as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// The window, as wide as this, in light or dark.
    pub(crate) fn resize(&self, width: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    /// As if the browser were there, from the next page on.
    pub(crate) fn set_time_zone(&self, zone: &str) {
        self.devtools("Emulation.setTimezoneOverride", json!({"timezoneId": zone}));
    }

    /// The whole page as PNG.
    pub(crate) fn screenshot(&self, file: &Path) {
        let image = self.devtools("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        let image = BASE64_STANDARD.decode(image["data"].as_str().unwrap()).unwrap();
        std::fs::write(file, image).unwrap();
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        self.command(method, &format!("/session/{}{path}", self.session), body)
    }

    fn command(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
            self.address
        )
        .unwrap();
        // The driver does not close the connection, whatever it is asked.
        let (mut answer, mut status, mut length) = (BufReader::new(socket), String::new(), 0);
        answer.read_line(&mut status).unwrap();
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).unwrap();
            match line.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap();
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body).unwrap();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        assert!(status.contains(" 200 "), "{method} {path}: {body}");
        body["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.ask("DELETE", "", Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
