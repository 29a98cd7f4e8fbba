//! Faults and images in words: as JSON for the control API, as `name,key=value,flag` for the command line, with one meaning.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault::{At, Fault, Match, What};
use super::image::{Layer, Media, Spec};
use super::log::Kind;

/// What is wrong with the words, in a sentence for the one who wrote them.
pub(super) type ParseError = String;

/// A fault as it is written. What a fault does not need is ignored; what is unknown is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultText {
    what: String,
    status: Option<Number>,
    at: Option<String>,
    share: Option<Number>,
    rate: Option<Number>,
    by: Option<Number>,
    size: Option<Number>,
    delay: Option<String>,
    retry_after: Option<Value>,
    count: Option<Number>,
    after: Option<Number>,
    #[serde(flatten)]
    on: MatchText,
}

/// Which requests, as it is written.
#[derive(Debug, Default, Deserialize)]
struct MatchText {
    kind: Option<String>,
    repository: Option<String>,
    reference: Option<String>,
    method: Option<String>,
}

/// A number, or the text of one, where sizes may end in KiB, MiB, GiB.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Number(f64),
    Text(String),
}

impl Number {
    fn value(&self) -> Result<f64, ParseError> {
        match self {
            Number::Number(number) => Ok(*number),
            Number::Text(text) => text.parse().or_else(|_| size(text).map(|size| size as f64)),
        }
    }
}

/// Reads a fault from JSON or from `name,key=value`.
pub(super) fn fault(text: &str) -> Result<Fault, ParseError> {
    let words: FaultText = serde_json::from_value(object(text, "what")?).map_err(|error| error.to_string())?;
    let number = |given: &Option<Number>, default: f64| given.as_ref().map_or(Ok(default), Number::value);
    let share = || number(&words.share, 0.5);
    let status = || Ok::<_, ParseError>(number(&words.status, 503.0)? as u16);
    let retry_after = || match &words.retry_after {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    let what = match words.what.as_str() {
        "5xx" | "status" => What::Status(status()?),
        "html" => What::Html,
        "corrupt" => What::Corrupt(match words.at.as_deref() {
            Some("start") => At::Start,
            None | Some("middle") => At::Middle,
            Some("last") => At::Last,
            Some(other) => return Err(format!("at={other}: it is start, middle or last")),
        }),
        "truncate" => What::Truncate(share()?),
        "reset" => What::Reset(share()?),
        "stall" => What::Stall(share()?),
        "slow" => What::Slow(number(&words.rate, 1024.0)? as u64),
        "short-length" => What::ShortLength(number(&words.by, 1000.0)? as u64),
        "long-length" => What::LongLength(number(&words.by, 1000.0)? as u64),
        "content-encoding" => What::ContentEncoding,
        "no-head" => What::NoHead,
        "redirect-loop" => What::RedirectLoop,
        "redirect-private" => What::RedirectPrivate,
        "redirect-evil" => What::RedirectEvil,
        "evil-realm" => What::EvilRealm,
        "link-evil" => What::LinkEvil,
        "link-loop" => What::LinkLoop,
        "token-5xx" => What::TokenStatus(status()?),
        "token-slow" => What::TokenSlow(duration(words.delay.as_deref().unwrap_or("5s"))?),
        "token-401" => What::TokenRefused,
        "abuse" => What::Abuse(match retry_after() {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| format!("retry_after={text}: seconds"))?),
        }),
        "pull-limit" => What::PullLimit(retry_after()),
        "wrong-digest" => What::WrongDigest,
        "no-digest-header" => What::NoDigestHeader,
        "bad-digest-header" => What::BadDigestHeader,
        "manifest-1g" => What::Endless(number(&words.size, (1_u64 << 30) as f64)? as u64),
        other => return Err(format!("no fault is called {other}")),
    };
    let count = words.count.as_ref().map(Number::value).transpose()?.map(|count| count as u32);
    Ok(Fault { what, count, after: number(&words.after, 0.0)? as u32, on: words.on.read()? })
}

/// Reads which requests are meant, from JSON or from `key=value,key=value`.
pub(super) fn requests(text: &str) -> Result<Match, ParseError> {
    let words: MatchText = serde_json::from_value(object(text, "kind")?).map_err(|error| error.to_string())?;
    words.read()
}

impl MatchText {
    fn read(self) -> Result<Match, ParseError> {
        let kind = match self.kind {
            None => None,
            Some(name) => Some(Kind::named(&name).ok_or_else(|| {
                let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                format!("no kind of request is called {name}; there are {}", known.join(", "))
            })?),
        };
        Ok(Match { kind, repository: self.repository, reference: self.reference, method: self.method })
    }
}

/// An image as it is written. Lists are arrays, or text with `+` between.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageText {
    repository: String,
    tags: Option<List>,
    platforms: Option<List>,
    /// Each `size` or `count x size`, as in `3x1MiB`.
    layers: Option<List>,
    /// Each `seed:size`.
    shared: Option<List>,
    /// Paths of plain tars; they come below the others.
    rootfs: Option<List>,
    command: Option<List>,
    seed: Option<Number>,
    media: Option<String>,
    private: Option<bool>,
    exempt: Option<bool>,
    single: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum List {
    Values(Vec<String>),
    Text(String),
}

impl List {
    fn values(self) -> Vec<String> {
        match self {
            List::Values(values) => values,
            List::Text(text) => text.split('+').map(str::to_owned).collect(),
        }
    }
}

/// Reads an image from JSON, or from `repository:tag=seed,layers=3x1MiB,private`.
pub(super) fn image(text: &str) -> Result<Spec, ParseError> {
    let object = if text.trim_start().starts_with('{') {
        object(text, "repository")?
    } else {
        let (name, rest) = text.split_once('=').unwrap_or((text, ""));
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let rest = if rest.starts_with(|first: char| first.is_ascii_digit()) {
            format!("seed={rest}")
        } else {
            rest.to_owned()
        };
        let rest = if rest.is_empty() { String::new() } else { format!(",{rest}") };
        object(&format!("repository={repository},tags={tag}{rest}"), "repository")?
    };
    let words: ImageText = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let mut spec = Spec::new(words.repository);
    if let Some(tags) = words.tags {
        spec.tags = tags.values();
    }
    if words.single == Some(true) {
        spec = spec.single();
    }
    if let Some(platforms) = words.platforms {
        spec.platforms = platforms.values();
    }
    let mut layers: Vec<Layer> =
        words.rootfs.into_iter().flat_map(List::values).map(|path| Layer::Tar(path.into())).collect();
    if let Some(sizes) = words.layers {
        for text in sizes.values() {
            let (count, each) = match text.split_once('x') {
                Some((count, each)) => (count.parse().map_err(|_| format!("{text}: as in 3x1MiB"))?, each),
                None => (1, text.as_str()),
            };
            layers.extend(std::iter::repeat_n(Layer::Random(size(each)?), count));
        }
    } else if layers.is_empty() {
        layers = spec.layers;
    }
    for text in words.shared.into_iter().flat_map(List::values) {
        let (seed, each) = text.split_once(':').ok_or_else(|| format!("{text}: as in 7:1MiB, seed and size"))?;
        layers.push(Layer::Shared { seed: seed.parse().map_err(|_| format!("{seed}: a number"))?, size: size(each)? });
    }
    spec.layers = layers;
    if let Some(seed) = words.seed {
        spec.seed = seed.value()? as u64;
    }
    if let Some(command) = words.command {
        spec.command = command.values();
    }
    spec.media = match words.media.as_deref() {
        None | Some("oci") => Media::Oci,
        Some("docker") => Media::Docker,
        Some(other) => return Err(format!("media={other}: it is oci or docker")),
    };
    (spec.private, spec.exempt) = (words.private == Some(true), words.exempt == Some(true));
    Ok(spec)
}

/// JSON as it is; else `first,key=value,flag`, where the first may stand for the key that is given and a flag is true.
pub(super) fn object(text: &str, first: &str) -> Result<Value, ParseError> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let mut object = Map::new();
    for (position, word) in text.trim().split(',').filter(|word| !word.is_empty()).enumerate() {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Value::from(value)),
            None if position == 0 => (first, Value::from(word)),
            None => (word, Value::Bool(true)),
        };
        object.insert(key.to_owned(), value);
    }
    Ok(Value::Object(object))
}

/// Bytes: `1000`, `64KiB`, `1MiB`, `2GiB`.
pub(super) fn size(text: &str) -> Result<u64, ParseError> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1_u64 << 30,
        _ => return Err(format!("{text}: a size is a number and nothing, KiB, MiB or GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text}: a size is a number and nothing, KiB, MiB or GiB"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text}: too much"))
}

/// `5s`, `250ms`, `1m`.
pub(super) fn duration(text: &str) -> Result<Duration, ParseError> {
    humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::fault::{At, Fault, Match, What};
    use super::super::image::{Layer, Media, Spec};
    use super::super::log::Kind;
    use super::{fault, image, size};

    #[test]
    fn faults_mean_the_same_in_words_and_in_json() {
        let expected = Fault::times(2, What::Truncate(0.25)).on(Match::kind(Kind::BlobGet).repository("library/hello"));
        assert_eq!(fault("truncate,share=0.25,kind=blob_get,repository=library/hello,count=2").unwrap(), expected);
        let json = r#"{"what":"truncate","share":0.25,"kind":"blob_get","repository":"library/hello","count":2}"#;
        assert_eq!(fault(json).unwrap(), expected);
        assert_eq!(fault("corrupt,at=last").unwrap(), Fault::always(What::Corrupt(At::Last)));
        assert_eq!(fault("abuse,retry_after=60").unwrap(), Fault::always(What::Abuse(Some(60))));
        assert_eq!(fault("manifest-1g").unwrap(), Fault::always(What::Endless(1 << 30)));
        for wrong in ["no-such", "truncate,shard=1", "corrupt,at=end", "5xx,kind=manifest", "{", "slow,rate=fast"] {
            assert!(fault(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn images_mean_the_same_in_words_and_in_json() {
        let expected = Spec::new("library/hello").tags(["1.0"]).seed(7).layers([1 << 20, 1 << 20, 512]).private();
        assert_eq!(image("library/hello:1.0=7,layers=2x1MiB+512,private").unwrap(), expected);
        let json = r#"{"repository":"library/hello","tags":["1.0"],"seed":7,"layers":["2x1MiB","512"],"private":true}"#;
        assert_eq!(image(json).unwrap(), expected);
        assert_eq!(image("a/b").unwrap(), Spec::new("a/b"));
        let docker = image("a/b:c=media=docker,single,shared=3:4KiB,layers=1").unwrap();
        assert_eq!((docker.media, docker.index), (Media::Docker, false));
        assert_eq!(docker.layers, [Layer::Random(1), Layer::Shared { seed: 3, size: 4096 }]);
        assert!(image("a/b:c=layers=many").is_err());
        assert!(size("1TB").is_err());
    }
}
