//! The standard `OTEL_*` variables, as far as traces over OTLP/HTTP need them.

use std::{path::PathBuf, time::Duration};

use url::Url;

use super::context::Sampler;

/// Where spans go, which, and as whose. Not secrets alone: `headers` may hold a token.
#[derive(Clone, PartialEq)]
pub(in crate::telemetry) struct Settings {
    /// With the path.
    pub(super) endpoint: Url,
    pub(super) headers: Vec<(String, String)>,
    /// For one request, from the connection to the end of the answer.
    pub(super) timeout: Duration,
    /// Roots (PEM) in place of the system's.
    pub(super) certificate: Option<PathBuf>,
    pub(super) resource: Vec<(String, String)>,
    pub(in crate::telemetry) sampler: Sampler,
    /// Spans that wait at most, that are sent at once, and how long they gather.
    pub(super) queue: usize,
    pub(super) batch: usize,
    pub(super) delay: Duration,
}

/// Spans that may wait, whatever the environment says: each has about a kilobyte.
const MOST: usize = 65_536;

impl Settings {
    /// What the environment says; `None` when it names no endpoint, or switches traces off.
    ///
    /// # Errors
    /// What is wrong, with the variable and what to write instead.
    pub(in crate::telemetry) fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, String> {
        let get = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        // What is said of traces alone wins over what is said of all signals.
        let of_traces = |name: &str| {
            let specific = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
            let general = format!("OTEL_EXPORTER_OTLP_{name}");
            get(&specific).map(|value| (specific, value)).or_else(|| get(&general).map(|value| (general, value)))
        };
        let is_off = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if is_off || get("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none") {
            return Ok(None);
        }
        let Some((name, text)) = of_traces("ENDPOINT") else { return Ok(None) };
        let wrong = |name: &str, value: &str, fix: &str| format!("{name}={value}: {fix}");
        let http = "write a URL of http or https, such as http://127.0.0.1:4318";
        let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.host().is_some();
        let mut endpoint = Url::parse(&text).ok().filter(is_http).ok_or_else(|| wrong(&name, &text, http))?;
        if !name.contains("TRACES") {
            endpoint.set_path(&format!("{}/v1/traces", endpoint.path().trim_end_matches('/')));
        }
        if let Some((name, protocol)) = of_traces("PROTOCOL").filter(|(_, protocol)| protocol != "http/protobuf") {
            return Err(wrong(&name, &protocol, "traces are sent by http/protobuf alone; write that, and port 4318"));
        }
        let number = |name: &str, default: u64| match get(name) {
            None => Ok(default),
            Some(text) => text.parse::<u64>().map_err(|_| wrong(name, &text, "write a whole number")),
        };
        let timeout = match of_traces("TIMEOUT") {
            None => 10_000,
            Some((name, text)) => text.parse().map_err(|_| wrong(&name, &text, "write milliseconds"))?,
        };
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?;
        let batch = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?;
        Ok(Some(Settings {
            endpoint,
            headers: headers(of_traces("HEADERS"))?,
            timeout: Duration::from_millis(timeout),
            certificate: of_traces("CERTIFICATE").map(|(_, path)| path.into()),
            resource: resource(get("OTEL_SERVICE_NAME"), get("OTEL_RESOURCE_ATTRIBUTES")),
            sampler: sampler(get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG"))?,
            queue: usize::try_from(queue).unwrap_or(MOST).clamp(1, MOST),
            batch: usize::try_from(batch).unwrap_or(MOST).clamp(1, MOST),
            delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5000)?),
        }))
    }
}

fn sampler(name: Option<String>, argument: Option<String>) -> Result<Sampler, String> {
    let name = name.unwrap_or_else(|| "parentbased_always_on".to_owned());
    let (follows_parent, own) = name.strip_prefix("parentbased_").map_or((false, &*name), |own| (true, own));
    let ratio = match own {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => {
            let argument = argument.unwrap_or_else(|| "1".to_owned());
            let ratio = argument.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            ratio
                .ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG={argument}: write a share from 0 to 1, such as 0.01"))?
        }
        _ => {
            let fix = "write always_on, always_off, traceidratio, or one of them behind parentbased_";
            return Err(format!("OTEL_TRACES_SAMPLER={name}: {fix}"));
        }
    };
    Ok(Sampler { follows_parent, ratio })
}

/// `name=value,name=value`, with escapes as in a URL.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let decoded = |text: &str| {
        // Only escapes are decoded: a plus is a plus, and a value may hold what separates pairs elsewhere.
        let text = text.trim().replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
        url::form_urlencoded::parse(text.as_bytes()).next().map(|(text, _)| text.into_owned()).unwrap_or_default()
    };
    let pair = move |pair: &str| pair.split_once('=').map(|(name, value)| (decoded(name), decoded(value)));
    text.split(',').filter_map(pair).filter(|(name, _)| !name.is_empty()).collect::<Vec<_>>().into_iter()
}

/// The values are not repeated in an error: they may be secrets.
fn headers(given: Option<(String, String)>) -> Result<Vec<(String, String)>, String> {
    let Some((variable, text)) = given else { return Ok(Vec::new()) };
    let is_name =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    let is_value = |value: &str| value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let headers: Vec<_> = pairs(&text).collect();
    match headers.iter().find(|(name, value)| !is_name(name) || !is_value(value)) {
        Some((name, _)) => Err(format!("{variable}: the header {name:?} cannot be sent; write name=value,name=value")),
        None => Ok(headers),
    }
}

/// `service.name` first; what the operator says of it wins.
fn resource(service: Option<String>, attributes: Option<String>) -> Vec<(String, String)> {
    let mut all: Vec<_> = pairs(attributes.as_deref().unwrap_or_default()).collect();
    let own =
        [("service.version", Some(env!("CARGO_PKG_VERSION").to_owned())), ("service.name", Some("weir".to_owned()))];
    for (key, value) in own {
        if let Some(value) = value.filter(|_| all.iter().all(|(known, _)| known != key)) {
            all.insert(0, (key.to_owned(), value));
        }
    }
    if let (Some(service), Some(found)) = (service, all.iter_mut().find(|(key, _)| key == "service.name")) {
        found.1 = service;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::of(get)
    }

    #[test]
    fn traces_are_off_unless_an_endpoint_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert!(of(&[]).unwrap().is_none() && of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).unwrap().is_none());
        assert!(of(&[endpoint, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        assert!(of(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
        let on = of(&[endpoint]).unwrap().unwrap();
        assert_eq!(on.endpoint.as_str(), "http://collector:4318/v1/traces");
        assert_eq!(on.sampler, Sampler { follows_parent: true, ratio: 1.0 });
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/own/path");
        assert_eq!(of(&[endpoint, traces]).unwrap().unwrap().endpoint.as_str(), "https://other/own/path");
    }

    #[test]
    fn what_the_operator_says_of_the_service_and_the_sampler_is_taken() {
        let settings = of(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c/base/"),
            ("OTEL_SERVICE_NAME", "mirror"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=a%20b,host.name=x"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20a+b==,x-tenant=1"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999"),
        ]);
        let settings = settings.unwrap().unwrap();
        assert_eq!(settings.endpoint.as_str(), "http://c/base/v1/traces");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(settings.headers, [pair("authorization", "Bearer a+b=="), pair("x-tenant", "1")]);
        for wanted in [pair("service.name", "mirror"), pair("deployment.environment.name", "a b")] {
            assert!(settings.resource.contains(&wanted), "{:?}", settings.resource);
        }
        assert_eq!(settings.sampler, Sampler { follows_parent: false, ratio: 0.01 });
        assert_eq!(settings.queue, MOST);
    }

    #[test]
    fn a_mistake_names_its_variable_and_no_secret() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
        for (variables, said) in [
            (
                vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")],
                "OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317: write a URL",
            ),
            (
                vec![endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: traces are sent by http/protobuf",
            ),
            (vec![endpoint, ("OTEL_TRACES_SAMPLER", "jaeger")], "OTEL_TRACES_SAMPLER=jaeger: write always_on"),
            (
                vec![endpoint, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "1%")],
                "OTEL_TRACES_SAMPLER_ARG=1%",
            ),
            (
                vec![endpoint, ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")],
                "OTEL_EXPORTER_OTLP_TIMEOUT=10s: write milliseconds",
            ),
            (
                vec![endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", "a=canary%0d%0ab: c")],
                "OTEL_EXPORTER_OTLP_HEADERS: the header \"a\"",
            ),
        ] {
            let error = of(&variables).err().unwrap();
            assert!(error.starts_with(said) && !error.contains("canary"), "{error}");
        }
    }
}
