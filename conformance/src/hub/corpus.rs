//! Images that each break one rule of an image policy, or none, with what a right verdict of each rule is.
//!
//! Dates are counted from a day that is given, as a policy judges age. What looks like a credential is put together here from parts, and
//! none of it was ever valid.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::image::{Layer, Media, Spec};

/// An image, and what rules have to say of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is, as a part of a sentence.
    pub what: &'static str,
    /// The image.
    pub spec: Spec,
    /// Verdicts by rule that differ from those of a sound image.
    pub differs: Vec<(&'static str, &'static str)>,
}

impl Case {
    /// What a right verdict of this rule is: `pass`, `fail` or `unknown`; `None` for a rule that the corpus does not know.
    pub fn expected(&self, rule: &str) -> Option<&'static str> {
        let differs = self.differs.iter().find(|(name, _)| *name == rule).map(|(_, outcome)| *outcome);
        differs.or_else(|| SOUND.iter().find(|(name, _)| *name == rule).map(|(_, outcome)| *outcome))
    }
}

/// What rules say of a sound image that is neither signed nor attested.
const SOUND: [(&str, &str); 14] = [
    ("non_root", "pass"),
    ("no_secrets", "pass"),
    ("max_age", "pass"),
    ("min_age", "pass"),
    ("no_low_ports", "pass"),
    ("trusted_base", "pass"),
    ("fresh_base", "unknown"),
    ("minimal", "pass"),
    ("no_setuid", "pass"),
    ("no_critical", "unknown"),
    ("max_size", "pass"),
    ("signed", "unknown"),
    ("attested", "unknown"),
    ("lint", "pass"),
];

const BASE: &str = "org.opencontainers.image.base.name";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
const DAY: Duration = Duration::from_secs(86_400);

/// All of them, in repositories below `corpus/`, as they are at this time.
pub fn corpus(now: SystemTime) -> Vec<Case> {
    let recent = humantime::format_rfc3339_seconds(now - DAY * 10).to_string();
    let old = humantime::format_rfc3339_seconds(now - DAY * 400).to_string();
    let mut cases = Vec::new();
    let mut add = |what: &'static str, patch: Value, differs: &[(&'static str, &'static str)]| {
        let spec = sound(cases.len(), &recent, &patch);
        cases.push(Case { what, spec, differs: differs.to_vec() });
    };
    let run = |command: &str| json!({"history": [{"created_by": format!("RUN /bin/sh -c {command} # buildkit")}]});
    let env = |variables: &[String]| json!({"config": {"Env": variables}});
    let (letters, hex) = ("aB3".repeat(40), "0123456789abcdef".repeat(4));
    let github = format!("ghp_{}", &letters[..36]);

    add("sound", json!({}), &[]);
    for (what, user) in [
        ("root by an empty user", ""),
        ("root by number", "0"),
        ("root by name", "root"),
        ("root by number and group", "0:0"),
        ("root by a number with a sign", "+0"),
    ] {
        add(what, json!({"config": {"User": user}}), &[("non_root", "fail")]);
    }
    add("root by absence", json!({"config": {"User": null}}), &[("non_root", "fail")]);
    add("a user by name", json!({"config": {"User": "app:app"}}), &[("non_root", "unknown")]);
    add("a user in group 0", json!({"config": {"User": "1001:0"}}), &[]);

    let leaks = [("no_secrets", "fail")];
    add("a token in the environment", env(&[format!("A={github}")]), &leaks);
    add("an access key in the environment", env(&[format!("AWS_ID=AKIA{}", "Q2".repeat(8))]), &leaks);
    add("a private key in the environment", env(&[format!("K=-----BEGIN {} KEY-----", "RSA PRIVATE")]), &leaks);
    add("a password by its name", env(&["DB_PASSWORD=correct-horse".to_owned()]), &leaks);
    add("a password in a URL", env(&["P=http://user:correct-horse@proxy.example".to_owned()]), &leaks);
    add("a token in a label", json!({"config": {"Labels": {"k": github}}}), &leaks);
    add("a token in the command", json!({"config": {"Cmd": ["/a", format!("--token={github}")]}}), &leaks);
    let step = json!([{"created_by": format!("RUN |1 TOKEN={github} /bin/sh -c make # buildkit")}]);
    add("a token in a build argument", json!({"history": step}), &leaks);
    let step = json!([{"created_by": "/bin/sh -c #(nop)  ARG NPM_TOKEN=correct-horse"}]);
    add("a password in a build argument by its name", json!({"history": step}), &leaks);
    let official = [
        format!("GPG_KEY={}", hex[..40].to_uppercase()),
        format!("PYTHON_SHA256={hex}"),
        "PYTHON_VERSION=3.12.8".to_owned(),
        format!("TOMCAT_SHA512={hex}{hex}"),
        "POSTGRES_PASSWORD_FILE=/run/secrets/db".to_owned(),
    ];
    add("an official image's environment", env(&official), &[]);
    add("placeholders", env(&["API_TOKEN=${TOKEN}".to_owned(), "DB_PASSWORD=changeme".to_owned()]), &[]);

    add("a reproducible build of 1970", json!({"created": "1970-01-01T00:00:00Z"}), &[("max_age", "unknown")]);
    add("a date in the year 1", json!({"created": "0001-01-01T00:00:00Z"}), &[("max_age", "unknown")]);
    add("no date", json!({"created": null}), &[("max_age", "unknown")]);
    add("old", json!({"created": old}), &[("max_age", "fail")]);

    let ports = json!({"80/tcp": {}, "8080/tcp": {}});
    let as_root = json!({"config": {"User": "0", "ExposedPorts": ports}});
    add("a low port as root", as_root, &[("no_low_ports", "fail"), ("non_root", "fail")]);
    add("a low port without root", json!({"config": {"ExposedPorts": ports}}), &[]);

    add("sudo in its history", run("sudo make install"), &[("lint", "fail")]);
    add("lesser faults in its history", run("apt-get update && apt-get install -y curl"), &[]);

    let nothing: Vec<_> = SOUND.iter().filter(|(rule, _)| !matches!(*rule, "signed" | "attested")).collect();
    let nothing: Vec<_> = nothing.into_iter().map(|(rule, _)| (*rule, "unknown")).collect();
    add("a config that two readers read in two ways", json!({"config": {"user": "0"}}), &nothing);
    let long_s = json!({"config": {"u\u{17f}er": "0"}});
    add("a config with a key that Go reads as another", long_s, &nothing);
    add("a config of another shape", json!({"config": {"Env": 7}}), &nothing);
    add("a config that is too long", json!({"config": {"Labels": {"k": "x".repeat(2 << 20)}}}), &nothing);

    let mut whole = |what: &'static str, differs: &[(&'static str, &'static str)], change: &dyn Fn(Spec) -> Spec| {
        let spec = change(sound(cases.len(), &recent, &json!({})));
        cases.push(Case { what, spec, differs: differs.to_vec() });
    };
    whole("of Docker's media types", &[], &|spec| spec.media(Media::Docker));
    whole("without a base", &[("trusted_base", "unknown")], &|spec| Spec { annotations: Vec::new(), ..spec });
    // The base itself, which has no other below, and an image on its layers.
    let shared = |size| Layer::Shared { seed: 77, size };
    whole("a base", &[("trusted_base", "unknown")], &|spec| Spec {
        annotations: Vec::new(),
        layers: vec![shared(100)],
        ..spec
    });
    whole("built on another's layers", &[("fresh_base", "pass")], &|spec| Spec {
        annotations: Vec::new(),
        layers: vec![shared(100), Layer::Random(100)],
        ..spec
    });
    let index = |spec: Spec| Spec { index: true, ..spec };
    whole("with an SBOM and provenance", &[("attested", "pass")], &|spec| {
        index(spec).attested(["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"])
    });
    let digest = format!("sha256:{}", "0".repeat(64));
    whole("on a base that moved on", &[("fresh_base", "fail")], &|spec| Spec {
        annotations: vec![
            (BASE.to_owned(), "docker.io/corpus/image1:latest".to_owned()),
            (BASE_DIGEST.to_owned(), digest.clone()),
        ],
        ..spec
    });
    whole("from scratch", &[("fresh_base", "pass")], &|spec| Spec {
        annotations: vec![(BASE.to_owned(), "scratch".to_owned())],
        ..spec
    });
    like_artifacts(&mut whole, &nothing);
    in_layers(&mut whole, &github);
    whole("with provenance alone", &[], &|spec| index(spec).attested(["https://slsa.dev/provenance/v1"]));
    cases
}

/// Adds a case: what it is, how it differs, and what makes it so.
type Whole<'a> = dyn FnMut(&'static str, &[(&'static str, &'static str)], &dyn Fn(Spec) -> Spec) + 'a;

/// Images that engines run, though their manifest says that they are something else.
fn like_artifacts(whole: &mut Whole<'_>, nothing: &[(&'static str, &'static str)]) {
    let root = [("non_root", "fail")];
    let mut over = |what: &'static str, differs: &[(&'static str, &'static str)], media: Media, manifest: Value| {
        whole(what, differs, &|mut spec| {
            spec.config["config"]["User"] = "0".into();
            spec.media(media).manifest(manifest.clone())
        });
    };
    over("root with an artifact type", &root, Media::Oci, json!({"artifactType": "application/spdx+json"}));
    for (what, media, of) in [
        ("root with a config of bytes in schema 2", Media::Docker, "application/octet-stream"),
        ("root with a config of JSON in schema 2", Media::Docker, "application/json"),
        ("root with a config of JSON", Media::Oci, "application/json"),
        ("root with the config of a chart", Media::Oci, "application/vnd.cncf.helm.config.v1+json"),
    ] {
        over(what, &root, media, json!({"config": {"mediaType": of}}));
    }
    let other = json!({"mediaType": Media::Oci.config(), "digest": format!("sha256:{}", "0".repeat(64)), "size": 2});
    over("a manifest with two configs", nothing, Media::Oci, json!({"Config": other}));
}

/// Images that break a rule by what is in their layers, or look as if they did.
fn in_layers(whole: &mut Whole<'_>, github: &str) {
    let mut files = |what: &'static str, differs: &[(&'static str, &'static str)], layers: &[&[(&str, u32, &str)]]| {
        let file = |&(path, mode, contents): &(&str, u32, &str)| (path.to_owned(), mode, contents.to_owned());
        let layers: Vec<Layer> = layers.iter().map(|files| Layer::Files(files.iter().map(file).collect())).collect();
        whole(what, differs, &|spec| Spec { layers: layers.clone(), ..spec });
    };
    let leaks = [("no_secrets", "fail")];
    let key = format!("-----BEGIN {} KEY-----\n{}\n", "RSA PRIVATE", "MIIEpAIBAAKCAQEA".repeat(20));
    files("a private key in a file", &leaks, &[&[("app/id_rsa", 0o600, &key)]]);
    files(
        "a login in .git-credentials",
        &leaks,
        &[&[("root/.git-credentials", 0o600, "https://u:correct-horse@a.example\n")]],
    );
    files("a password in .env", &leaks, &[&[("app/.env", 0o644, "DB_HOST=db\nDB_PASSWORD=correct-horse\n")]]);
    files("a token in a script", &leaks, &[&[("app/run.sh", 0o755, &format!("curl -H 'Authorization: {github}'"))]]);
    let npmrc = format!("//registry.npmjs.org/:_authToken={github}\n");
    files(
        "a secret that a later layer deletes",
        &leaks,
        &[&[("app/.npmrc", 0o600, &npmrc)], &[("app/.wh..npmrc", 0o644, "")]],
    );
    files(
        "a secret in a directory that a later layer deletes",
        &leaks,
        &[&[("app/.npmrc", 0o600, &npmrc)], &[(".wh.app", 0o644, "")]],
    );
    files(
        "keys of the tests and manuals of packages",
        &[],
        &[&[
            ("usr/local/go/src/crypto/tls/testdata/key.pem", 0o644, &key),
            ("usr/share/doc/openssl/key.pem", 0o644, &key),
            ("app/node_modules/a/test/key.pem", 0o644, &key),
            ("etc/ssl/private/ssl-cert-snakeoil.key", 0o640, &key),
        ]],
    );
    let setuid = [("no_setuid", "fail")];
    files("a setuid file", &setuid, &[&[("usr/bin/su", 0o4755, "x")]]);
    files("a setgid file", &setuid, &[&[("usr/bin/wall", 0o2755, "x")]]);
    files("a file that every user may write", &setuid, &[&[("app/start", 0o777, "x")]]);
    files(
        "a setuid file that a later layer clears",
        &[],
        &[&[("usr/bin/su", 0o4755, "x")], &[("usr/bin/su", 0o755, "x")]],
    );
    files(
        "a setuid file that a later layer deletes",
        &[],
        &[&[("usr/bin/su", 0o4755, "x")], &[("usr/bin/.wh.su", 0o644, "")]],
    );
    let fat = [("minimal", "fail")];
    files("a shell", &fat, &[&[("bin/sh", 0o755, "x")]]);
    files("a package manager", &fat, &[&[("usr/bin/apt-get", 0o755, "x")]]);
    files("a downloader", &fat, &[&[("usr/bin/curl", 0o755, "x")]]);
    files("a compiler", &fat, &[&[("usr/bin/x86_64-linux-gnu-gcc-12", 0o755, "x")]]);
    files(
        "a shell in a directory that a later layer makes opaque",
        &[],
        &[&[("bin/sh", 0o755, "x")], &[("bin/.wh..wh..opq", 0o644, "")]],
    );
    files("a name of a program where none is", &[], &[&[("usr/share/bash-completion/completions/curl", 0o644, "x")]]);
    let mut by_name = |what: &'static str, differs: &[(&'static str, &'static str)], passwd: &str| {
        let layer = Layer::Files(vec![("etc/passwd".to_owned(), 0o644, passwd.to_owned())]);
        let config = json!({"config": {"User": "app"}});
        whole(what, differs, &|spec| {
            let mut spec = spec;
            spec.config["config"]["User"] = config["config"]["User"].clone();
            Spec { layers: vec![layer.clone()], ..spec }
        });
    };
    by_name("root by the name of another user", &[("non_root", "fail")], "root:x:0:0::/:/x\napp:x:0:0::/:/x\n");
    by_name("a user by a name that the layers know", &[], "root:x:0:0::/:/x\napp:x:1000:1000::/:/x\n");
    let root = [("non_root", "fail")];
    by_name("root by a number that is none", &root, "app:x:abc:0::/:/x\napp:x:1000:1000::/:/x\n");
    by_name("root by a line that begins with a space", &root, " app:x:0:0::/:/x\napp:x:1000:1000::/:/x\n");
    by_name("a user that the layers do not know", &[("non_root", "unknown")], "root:x:0:0::/:/x\n");
    let users = "app:x:1000:1000::/:/x\n";
    for (what, upper) in [
        (
            "a user of a file that a later layer makes a symbolic link",
            link(tar::EntryType::Symlink, "etc/passwd", "/x"),
        ),
        ("a user of a file that a later layer makes a hard link", link(tar::EntryType::Link, "etc/passwd", "x")),
        ("a user in a directory that a later layer makes a link", link(tar::EntryType::Symlink, "etc", "x")),
        ("a user of a file that a later layer removes", link(tar::EntryType::Regular, "etc/.wh.passwd", "")),
    ] {
        let files = |path: &str| Layer::Files(vec![(path.to_owned(), 0o644, users.to_owned())]);
        let layers = vec![files("etc/passwd"), files("x"), Layer::Raw(upper)];
        whole(what, &[("non_root", "unknown")], &|mut spec| {
            spec.config["config"]["User"] = "app".into();
            Spec { layers: layers.clone(), ..spec }
        });
    }
    let unread = [("no_secrets", "unknown"), ("minimal", "unknown"), ("no_setuid", "unknown")];
    whole("a layer that is no tar", &unread, &|spec| Spec { layers: vec![Layer::Raw(b"no tar".repeat(200))], ..spec });
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01".to_vec();
    whole("a layer that ends early", &unread, &|spec| Spec { layers: vec![Layer::Raw(gzip.clone())], ..spec });
}

/// A layer of one entry without contents: a link, or a file.
fn link(kind: tar::EntryType, path: &str, target: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(0);
    let mut tar = tar::Builder::new(Vec::new());
    // What is written to memory does not fail, and these names are short.
    let written = match kind {
        tar::EntryType::Regular => tar.append_data(&mut header, path, std::io::empty()),
        _ => tar.append_link(&mut header, path, target),
    };
    written.and_then(|()| tar.into_inner()).unwrap_or_default()
}

/// A sound image but for what the patch of its config breaks.
fn sound(number: usize, created: &str, patch: &Value) -> Spec {
    let spec = Spec::new(format!("corpus/image{}", number + 1)).single().seed(1000 + number as u64).layers([100]);
    spec.config(over(created, patch)).annotation(BASE, "docker.io/library/debian:12")
}

/// What makes a config sound, and `patch` over it.
fn over(created: &str, patch: &Value) -> Value {
    let mut config = json!({"created": created, "config": {"User": "65532:65532"}});
    for (key, value) in patch.as_object().into_iter().flatten() {
        match (config[key].as_object_mut(), value.as_object()) {
            (Some(object), Some(more)) => object.extend(more.clone()),
            _ => config[key] = value.clone(),
        }
    }
    config
}
