//! The control API: the hub's buttons as JSON over HTTP, for shell scripts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Map, Value, json};
use tokio::net::TcpStream;

use super::content::digest;
use super::gate::Gate;
use super::log::{Authorization, Entry, Log, Logged, Progress};
use super::parse::{self, ParseError};
use super::response::Response;
use super::send::{Delivery, send};
use super::wire::{Connection, Request};
use super::{Artifact, Hub, Image, Kind};

/// What the control API holds besides the hub.
pub(super) struct Control {
    hub: Hub,
    started: Instant,
    gates: Mutex<HashMap<u64, Arc<Gate>>>,
}

impl Control {
    pub(super) fn new(hub: Hub) -> Arc<Control> {
        Arc::new(Control { hub, started: Instant::now(), gates: Mutex::default() })
    }

    /// Serves one connection.
    pub(super) async fn converse(self: Arc<Control>, stream: TcpStream, peer: std::net::SocketAddr) {
        let mut connection = Connection::new(stream, peer);
        let nothing = Log::default();
        while let Ok(Some(request)) = connection.next().await {
            let answer = match self.answer(&request).await {
                Ok(value) => Response::new(200).body("application/json", format!("{value}\n")),
                Err(wrong) => Response::new(400).body("application/json", format!("{}\n", json!({"error": wrong}))),
            };
            let delivery = Delivery {
                head: request.method == "HEAD",
                keep_alive: request.keep_alive,
                bandwidth: None,
                fault: None,
                released: self.hub.shared.released.subscribe(),
            };
            let mut entry = Entry { log: &nothing, id: 0 };
            if !send(&mut connection, answer, delivery, &mut entry).await.unwrap_or(false) {
                break;
            }
        }
    }

    async fn answer(self: &Arc<Control>, request: &Request) -> Result<Value, ParseError> {
        let hub = &self.hub;
        let body = String::from_utf8_lossy(&request.body);
        let done = Ok(json!({"done": true}));
        match (request.method.as_str(), request.path()) {
            ("GET", "/") => Ok(json!({
                "registry": hub.registry().as_str(), "cdn": hub.cdn().as_str(), "evil": hub.hostile_address(), "help": super::HELP,
            })),
            ("GET", "/fault") => Ok(hub.faults().iter().map(|fault| format!("{fault:?}")).collect::<Vec<_>>().into()),
            ("POST", "/fault") => {
                hub.fault(parse::fault(&body)?);
                done
            }
            ("DELETE", "/fault") => {
                hub.clear_faults();
                hub.release();
                done
            }
            ("POST", "/release") => {
                hub.release();
                done
            }
            ("POST", "/hold") => Ok(json!({"gate": self.hold(&body)?})),
            ("POST", "/open") => {
                let opened = match number(&parse::object(&body, "gate")?, "gate") {
                    Ok(gate) => self.gates.lock().unwrap().remove(&(gate as u64)).into_iter().collect(),
                    Err(_) => self.gates.lock().unwrap().drain().map(|(_, gate)| gate).collect::<Vec<_>>(),
                };
                opened.iter().for_each(|gate| gate.open());
                done
            }
            ("GET", "/wait") => self.wait(request).await,
            ("POST", "/budget") => {
                let asked = parse::object(&body, "remaining")?;
                let remaining = number(&asked, "remaining")?;
                match asked["account"].as_str() {
                    Some(account) => hub.set_account_budget(account, remaining),
                    None => hub.set_budget(remaining),
                }
                done
            }
            ("POST", "/down") => {
                hub.down().await;
                done
            }
            ("POST", "/up") => {
                hub.up().await.map_err(|error| error.to_string())?;
                done
            }
            ("POST", "/image") => self.push(&body).await,
            ("POST", "/retag") => {
                let asked = parse::object(&body, "repository")?;
                hub.retag(text(&asked, "repository")?, text(&asked, "tag")?, text(&asked, "digest")?);
                done
            }
            ("POST", "/remove") => {
                let asked = parse::object(&body, "repository")?;
                match asked["reference"].as_str() {
                    Some(reference) => hub.remove(text(&asked, "repository")?, reference),
                    None => hub.remove_repository(text(&asked, "repository")?),
                }
                done
            }
            ("POST", "/referrer") => {
                let asked = parse::object(&body, "repository")?;
                let manifest = hub.push_referrer(Artifact {
                    repository: text(&asked, "repository")?.to_owned(),
                    subject: text(&asked, "subject")?.to_owned(),
                    artifact_type: text(&asked, "artifact_type")?.to_owned(),
                    annotations: Vec::new(),
                    content: asked["content"].as_str().unwrap_or("content").to_owned().into(),
                });
                Ok(json!({"digest": manifest.digest}))
            }
            ("POST", "/settings") => {
                self.adjust(&parse::object(&body, "")?)?;
                done
            }
            ("POST", "/revoke") => {
                hub.revoke_tokens();
                done
            }
            ("GET", "/log") => Ok(self.log(request)?.iter().map(|logged| self.shown(logged)).collect()),
            ("GET", "/counts") => Ok(counts(&self.log(request)?)),
            ("DELETE", "/log") => {
                hub.clear_log();
                done
            }
            ("GET", "/evil") => Ok(hub
                .hostile_requests()
                .iter()
                .map(|evil| json!({"request": evil.request, "headers": headers(&evil.headers)}))
                .collect()),
            (method, path) => Err(format!("{method} {path} is not known here; GET / says what is")),
        }
    }

    async fn push(self: &Arc<Control>, body: &str) -> Result<Value, ParseError> {
        let spec = parse::image(body)?;
        let control = Arc::clone(self);
        let pushed = tokio::task::spawn_blocking(move || control.hub.push(spec)).await;
        let image = pushed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(described(&image))
    }

    fn hold(&self, body: &str) -> Result<u64, ParseError> {
        let gate = Arc::new(self.hub.hold(parse::requests(body)?));
        let mut gates = self.gates.lock().unwrap();
        let id = gates.keys().max().map_or(1, |id| id + 1);
        gates.insert(id, gate);
        Ok(id)
    }

    /// Waits for `count` requests at a gate, or for `count` entries in the log that are so.
    async fn wait(&self, request: &Request) -> Result<Value, ParseError> {
        let count = request.asks("count").and_then(|count| count.parse().ok()).unwrap_or(1);
        let reached = match request.asks("gate").and_then(|gate| gate.parse::<u64>().ok()) {
            Some(id) => {
                let gate = self.gates.lock().unwrap().get(&id).cloned().ok_or("there is no such gate")?;
                gate.held(count).await
            }
            None => {
                let wanted = wanted(request)?;
                self.hub.wait_for(|log| log.iter().filter(|logged| wanted(logged)).count() as u64 >= count).await
            }
        };
        if reached { Ok(json!({"done": true})) } else { Err("it did not come to that in time".to_owned()) }
    }

    fn log(&self, request: &Request) -> Result<Vec<Logged>, ParseError> {
        let wanted = wanted(request)?;
        Ok(self.hub.log().into_iter().filter(|logged| wanted(logged)).collect())
    }

    fn adjust(&self, asked: &Value) -> Result<(), ParseError> {
        let mut result = Ok(());
        self.hub.adjust(|settings| {
            let mut changed = settings.clone();
            result = asked.as_object().into_iter().flatten().try_for_each(|(key, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let limited =
                    |text: &str| Ok::<_, ParseError>(if text == "none" { None } else { Some(parse::size(text)?) });
                match key.as_str() {
                    "bandwidth" => changed.bandwidth = limited(&text)?,
                    "page" => changed.page = limited(&text)?.map(|page| page as usize),
                    "latency" => changed.latency = parse::duration(&text)?,
                    "token_life" => changed.token_life = parse::duration(&text)?,
                    "cdn_life" => changed.cdn_life = parse::duration(&text)?,
                    "referrers" => changed.referrers = text == "true",
                    "redirect_blobs" => changed.redirect_blobs = text == "true",
                    key => return Err(format!("no setting is called {key}")),
                }
                Ok(())
            });
            if result.is_ok() {
                *settings = changed;
            }
        });
        result
    }

    fn shown(&self, logged: &Logged) -> Value {
        json!({
            "id": logged.id,
            "at_ms": logged.at.saturating_duration_since(self.started).as_millis() as u64,
            "from": logged.from.to_string(),
            "method": logged.method,
            "kind": logged.kind.name(),
            "repository": logged.repository,
            "reference": logged.reference,
            "target": logged.target,
            "authorization": match &logged.authorization {
                Authorization::None => "none".to_owned(),
                Authorization::Basic(user) => format!("basic:{user}"),
                Authorization::Bearer => "bearer".to_owned(),
                Authorization::Other => "other".to_owned(),
            },
            "range": logged.range,
            "headers": headers(&logged.headers),
            "status": logged.status,
            "counted": logged.counted,
            "bytes_sent": logged.bytes_sent,
            "progress": progress(logged.progress),
        })
    }
}

/// The requests that the query names: `kind`, `repository`, `reference`, `status`, `progress`, `counted`.
fn wanted(request: &Request) -> Result<impl Fn(&Logged) -> bool + use<>, ParseError> {
    let asked = request.query();
    if let Some((key, _)) = asked.iter().find(|(key, _)| {
        !["kind", "repository", "reference", "status", "progress", "counted", "count", "gate"].contains(&key.as_str())
    }) {
        return Err(format!("requests are not distinguished by {key}"));
    }
    if let Some((_, name)) = asked.iter().find(|(key, name)| key == "kind" && Kind::named(name).is_none()) {
        return Err(format!("no kind of request is called {name}"));
    }
    Ok(move |logged: &Logged| {
        asked.iter().all(|(key, value)| match key.as_str() {
            "kind" => logged.kind.name() == value,
            "repository" => logged.repository == *value,
            "reference" => logged.reference == *value,
            "status" => logged.status.to_string() == *value,
            "progress" => progress(logged.progress) == value,
            "counted" => logged.counted.to_string() == *value,
            _ => true,
        })
    })
}

/// Every kind with its number, and how many were charged.
fn counts(log: &[Logged]) -> Value {
    let mut counts = Map::new();
    for kind in Kind::ALL {
        counts.insert(kind.name().to_owned(), log.iter().filter(|logged| logged.kind == kind).count().into());
    }
    counts.insert("counted".to_owned(), log.iter().filter(|logged| logged.counted).count().into());
    counts.into()
}

fn progress(progress: Progress) -> &'static str {
    match progress {
        Progress::Open => "open",
        Progress::Stalled => "stalled",
        Progress::Sent => "sent",
        Progress::Broken => "broken",
    }
}

/// Headers as an object. A credential is shown as the digest of its value: enough to compare, useless to a thief.
fn headers(headers: &[(String, String)]) -> Value {
    let shown = headers.iter().map(|(name, value)| match name.as_str() {
        "authorization" | "cookie" => (name.clone(), Value::from(digest(value.as_bytes()))),
        _ => (name.clone(), Value::from(value.as_str())),
    });
    Value::Object(shown.collect())
}

fn described(image: &Image) -> Value {
    let platforms = image.platforms.iter().map(|platform| {
        json!({
            "platform": platform.name,
            "manifest": platform.manifest.digest,
            "config": platform.config.digest,
            "layers": platform.layers.iter().map(|layer| json!({"digest": layer.digest, "size": layer.size})).collect::<Vec<_>>(),
        })
    });
    json!({"repository": image.repository, "tags": image.tags, "digest": image.digest(), "platforms": platforms.collect::<Vec<_>>()})
}

fn number(asked: &Value, key: &str) -> Result<i64, ParseError> {
    let value = &asked[key];
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(|| format!("{key} is a whole number"))
}

fn text<'a>(asked: &'a Value, key: &str) -> Result<&'a str, ParseError> {
    asked[key].as_str().ok_or_else(|| format!("{key} is missing"))
}
