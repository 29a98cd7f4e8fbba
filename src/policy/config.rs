//! The config blob of an image (image-spec, "Image Configuration"), as far as rules look at it.

use serde_json::{Map, Value};

use crate::oci::{Malformed, folded};

/// A longer config is not read, in bytes. Configs of images have 1 to 100 KiB; parsed, one of this size takes at most 64 MiB.
pub const MOST_CONFIG_BYTES: u64 = 1 << 20;

/// What an image says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `linux/arm64/v8`.
    pub platform: String,
    /// When it was made, as written.
    pub created: Option<String>,
    /// The user that it starts as, as written; empty for none.
    pub user: String,
    /// The environment, each as `NAME=value`.
    pub env: Vec<String>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// The words of Entrypoint, Cmd and the command of the health check.
    pub words: Vec<String>,
    /// Ports that are exposed, as `80/tcp`.
    pub ports: Vec<String>,
    /// How each step of the build was made, the first one first.
    pub history: Vec<String>,
    /// Whether it names layers to start from, without which no engine runs it.
    pub has_root: bool,
}

impl ImageConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// [`Malformed`] when it is too long, no JSON, of another shape than a config, or when a key stands there in two letter cases, of
    /// which a container engine takes the last.
    pub fn read(bytes: &[u8]) -> Result<ImageConfig, Malformed> {
        if bytes.len() as u64 > MOST_CONFIG_BYTES {
            return Err(Malformed(format!("a config of {} bytes is not read", bytes.len())));
        }
        let document: Value = serde_json::from_slice(bytes).map_err(|error| Malformed(error.to_string()))?;
        let Value::Object(document) = document else { return Err(malformed("config")) };
        let nothing = Map::new();
        let container = match field(&document, "config")? {
            None => &nothing,
            Some(Value::Object(container)) => container,
            Some(_) => return Err(malformed("config")),
        };
        let platform = ["os", "architecture", "variant"].map(|key| text(&document, key));
        let platform = platform.into_iter().collect::<Result<Vec<_>, _>>()?;
        let platform: Vec<_> = platform.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        let mut words = texts(container, "Entrypoint")?;
        words.extend(texts(container, "Cmd")?);
        if let Some(check) = field(container, "Healthcheck")? {
            words.extend(texts(check.as_object().ok_or_else(|| malformed("Healthcheck"))?, "Test")?);
        }
        let history = match field(&document, "history")? {
            None => Vec::new(),
            Some(Value::Array(steps)) => steps.iter().map(step).collect::<Result<_, _>>()?,
            Some(_) => return Err(malformed("history")),
        };
        let diff_ids = match field(&document, "rootfs")? {
            Some(Value::Object(root)) => field(root, "diff_ids")?,
            _ => None,
        };
        Ok(ImageConfig {
            has_root: diff_ids.and_then(Value::as_array).is_some_and(|layers| !layers.is_empty()),
            platform: platform.join("/"),
            created: text(&document, "created")?,
            user: text(container, "User")?.unwrap_or_default(),
            env: texts(container, "Env")?,
            labels: labels(container)?,
            words,
            ports: match field(container, "ExposedPorts")? {
                None => Vec::new(),
                Some(Value::Object(ports)) => ports.keys().cloned().collect(),
                Some(_) => return Err(malformed("ExposedPorts")),
            },
            history,
        })
    }
}

fn malformed(key: &str) -> Malformed {
    Malformed(format!("{key} is not what an image-spec config has there"))
}

/// The value of a key, in whatever letter case it stands there; `None` for null too.
fn field<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Option<&'a Value>, Malformed> {
    let key = folded(key);
    let mut found = object.iter().filter(|(name, _)| folded(name) == key);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Malformed(format!("{key} stands there in two letter cases"))),
        (value, None) => Ok(value.map(|(_, value)| value).filter(|value| !value.is_null())),
    }
}

fn text(object: &Map<String, Value>, key: &str) -> Result<Option<String>, Malformed> {
    let value = field(object, key)?;
    value.map(|value| value.as_str().map(str::to_owned).ok_or_else(|| malformed(key))).transpose()
}

fn texts(object: &Map<String, Value>, key: &str) -> Result<Vec<String>, Malformed> {
    match field(object, key)? {
        None => Ok(Vec::new()),
        // Schema 1 wrote a command as one text.
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(values)) => {
            let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| malformed(key));
            values.iter().map(text).collect()
        }
        Some(_) => Err(malformed(key)),
    }
}

fn labels(container: &Map<String, Value>) -> Result<Vec<(String, String)>, Malformed> {
    match field(container, "Labels")? {
        None => Ok(Vec::new()),
        Some(Value::Object(labels)) => {
            let pair = |(key, value): (&String, &Value)| {
                let value = value.as_str().ok_or_else(|| malformed("Labels"))?;
                Ok((key.clone(), value.to_owned()))
            };
            labels.iter().filter(|(_, value)| !value.is_null()).map(pair).collect()
        }
        Some(_) => Err(malformed("Labels")),
    }
}

/// How a step of the history was made.
fn step(step: &Value) -> Result<String, Malformed> {
    let step = step.as_object().ok_or_else(|| malformed("history"))?;
    Ok(text(step, "created_by")?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_read_as_a_container_engine_reads_it() {
        let read = ImageConfig::read(
            br#"{"os":"linux","architecture":"arm64","variant":"v8","created":"2026-01-01T00:00:00Z","CONFIG":{"user":"app",
                "Env":["A=b"],"Labels":{"k":"v","n":null},"Entrypoint":["/a"],"Cmd":"b","ExposedPorts":{"80/tcp":{}},
                "Healthcheck":{"Test":["CMD","c"]}},"history":[{"created_by":"RUN x"},{"comment":"y"}],"rootfs":null}"#,
        )
        .unwrap();
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!((&*read.platform, &*read.user), ("linux/arm64/v8", "app"));
        assert_eq!((read.env, read.words), (texts(&["A=b"]), texts(&["/a", "b", "CMD", "c"])));
        assert_eq!((read.ports, read.history), (texts(&["80/tcp"]), texts(&["RUN x", ""])));
        assert_eq!(read.labels, [("k".to_owned(), "v".to_owned())]);
        assert_eq!(ImageConfig::read(b"{}").unwrap(), ImageConfig::default());
        assert_eq!(ImageConfig::read(br#"{"config":null,"history":null}"#).unwrap(), ImageConfig::default());
    }

    #[test]
    fn what_two_readers_read_in_two_ways_or_has_another_shape_is_no_evidence() {
        let two_cases = [
            ("user", "User"),
            ("u\u{17f}er", "User"),
            ("ENTRYPOINT", "Entrypoint"),
            ("healthchec\u{212a}", "Healthcheck"),
        ]
        .map(|(one, other)| format!(r#"{{"config":{{"{one}":null,"{other}":null}}}}"#));
        let long = format!(r#"{{"config":{{"User":"{}"}}}}"#, "1".repeat(MOST_CONFIG_BYTES as usize));
        let deep = format!(r#"{{"config":{}"#, "[".repeat(100_000));
        let shapes = [r#"{"config":[]}"#, r#"{"config":{"User":0}}"#, r#"{"config":{"Env":[1]}}"#, "[]", "", "{} {}"];
        let shapes = shapes.into_iter().chain([r#"{"history":{}}"#, r#"{"config":{"Labels":{"a":1}}}"#]);
        for bad in shapes.map(str::to_owned).chain(two_cases).chain([long, deep]) {
            assert!(ImageConfig::read(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
        // Go's letters: the long s is an s.
        assert_eq!(ImageConfig::read("{\"config\":{\"u\u{17f}er\":\"0\"}}".as_bytes()).unwrap().user, "0");
        // Of two equal keys the last one counts, as in container engines.
        assert_eq!(ImageConfig::read(br#"{"config":{"User":"1000","User":"0"}}"#).unwrap().user, "0");
    }
}
