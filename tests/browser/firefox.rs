//! A headless Firefox over its own protocol, Marionette: a length, a colon, and `[type, id, command, parameters]` in JSON. Debian has no
//! geckodriver. A program that is missing fails the test.

use std::{
    cell::Cell,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::driver::Window;

/// Nothing here takes longer, but on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Firefox with an empty profile, in light or dark. Dropping it ends it.
pub(crate) struct Firefox {
    process: Child,
    socket: BufReader<TcpStream>,
    last: Cell<u64>,
    _profile: tempfile::TempDir,
}

impl Firefox {
    pub(crate) fn start(scheme: &str) -> Firefox {
        let profile = tempfile::tempdir().unwrap();
        // Free until Firefox takes it: it cannot choose one itself and say which.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dark = if scheme == "dark" { 0 } else { 1 };
        let preferences = [
            format!("\"marionette.port\", {port}"),
            format!("\"layout.css.prefers-color-scheme.content-override\", {dark}"),
            // It asks no host but this machine.
            "\"network.proxy.type\", 1".to_owned(),
            "\"network.proxy.http\", \"127.0.0.1\"".to_owned(),
            "\"network.proxy.http_port\", 9".to_owned(),
            "\"network.proxy.ssl\", \"127.0.0.1\"".to_owned(),
            "\"network.proxy.ssl_port\", 9".to_owned(),
            "\"browser.shell.checkDefaultBrowser\", false".to_owned(),
            "\"datareporting.policy.dataSubmissionEnabled\", false".to_owned(),
        ];
        let lines: String = preferences.iter().map(|preference| format!("user_pref({preference});\n")).collect();
        std::fs::write(profile.path().join("user.js"), lines).unwrap();
        let process = Command::new("firefox-esr")
            .args(["--headless", "--marionette", "--no-remote", "--profile"])
            .arg(profile.path())
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("firefox-esr: install Debian's firefox-esr");
        let begun = Instant::now();
        let socket = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(socket) => break socket,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "Firefox does not listen: {error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut firefox = Firefox { process, socket: BufReader::new(socket), last: Cell::new(0), _profile: profile };
        let hello = firefox.read();
        assert_eq!(hello["applicationType"], "gecko", "{hello}");
        firefox.ask("WebDriver:NewSession", json!({}));
        firefox
    }

    fn read(&mut self) -> Value {
        let mut length = Vec::new();
        self.socket.read_until(b':', &mut length).unwrap();
        let length = std::str::from_utf8(&length).unwrap().trim_end_matches(':').parse().unwrap();
        let mut message = vec![0; length];
        self.socket.read_exact(&mut message).unwrap();
        serde_json::from_slice(&message).unwrap()
    }

    fn ask(&mut self, command: &str, parameters: Value) -> Value {
        self.last.set(self.last.get() + 1);
        let message = json!([0, self.last.get(), command, parameters]).to_string();
        write!(self.socket.get_mut(), "{}:{message}", message.len()).unwrap();
        let mut answer = self.read();
        assert!(answer[2].is_null(), "{command}: {answer}");
        answer[3].take()
    }

    /// The whole page as PNG, in base64.
    pub(crate) fn screenshot(&mut self) -> String {
        self.ask("WebDriver:TakeScreenshot", json!({"full": true}))["value"].as_str().unwrap().to_owned()
    }

    pub(crate) fn open(&mut self, url: &str) {
        self.ask("WebDriver:Navigate", json!({"url": url}));
    }

    /// The window, so wide within its frame.
    pub(crate) fn resize(&mut self, width: u64) {
        let frame = self.evaluate("return outerWidth - innerWidth").as_u64().unwrap();
        self.ask("WebDriver:SetWindowRect", json!({"width": width + frame, "height": 900}));
    }
}

impl Window for Firefox {
    fn evaluate(&mut self, script: &str) -> Value {
        self.ask("WebDriver:ExecuteScript", json!({"script": script, "args": [], "sandbox": "default"}))["value"].take()
    }

    fn evaluate_later(&mut self, script: &str) -> Value {
        self.ask("WebDriver:ExecuteAsyncScript", json!({"script": script, "args": [], "sandbox": "default"}))["value"]
            .take()
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
