//! What holds `deploy.toml` to the code, and the words of errors.

use std::collections::BTreeSet;

use super::*;
use crate::limits::{abuse::Code, budget::Floors, throttle::Mode};

fn read(text: &str) -> Result<Config, ConfigErrors> {
    Config::read(text, [])
}

fn mistakes(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// deploy.toml with every commented setting switched on: lines such as `# burst = 25` and `# [[throttle]]`. Where the
/// default stands on the next line, the comment takes its place.
fn uncommented() -> String {
    let setting = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let key = rest.split('=').next().unwrap_or_default().trim();
        let is_key = rest.contains(" = ") && !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        (is_key || rest.starts_with('[')).then(|| rest.to_owned())
    };
    let mut lines: Vec<String> =
        DEPLOY_TOML.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned())).collect();
    let key = |line: &str| line.split_once(" = ").map(|(key, _)| key.to_owned());
    lines.dedup_by(|later, earlier| key(later).is_some() && key(later) == key(earlier));
    lines.join("\n")
}

/// The keys that a table takes, as serde lists them when it is offered one that it does not.
fn keys_of(path: &str, probe: &str) -> BTreeSet<String> {
    let error = toml::from_str::<Config>(probe).expect_err(probe).message().to_owned();
    let (_, list) = error.split_once("expected ").unwrap_or_else(|| panic!("{path}: {error}"));
    list.split('`').skip(1).step_by(2).map(|key| format!("{path}{key}")).collect()
}

fn flatten(path: &str, value: &toml::Value, into: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                into.insert(path.clone());
                flatten(&path, value, into);
            }
        }
        toml::Value::Array(list) => list.iter().for_each(|value| flatten(path, value, into)),
        _ => {}
    }
}

#[test]
fn deploy_toml_is_exactly_the_defaults() {
    let parsed = read(DEPLOY_TOML).unwrap();
    assert_eq!(parsed, Config::default());
    // Not only equal because absent: what has a default is written, not commented.
    let (mut written, mut defaults) = (BTreeSet::new(), BTreeSet::new());
    flatten("", &toml::Value::Table(DEPLOY_TOML.parse().unwrap()), &mut written);
    flatten("", &toml::Value::try_from(Config::default()).unwrap(), &mut defaults);
    defaults.retain(|key| !["listener", "account", "class", "mirror.tag", "warm", "policy"].contains(&key.as_str()));
    assert_eq!(written, defaults);
}

#[test]
fn deploy_toml_names_every_key_there_is() {
    let text = uncommented();
    let mut named = BTreeSet::new();
    flatten("", &toml::Value::Table(text.parse().unwrap_or_else(|error| panic!("{error}"))), &mut named);
    let mut known = BTreeSet::new();
    for (path, probe) in [
        ("", "x = 1"),
        ("server.", "[server]\nx = 1"),
        ("server.tls.", "[server]\ntls = { x = 1 }"),
        ("listener.", "[[listener]]\nx = 1"),
        ("admin.", "[admin]\nx = 1"),
        ("account.", "[[account]]\nx = 1"),
        ("storage.", "[storage]\nx = 1"),
        ("shared.", "[shared]\nx = 1"),
        ("shared.s3.", "[shared.s3]\nx = 1"),
        ("shared.redis.", "[shared.redis]\nx = 1"),
        ("shared.peers.", "[shared.peers]\nx = 1"),
        ("mirror.", "[mirror]\nx = 1"),
        ("mirror.tag.", "[[mirror.tag]]\nx = 1"),
        ("upstream.", "[[upstream]]\nx = 1"),
        ("upstream.accounts.", "[[upstream]]\naccounts = [{ x = 1 }]"),
        ("hosted.", "[hosted]\nx = 1"),
        ("throttle.", "[[throttle]]\nx = 1"),
        ("limits.", "[limits]\nx = 1"),
        ("limits.allowlist.", "[limits]\nallowlist = [{ x = 1 }]"),
        ("budget.", "[budget]\nx = 1"),
        ("budget.floors.", "[budget]\nfloors = { x = 1 }"),
        ("budget.client_share.", "[budget]\nclient_share = { x = 1 }"),
        ("class.", "[[class]]\nx = 1"),
        ("ban.", "[ban]\nx = 1"),
        ("warm.", "[[warm]]\nx = 1"),
        ("policy.", "[[policy]]\nx = 1"),
        ("policy.signed.", "[[policy]]\nsigned = [{ x = 1 }]"),
        ("scanner.", "[scanner]\nx = 1"),
        ("policy.exempt.", "[[policy]]\nexempt = [{ x = 1 }]"),
        ("log.", "[log]\nx = 1"),
    ] {
        known.extend(keys_of(path, probe));
    }
    known.retain(|key| !["listener.tls"].contains(&key.as_str()));
    named.retain(|key| !key.starts_with("listener.tls."));
    let missing: Vec<_> = known.difference(&named).collect();
    assert!(missing.is_empty(), "deploy.toml does not name {missing:?}");
}

#[test]
fn what_deploy_toml_suggests_in_comments_is_understood() {
    let text = uncommented();
    let config: Config = toml::from_str(&text).unwrap();
    for throttle in &config.throttle {
        assert_ne!(throttle.mode, Mode::Off);
    }
    assert_eq!(Throttle::validate(&config.throttle), []);
    assert!(!config.throttle.is_empty() && !config.class.is_empty() && !config.account.is_empty());
}

#[test]
fn a_secret_under_a_mistyped_key_is_not_printed() {
    let said = mistakes("[[account]]\nname = \"ci\"\npassword = \"hunter2\"");
    assert!(said.contains("password") && !said.contains("hunter2"), "{said}");
}

#[test]
fn an_error_names_the_key_the_value_and_the_fix() {
    for (text, said) in [
        ("[storage]\ncapacity = \"50GB!\"", r#"storage.capacity = "50GB!": not a size; write a number"#),
        ("[storage]\ncapacitty = \"1GiB\"", "storage.capacitty"),
        ("[server]\ntrusted_proxies = [\"x\"]", r#"server.trusted_proxies[0] = "x": not a network; write"#),
        ("[storage]\ncapacity = \"1MiB\"", r#"storage.capacity = "1MiB": too small"#),
        (
            "[server]\nlisten = \"5000\"",
            r#"server.listen = "5000": not an address and a port; write one such as "127.0.0.1:5000" for this machine"#,
        ),
        (
            "[server]\nlisten = \":6000\"",
            r#"server.listen = ":6000": not an address and a port; write one such as "127.0.0.1:6000" for this machine alone, "0.0.0.0:6000" for"#,
        ),
        (
            "[server]\nlisten = [\"127.0.0.1:1\", \"localhost:6000\"]",
            r#"server.listen[1] = "localhost:6000": not an address and a port; names are not looked up; write an address of this machine, such as "127.0.0.1:6000""#,
        ),
        (
            "[admin]\nlisten = \"::1:6001\"",
            r#"admin.listen = "::1:6001": not an address and a port; write it in brackets: "[::1]:6001""#,
        ),
        (
            "[admin]\nlisten = \"127.0.0.1\"",
            r#"admin.listen = "127.0.0.1": not an address and a port; write one such as "127.0.0.1:5000""#,
        ),
        (
            "[server]\nlisten = 5000",
            r#"server.listen = 5000: write text in quotes, or a list of it, such as "127.0.0.1:5000""#,
        ),
        ("[mirror]\ntag_ttl = 300", r#"mirror.tag_ttl = 300: write text in quotes, such as "5m""#),
        (
            "[ban]\ndurations = []",
            r#"ban.durations = []: write a list of exactly 4 values, such as ["5m", "15m", "1h", "4h"]"#,
        ),
        ("[mirror]\nfills = -1", "mirror.fills = -1: write a whole number, 0 or more, such as 64"),
        ("[storage]\nhigh_watermark = \"95%\"", r#"storage.high_watermark = "95%": write a number, such as 0.95"#),
        ("[storage]\nverify_on_first_read = 1", "storage.verify_on_first_read = 1: write true or false"),
        ("[hosted]\nnamespaces = \"local/*\"", r#"hosted.namespaces = "local/*": write a list: ["local/*"]"#),
        ("[[upstream]]\ntoken_hosts = 1", r#"upstream[0].token_hosts = 1: write a list, such as ["auth.docker.io"]"#),
        ("[upstream]\nname = \"x.io\"", "upstream: write [[upstream]], for there may be several"),
        ("[ban]\nmode = \"Enforce\"", r#"ban.mode = "Enforce": write one of "enforce", "dry_run", "off""#),
        ("[budget]\nfloors = 0.5", "budget.floors = 0.5: write a table, such as { "),
        ("server = 1", "server = 1: write a table, [server]"),
        ("[log]\nfromat = \"text\"", r#"log.fromat = "text": there is no such key; these are: filter, format"#),
        ("[[throttle]]\nname = \"x\"\nrequests_per_period = 5000000000", "from 0 to 4294967295"),
        ("[ban]\nfailed_logins = 0", "ban.failed_logins = 0: would act on the first failure; write at least 1"),
        ("[ban]\nsame_reference = 4294967295", "ban.same_reference = 4294967295: is never reached"),
        ("[ban]\ndurations = [\"500ms\", \"1m\", \"1h\", \"4h\"]", "write four spans"),
        ("[ban]\ndifferent_references = 5000", "ban.different_references = 5000: no more than 1000"),
        ("[ban]\ndurations = [\"5m\", \"1m\", \"1h\", \"4h\"]", "each at least as long as the one before"),
        ("[ban]\ndurations = [\"1h\", \"1h\", \"1h\", \"31d\"]", "write four spans"),
        ("[mirror]\nfills = 0", "mirror.fills = 0: write 1 to 256"),
        ("[mirror]\nfill_timeout = \"5s\"", r#"mirror.fill_timeout = "5s": write "30s" or more"#),
        (
            "[[upstream]]\nname = \"docker.io\"\nurl = \"ftp://x\"",
            r#"upstream[0].url = "ftp://x": write http or https"#,
        ),
        (
            "[[upstream]]\nname = \"docker.io\"\nurl = \"https://bücher.example\"",
            r#"upstream[0].url = "https://bücher.example": write a host with letters beyond ASCII as DNS has it, beginning with xn--"#,
        ),
        (
            "[[upstream]]\nname = \"docker.io\"\nurl = \"https://x\"\nurls = [\"https://пример.example:5000/v\"]",
            r#"such as "xn--bcher-kva.example""#,
        ),
        (
            "[[upstream]]\nname = \"例え.example\"\nurl = \"https://x\"",
            r#"upstream[0].name = "例え.example": write a host with letters beyond ASCII"#,
        ),
        (
            "[[upstream]]\nname = \"x.io\"\nurl = \"https://x\"\ntoken_hosts = [\"bücher.example:8443\"]",
            r#"upstream[0].token_hosts = "bücher.example:8443": write a host with letters beyond ASCII"#,
        ),
        ("[[upstream]]\nname = \"hub\"\nurl = \"https://x\"", r#"upstream[0].name = "hub": write a registry"#),
        ("[[upstream]]\nurl = \"https://x\"", "upstream[0]: name is missing; write it too"),
        ("[admin]\nlisten = \"0.0.0.0:5001\"", r#"admin.listen = "0.0.0.0:5001": any client that reaches this"#),
        (
            "[admin]\nhosts = [\"weir\", \"http://weir\"]",
            r#"admin.hosts[1] = "http://weir": write a name without a scheme"#,
        ),
        ("[budget]\nfloors = { bulk = 1.5 }", "budget.floors.bulk = 1.5: write a fraction"),
        ("[[class]]\nname = \"critical\"\nuser_agent = \"x\"", "class[0].user_agent = \"x\": any client can send"),
        ("[limits]\ndry_run = [\"pulls\"]", r#"limits.dry_run = "pulls": there is no such throttle"#),
        (
            "[server]\nconnections_per_client = 0",
            "server.connections_per_client = 0: write 1 or more, at most server.conn",
        ),
        (
            "[server]\nconnections = 9\nconnections_per_client = 10",
            "server.connections_per_client = 10: write 1 or more",
        ),
        (
            "[server]\nlisten = [\"0.0.0.0:5001\", \"[::1]:5001\"]",
            r#"admin.listen = "127.0.0.1:5001": server.listen = "0.0.0.0:5001" takes this address; give each its own"#,
        ),
        (
            "[[listener]]\naddress = \"[::]:5000\"",
            r#"listener[0].address = "[::]:5000": server.listen = "127.0.0.1:5000" takes this address"#,
        ),
        (
            "[[listener]]\naddress = \"[::1]:1\"\n[[listener]]\naddress = \"[::1]:1\"",
            r#"listener[1].address = "[::1]:1": listener[0].address = "[::1]:1" takes this address"#,
        ),
        ("nonsense", "nonsense"),
        ("[hosted]\nnamespaces = [\"*\"]", "write the beginning of a repository name and a star"),
    ] {
        assert!(mistakes(text).contains(said), "{text:?} was answered {:?}", mistakes(text));
    }
}

#[test]
fn an_international_host_name_is_written_in_its_ascii_form() {
    let config = read("[[upstream]]\nname = \"docker.io\"\nurl = \"https://xn--bcher-kva.example\"").unwrap();
    assert_eq!(config.upstream[0].url.host_str(), Some("xn--bcher-kva.example"));
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_lines() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("weir.toml");
    let text = "[log]\nfromat = \"text\"\n[storage]\ncapacity = \"50GB!\"\nlow_watermark = 2.0\n[mirror]\nfills = 0\n\
                [server]\ntrusted_proxies = [\"x\"]\n[[upstream]]\nname = \"x.io\"\nurl = \"ftp://x\"\ntokn_hosts = []\n\
                [[class]]\nname = \"bulk\"\naccounts = [\"nobody\"]\n";
    std::fs::write(&file, text).unwrap();
    let environment = environment(&[("WEIR_MIRROR__AHEAD_RANGES", "many"), ("WEIR_HOSTED__UPLOADS", "0")]);
    let printed = Config::load(Some(&file), environment).unwrap_err().to_string();
    let mut lines: Vec<_> = printed.lines().map(|line| line.replace(file.to_str().unwrap(), "FILE")).collect();
    lines.sort();
    for (line, begins) in lines.iter().zip([
        r#"FILE:12: upstream[0].url = "ftp://x": write http"#,
        "FILE:13: upstream[0].tokn_hosts = []: there is no such key",
        r#"FILE:2: log.fromat = "text": there is no such key"#,
        r#"FILE:4: storage.capacity = "50GB!": not a size"#,
        "FILE:5: storage.low_watermark = 2.0: write 0 <",
        "FILE:7: mirror.fills = 0: write 1 to 256",
        r#"FILE:9: server.trusted_proxies[0] = "x": not a network"#,
        "WEIR_HOSTED__UPLOADS: hosted.uploads = 0: no client could push",
        r#"WEIR_MIRROR__AHEAD_RANGES = "many": write a whole number"#,
    ]) {
        assert!(line.starts_with(begins), "{begins}\n{}", lines.join("\n"));
    }
    assert_eq!(lines.len(), 9, "nothing is reported that follows from another mistake: {}", lines.join("\n"));

    std::fs::write(&file, "[log\nfilter = 1\n[mirror]\nfills = = 2\n").unwrap();
    let printed = Config::load(Some(&file), []).unwrap_err().0;
    let places: Vec<_> = printed.iter().filter_map(|error| error.place.clone()).collect();
    assert!(places.contains(&format!("{}:1", file.display())), "{printed:?}");
    assert!(places.contains(&format!("{}:4", file.display())), "{printed:?}");
}

#[test]
fn a_mistyped_key_is_answered_with_the_one_that_was_meant() {
    let said = mistakes("[log]\nfromat = \"text\"");
    assert!(said.contains("these are: ") && said.contains("filter, format"), "{said}");
    assert!(said.ends_with("; did you mean format?"), "{said}");
    assert!(mistakes("[servr]\nx = 1").ends_with("; did you mean server?"));
    assert!(!mistakes("[log]\nxyz = 1").contains("did you mean"));
}

#[test]
fn a_mistyped_value_is_answered_with_the_one_that_was_meant() {
    let said = mistakes("[ban]\nmode = \"dryrun\"");
    assert!(said.ends_with("write one of \"enforce\", \"dry_run\", \"off\"; did you mean dry_run?"), "{said}");
    assert!(!mistakes("[ban]\nmode = \"x\"").contains("did you mean"));
    let throttle =
        "[[throttle]]\nname = \"throttle_unauthenticated_pull\"\nrequests_per_period = 9\nperiod_in_seconds = 60";
    let said = mistakes(throttle);
    assert!(said.ends_with("; did you mean throttle_unauthenticated_pulls?"), "{said}");
}

#[test]
fn limits_are_what_was_written() {
    let text = "[[throttle]]\nname = \"throttle_unauthenticated_pulls\"\nrequests_per_period = 9\nperiod_in_seconds = 60\n\
                [limits]\ndry_run = [\"throttle_unauthenticated\", \"ban\"]\nuser_allowlist = [\"1\"]\n\
                [ban]\nmode = \"enforce\"\ncode = \"DENIED\"\n[[class]]\nname = \"bulk\"\ncidr = [\"10.9.0.0/16\"]\n\
                [server]\nhtpasswd = \"HTPASSWD\"";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("htpasswd");
    std::fs::write(&file, "# users\nbo:$2y$04$TcgLvGOd4nn/vCmfcHQu1.7Mv1cvoNaHYCPkyBRIg8RDlFBZOVHS2\n\n").unwrap();
    let text = text.replace("HTPASSWD", file.to_str().unwrap());
    let limits = limits_config(&read(&text).unwrap()).unwrap();
    let rules: Vec<_> = limits.throttles.iter().map(|rule| (rule.limit(), rule.mode())).collect();
    assert_eq!(rules, [(9, Mode::DryRun)]);
    assert_eq!(limits.abuse.mode, Mode::DryRun);
    assert!(limits.abuse.code == Code::Denied && limits.account("bo").is_some() && limits.classes.0.len() == 1);
    assert_eq!(limits.allowlist.0[0].client.to_string(), "1");
    std::fs::write(&file, "bo:hunter2").unwrap();
    let printed = limits_config(&read(&text).unwrap()).unwrap_err().to_string();
    assert!(printed.contains("line 1") && !printed.contains("hunter2"), "{printed}");
    assert_eq!(limits_config(&Config::default()).unwrap().throttles.iter().count(), 2);
}

#[test]
fn a_password_is_never_printed() {
    let url = mistakes("[[upstream]]\nname = \"x.io\"\nurl = \"https://me:hunter2@x.io\"");
    assert!(url.contains("upstream[0].url") && !url.contains("hunter2"), "{url}");
    let hash = mistakes("[[account]]\nname = \"ci\"\npassword_hash = \"hunter2\"");
    assert!(hash.contains("account[0].password_hash") && !hash.contains("hunter2"), "{hash}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let variables = environment(&[
        ("WEIR_SERVER__LISTEN", "127.0.0.1:1,[::1]:2"),
        ("WEIR_STORAGE__CAPACITY", "1GiB"),
        ("WEIR_STORAGE__HIGH_WATERMARK", "0.91"),
        ("WEIR_MIRROR__FILLS", "3"),
        ("WEIR_SERVER__CONNECTIONS_PER_CLIENT", "7"),
        ("WEIR_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.1"),
        ("WEIR_BUDGET__FLOORS__BULK", "0.5"),
        ("WEIR_UPSTREAM__0__URL", "http://127.0.0.1:9"),
        ("WEIR_UPSTREAM__0__CONCURRENCY", "7"),
        ("WEIR_LOG", "debug"),
        ("WEIR_PORT_5000_TCP", "tcp://10.0.0.1:5000"),
        ("HOME", "/"),
    ]);
    let config = Config::read("[storage]\ncapacity = \"2GiB\"\nlow_watermark = 0.5", variables).unwrap();
    assert_eq!(config.server.listen.0.len(), 2);
    assert_eq!(config.storage.capacity, 1 << 30);
    assert_eq!(config.storage.high_watermark, 0.91);
    assert_eq!(config.mirror.fills, 3);
    assert_eq!(config.server.connections_per_client(), 7);
    assert_eq!(Config::default().server.connections_per_client(), 1024);
    assert_eq!(config.server.trusted_proxies.len(), 2);
    assert_eq!(config.budget.floors, Floors { bulk: 0.5, ..Floors::default() });
    let upstream = &config.upstream[0];
    assert_eq!((&*upstream.name, upstream.url.as_str(), upstream.concurrency), ("docker.io", "http://127.0.0.1:9/", 7));
}

#[test]
fn the_environment_sets_each_kind_of_key_in_a_list_that_is_empty_by_default() {
    let text = "[[warm]]\nname = \"day\"\nimages = [\"alpine:3\"]\nat = \"03:00\"";
    let variables = environment(&[
        ("WEIR_WARM__0__IMAGES", "busybox:1"),
        ("WEIR_WARM__1__NAME", "7"),
        ("WEIR_WARM__1__IMAGES", "alpine:3, busybox:1"),
        ("WEIR_WARM__1__PINNED", "true"),
        ("WEIR_WARM__1__AT", "02:00"),
        ("WEIR_WARM__1__DAYS", "mon"),
        ("WEIR_POLICY__0__NAME", "production"),
        ("WEIR_POLICY__0__IMAGES", "docker.io/acme/*"),
        ("WEIR_POLICY__0__NON_ROOT", "true"),
        ("WEIR_POLICY__0__SIGNED__0__KEY", "cosign.pub"),
        ("WEIR_CLASS__0__NAME", "bulk"),
        ("WEIR_CLASS__0__CIDR", "10.0.0.0/8"),
    ]);
    let file = "[[warm]]\nname = \"day\"\nimages = [\"busybox:1\"]\nat = \"03:00\"\n\
        [[warm]]\nname = \"7\"\nimages = [\"alpine:3\", \"busybox:1\"]\npinned = true\nat = \"02:00\"\ndays = [\"mon\"]\n\
        [[policy]]\nname = \"production\"\nimages = [\"docker.io/acme/*\"]\nnon_root = true\nsigned = [{ key = \"cosign.pub\" }]\n\
        [[class]]\nname = \"bulk\"\ncidr = [\"10.0.0.0/8\"]";
    let (by_variable, by_file) = (Config::read(text, variables).unwrap(), read(file).unwrap());
    assert_eq!(by_variable.warm, by_file.warm);
    assert_eq!(by_variable.policy, by_file.policy);
    assert_eq!(by_variable.class, by_file.class);
    let wrong = Config::read(text, environment(&[("WEIR_WARM__0__PINNED", "maybe")])).unwrap_err().to_string();
    assert!(wrong.contains(r#"WEIR_WARM__0__PINNED: warm[0].pinned = "maybe": write true or false"#), "{wrong}");
}

#[test]
fn an_unknown_variable_is_refused_like_an_unknown_key() {
    for (name, value, said) in [
        ("WEIR_SERVER__LISTENN", "x", "server.listenn"),
        ("WEIR_SERVR__LISTEN", "x", "servr"),
        ("WEIR_MIRROR__FILLS", "many", "WEIR_MIRROR__FILLS = \"many\": write a whole number"),
        ("WEIR_UPSTREAM__URL", "http://x", "WEIR_UPSTREAM__URL"),
        ("WEIR_UPSTREAM__5__URL", "http://x", "has no entry 5"),
    ] {
        let printed = Config::read("", environment(&[(name, value)])).expect_err(name).to_string();
        assert!(printed.contains(said), "{name} was answered {printed:?}");
    }
}

#[test]
fn a_variable_with_too_few_underscores_is_refused_and_the_right_one_is_named() {
    for (name, meant) in [
        ("WEIR_SERVER_LISTEN", "WEIR_SERVER__LISTEN,"),
        ("WEIR_SERVER_TRUSTED_PROXIES", "WEIR_SERVER__TRUSTED_PROXIES,"),
        ("WEIR_SERVER_TLS_CERT", "WEIR_SERVER__TLS__CERT,"),
        ("WEIR_BUDGET_FLOORS_BULK", "WEIR_BUDGET__FLOORS__BULK,"),
        ("WEIR_UPSTREAM_0_FIRST_BYTE_TIMEOUT", "WEIR_UPSTREAM__0__FIRST_BYTE_TIMEOUT,"),
        ("WEIR_LISTENER_0_ADDRESS", "WEIR_LISTENER__0__ADDRESS,"),
        ("WEIR_ACCOUNT_0_NAME", "WEIR_ACCOUNT__0__NAME,"),
        ("WEIR_LOG_FORMAT", "WEIR_LOG__FORMAT,"),
    ] {
        let printed = Config::read("", environment(&[(name, "x")])).expect_err(name).to_string();
        assert!(printed.starts_with(&format!("{name}: this is no setting; write {meant}")), "{printed}");
    }
    // What is documented, and what Kubernetes sets for services named weir, weir-admin, weir-upstream-0 and weir-listener-0.
    let others = [
        "WEIR_LOG",
        "WEIR_CONFIG",
        "WEIR_SERVICE_HOST",
        "WEIR_SERVICE_PORT_REGISTRY",
        "WEIR_PORT_5000_TCP_ADDR",
        "WEIR_ADMIN_SERVICE_HOST",
        "WEIR_ADMIN_PORT_5001_TCP",
        "WEIR_UPSTREAM_0_PORT",
        "WEIR_LISTENER_0_PORT",
        "WEIR_LISTENER_0_PORT_80_TCP",
        "WEIR_LISTENER_0_PORT_80_TCP_PROTO",
        "WEIR_LISTENER_0_SERVICE_HOST",
        "WEIR_LISTENER_0_SERVICE_PORT",
        "WEIR_LISTENER_0_SERVICE_PORT_HTTP",
        "WEIR_SERVER",
        "WEIR_",
    ];
    let others: Vec<_> = others.iter().map(|name| (*name, "x")).collect();
    assert_eq!(Config::read("", environment(&others)), Ok(Config::default()));
}

#[test]
fn upstream_passwords_come_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let text = format!(
        "[[upstream]]\nname = \"x.io\"\nurl = \"https://x.io\"\naccounts = [{{ username = \"me\", password_file = {file:?} }}]"
    );
    let config = read(&text).unwrap();
    let printed = Settings::new(&config).unwrap_err().to_string();
    assert!(printed.contains("upstream[0].accounts[0].password_file"), "{printed}");
    std::fs::write(&file, "hunter2\n").unwrap();
    assert!(Settings::new(&config).is_ok());
}
