//! Credentials in the files of a layer.
//!
//! Two sorts of files are looked at: those that tools keep credentials in, by their names, and any other text, in which only what an issuer
//! makes unmistakable counts. What distributions, languages and their packages bring is left out: their manuals and tests are full of
//! keys that open nothing.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

use super::{BY_NAME, names, patterns};

/// A longer file is looked at from its beginning to here, in bytes.
pub(in crate::policy) const MOST_FILE: usize = 1 << 20;
/// A NUL before this says that a file is no text, in bytes; as git has it.
const TEXT: usize = 8000;

/// Where packages put what is theirs.
const OF_PACKAGES: [&str; 19] = [
    "lib/",
    "lib64/",
    "opt/conda/",
    "opt/java/",
    "opt/yarn-",
    "root/.cargo/registry/",
    "usr/include/",
    "usr/local/cargo/registry/",
    "usr/lib/",
    "usr/lib64/",
    "usr/libexec/",
    "usr/local/go/",
    "usr/local/include/",
    "usr/local/lib/",
    "usr/local/rustup/",
    "usr/local/share/",
    "usr/share/",
    "usr/src/",
    "var/lib/dpkg/",
];
/// Parts of paths below which nothing is for use.
const NOT_FOR_USE: [&str; 18] = [
    "dist-packages",
    "doc",
    "docs",
    "example",
    "examples",
    "fixtures",
    "gems",
    "locale",
    "man",
    "node_modules",
    "sample",
    "samples",
    "site-packages",
    "spec",
    "test",
    "testdata",
    "tests",
    "vendor",
];
/// How the names of files end that are not for use, or no text.
const NOT_TEXT: [&str; 18] = [
    ".a",
    ".bz2",
    ".example",
    ".gif",
    ".gz",
    ".jar",
    ".jpg",
    ".map",
    ".md",
    ".mo",
    ".png",
    ".pyc",
    ".rst",
    ".sample",
    ".so",
    ".template",
    ".xz",
    ".zst",
];
/// Made when a package is installed, and known to everybody who has it.
const KNOWN_KEY: &str = "etc/ssl/private/ssl-cert-snakeoil.key";

/// Files that tools keep credentials in: their names, or the ends of their paths.
const CREDENTIALS: [&str; 27] = [
    ".aws/credentials",
    ".boto",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".composer/auth.json",
    ".config/gh/hosts.yml",
    ".docker/config.json",
    ".dockercfg",
    ".env",
    ".gem/credentials",
    ".git-credentials",
    ".kube/config",
    ".m2/settings.xml",
    ".my.cnf",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    ".s3cfg",
    ".terraformrc",
    ".yarnrc.yml",
    "application_default_credentials.json",
    "containers/auth.json",
    "credentials.tfrc.json",
    "npmrc",
    "pip.conf",
    "rclone.conf",
];
/// Keys in such files that names of variables never have.
const KEYS: [&str; 6] = ["_auth", "_authtoken", "access_token", "client-key-data", "oauth_token", "pass"];
/// What only says something where credentials are kept: manuals and tests are full of it, and keys of browsers are public.
const WEAK: [&str; 6] = [
    "a private key",
    "a login of a Docker registry",
    "an npm login",
    "a Google API key",
    "a JSON Web Token",
    "a password in a URL",
];

/// A key as a whole: its header alone stands in every program that reads keys.
static PRIVATE_KEY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let key = r"-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\r|\\n)+[A-Za-z0-9+/=\s\\:,.()-]{64}";
    RegexBuilder::new(key).unicode(false).build().ok()
});
static IN_XML: LazyLock<Option<Regex>> =
    LazyLock::new(|| RegexBuilder::new(r"<(?:password|passphrase)>[^<${}\s]{6,}</").unicode(false).build().ok());

fn text(path: &[u8]) -> &str {
    std::str::from_utf8(path).unwrap_or_default()
}

fn keeps_credentials(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_it = |known: &&str| {
        path.ends_with(*known) && path[..path.len() - known.len()].chars().last().is_none_or(|it| it == '/')
    };
    CREDENTIALS.iter().any(is_it) || name.starts_with(".env.")
}

/// Whether a file of this path is to be looked at.
pub(in crate::policy) fn is_looked_at(path: &[u8]) -> bool {
    // A name that is no UTF-8 is none of a package.
    let path = text(path);
    let is_of_packages = OF_PACKAGES.iter().any(|begin| path.starts_with(begin));
    let is_not_for_use = path.split('/').any(|part| NOT_FOR_USE.contains(&part) || part.starts_with("python3."));
    !(is_of_packages || is_not_for_use || path == KNOWN_KEY || NOT_TEXT.iter().any(|end| path.ends_with(end)))
}

/// The kinds of credential in a file, each once.
pub(in crate::policy) fn in_file(path: &[u8], content: &[u8]) -> impl Iterator<Item = &'static str> {
    let mut kinds = Vec::new();
    if !content[..content.len().min(TEXT)].contains(&0) {
        let is_known = keeps_credentials(text(path));
        let is_strong = |kind: &&'static str| is_known && *kind != "a private key" || !WEAK.contains(kind);
        kinds.extend(patterns::kinds_in(content).filter(is_strong));
        if PRIVATE_KEY.as_ref().is_some_and(|key| key.is_match(content)) {
            kinds.push("a private key");
        }
        if is_known && kinds.is_empty() && holds_by_name(content) {
            kinds.push(BY_NAME);
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds.into_iter()
}

/// Whether a file that keeps credentials has one under a name that says so: `name = value`, `"name": "value"`, `password value` of
/// netrc(5), the fifth field of a `.pgpass`, or an element of XML.
fn holds_by_name(content: &[u8]) -> bool {
    let content = String::from_utf8_lossy(content);
    let is_secret = |part: &str| {
        let part = part.trim().trim_start_matches("export ");
        let Some((name, value)) = part.split_once('=').or_else(|| part.split_once(':')) else { return false };
        let trim = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
        let (name, value) = (trim(name), trim(value));
        // An npmrc writes the registry before the name.
        let name = name.rsplit([':', '/']).next().unwrap_or_default();
        let is_key = KEYS.contains(&&*name.to_ascii_lowercase());
        names::is_secret(if is_key { "password" } else { name }, &value)
    };
    let mut parts = content.split(['\n', ',', '{', '}']).filter(|part| !part.trim_start().starts_with(['#', ';']));
    let words: Vec<&str> = content.split_whitespace().take(10_000).collect();
    let of_netrc = words.windows(2).any(|pair| pair[0] == "password" && names::is_secret("password", pair[1]));
    let of_pgpass = content.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        fields.len() == 5
            && fields[1].bytes().all(|byte| byte.is_ascii_digit() || byte == b'*')
            && names::is_secret("password", fields[4])
    });
    let in_xml = IN_XML.as_ref().is_some_and(|element| element.is_match(content.as_bytes()));
    parts.any(is_secret) || of_netrc || of_pgpass || in_xml
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, content: &str) -> Vec<&'static str> {
        match is_looked_at(path.as_bytes()) {
            true => in_file(path.as_bytes(), content.as_bytes()).collect(),
            false => Vec::new(),
        }
    }

    fn key() -> String {
        format!("-----BEGIN {} KEY-----\n{}\n-----END", "RSA PRIVATE", "MIIEpAIBAAKCAQEA".repeat(8))
    }

    #[test]
    fn what_tools_keep_credentials_in_is_known_by_its_name_and_its_form() {
        let letters = "aB3".repeat(20);
        for (path, content) in [
            ("root/.git-credentials", "https://user:correct-horse@example.com\n".to_owned()),
            ("root/.netrc", "machine a.example login u\n  password correct-horse\n".to_owned()),
            ("home/app/.pgpass", "db.example:5432:*:app:correct-horse\n".to_owned()),
            ("app/.env", "DB_HOST=db\nDB_PASSWORD=correct-horse\n".to_owned()),
            ("app/.env.production", "export SECRET_KEY='correct-horse'\n".to_owned()),
            ("root/.npmrc", format!("//registry.npmjs.org/:_authToken={letters}\n")),
            ("app/.npmrc", "//npm.example/:_password=\"Y29ycmVjdA==\"\n".to_owned()),
            ("root/.docker/config.json", format!(r#"{{"auths":{{"a.example":{{"auth":"{letters}"}}}}}}"#)),
            ("root/.aws/credentials", "[default]\naws_secret_access_key = correct-horse/battery\n".to_owned()),
            ("root/.m2/settings.xml", "<server><password>correct-horse</password></server>".to_owned()),
            ("root/.config/gh/hosts.yml", "github.com:\n    oauth_token: correct-horse\n".to_owned()),
            ("root/.kube/config", "users:\n- user:\n    token: correct-horse\n".to_owned()),
            ("root/.ssh/id_rsa", key()),
            ("etc/app.toml", format!("token = \"ghp_{}\"", &letters[..36])),
            ("key.json", format!(r#"{{"private_key": "{}"}}"#, key().replace('\n', "\\n"))),
        ] {
            assert_eq!(found(path, &content).len(), 1, "{path}: {:?}", found(path, &content));
        }
    }

    #[test]
    fn what_official_images_hold_is_no_secret() {
        let letters = "aB3".repeat(20);
        for (path, content) in [
            ("usr/local/go/src/crypto/tls/example_test.go", key()),
            ("usr/share/doc/openssl/key.pem", key()),
            ("usr/lib/python3/dist-packages/tests/key.pem", key()),
            ("app/node_modules/http/test/key.pem", key()),
            (KNOWN_KEY, key()),
            // A program that reads keys.
            ("usr/bin/openssl", format!("\u{7f}ELF\0{}", key())),
            ("entrypoint.sh", format!("grep -q '-----BEGIN {} KEY-----' \"$1\"", "RSA PRIVATE")),
            (
                "docker-entrypoint.sh",
                "# example: http://user:password@host\nexport DB_PASSWORD=\"${DB_PASSWORD:-}\"".to_owned(),
            ),
            ("etc/apt/apt.conf.d/proxy", "// http://user:passwd@proxy:3128/\n".to_owned()),
            ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n".to_owned()),
            ("app/.env.example", "DB_PASSWORD=correct-horse\n".to_owned()),
            ("app/.env", "DB_PASSWORD=\nAPI_TOKEN=${TOKEN}\nNODE_ENV=production\n".to_owned()),
            (
                "root/.npmrc",
                "//registry.npmjs.org/:_authToken=${NPM_TOKEN}\nregistry=https://registry.npmjs.org\n".to_owned(),
            ),
            ("root/.docker/config.json", r#"{"credHelpers":{"a.example":"ecr-login"},"auths":{}}"#.to_owned()),
            ("srv/index.html", format!("key=AIza{}", &letters[..35])),
            ("app/README", format!("ey{letters}.ey{letters}.{letters}")),
        ] {
            assert_eq!(found(path, &content), Vec::<&str>::new(), "{path}");
        }
    }
}
