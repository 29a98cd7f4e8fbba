//! The walk of a client through each registry that is often mirrored, played by its documented and reported habits: a pull as
//! docker does it, the list of tags and the referrers, cold and warm, anonymous and as an account of the operator.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    ACCOUNT, TOKEN_HEADER, Weir, digest,
    server::{Asked, Server, answer, head},
};
use crate::deploy::ask;

/// How a registry lets a client in.
#[derive(Clone, Copy)]
enum Login {
    /// It asks for nothing.
    Open,
    /// Every request carries the password.
    Basic(&'static str),
    /// The challenge, with `URL`, `NAME` and `ACTION` for the server, the repository and what is asked for. The realm's path ends in
    /// `token`. The status is what the token service says to an anonymous client that asks for a private repository; 200 is a token that
    /// the registry refuses.
    Bearer(&'static str, u16),
}

/// How it answers a request for referrers.
#[derive(Clone, Copy)]
enum Referrers {
    Api,
    /// No such API; the fallback tag has them.
    Status(u16),
    /// A redirect to a page for people; the fallback tag has them.
    LoginPage,
}

/// How it sends a blob.
#[derive(Clone, Copy, PartialEq)]
enum Blobs {
    Direct,
    /// By a redirect to this path and query.
    Redirect(u16, &'static str),
    /// As a proxy that has not cached it: without a length, and HEAD is 404.
    Chunked,
}

/// The habits of one registry.
struct Registry {
    name: &'static str,
    /// Before `/v2/` in the URL that the operator configures.
    prefix: &'static str,
    login: Login,
    /// Of the second page of tags, with `NAME`.
    link: &'static str,
    blobs: Blobs,
    referrers: Referrers,
    /// HEAD of a manifest.
    head: u16,
    /// Whether manifests come with Docker-Content-Digest.
    digests: bool,
    /// The body of a refusal.
    refusal: &'static str,
}

const PLAIN: Registry = Registry {
    name: "",
    prefix: "",
    login: Login::Open,
    link: r#"</v2/NAME/tags/list?last=v1&n=2>; rel="next""#,
    blobs: Blobs::Direct,
    referrers: Referrers::Api,
    head: 200,
    digests: true,
    refusal: r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#,
};

const REGISTRIES: &[Registry] = &[
    Registry {
        name: "Docker Hub",
        login: Login::Bearer(r#"realm="URL/token",service="registry.docker.io",scope="repository:NAME:ACTION""#, 200),
        blobs: Blobs::Redirect(307, "/cdn/registry-v2/data?verify=1764400000-a%2Bb%2F%3D"),
        ..PLAIN
    },
    Registry {
        name: "ghcr.io",
        login: Login::Bearer(r#"realm="URL/token",service="ghcr.io",scope="repository:user/image:pull""#, 403),
        blobs: Blobs::Redirect(307, "/cdn/ghcr1/blobs?se=2026&sig=a%2Fb%3D&sp=r"),
        referrers: Referrers::Status(404),
        ..PLAIN
    },
    Registry {
        name: "quay.io",
        login: Login::Bearer(r#"realm="URL/v2/auth/token",service="quay.io",scope="repository:NAME:pull""#, 200),
        link: r#"</v2/NAME/tags/list?n=50&next_page=gAAAAABv1%3D%3D>; rel="next""#,
        blobs: Blobs::Redirect(302, "/cdn/quayio/sha256?Expires=1&Signature=a~b_"),
        refusal: r#"{"errors":[{"code":"UNAUTHORIZED","detail":{},"message":"access to the requested resource is not authorized"}]}"#,
        ..PLAIN
    },
    Registry {
        name: "Google Artifact Registry",
        login: Login::Bearer(r#"realm="URL/v2/token",service="127.0.0.1",scope="repository:NAME:pull""#, 403),
        blobs: Blobs::Redirect(302, "/cdn/artifacts-downloads/namespaces/p?X=AF7_"),
        refusal: r#"{"errors":[{"code":"DENIED","message":"Unauthenticated request. Permission \"artifactregistry.repositories.downloadArtifacts\" denied"}]}"#,
        ..PLAIN
    },
    Registry {
        name: "Amazon ECR, private",
        login: Login::Basic(r#"Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#),
        link: r#"<https://1.dkr.ecr.eu-west-1.amazonaws.com/v2/NAME/tags/list?last=v1%2Babc%3D&n=1000>; rel="next""#,
        blobs: Blobs::Redirect(307, "/cdn/prod-starport-layer-bucket?X-Amz-Signature=0a&X-Amz-Expires=3600"),
        refusal: "Not Authorized\n",
        ..PLAIN
    },
    Registry {
        name: "Amazon ECR, public",
        login: Login::Bearer(r#"realm="URL/token/",service="public.ecr.aws",scope="aws""#, 200),
        blobs: Blobs::Redirect(307, "/cdn/v2/blobs?Key-Pair-Id=K&Signature=a~"),
        referrers: Referrers::Status(405),
        ..PLAIN
    },
    Registry {
        name: "Azure Container Registry",
        login: Login::Bearer(
            r#"realm="URL/oauth2/token",service="acme.azurecr.io",scope="repository:NAME:ACTION""#,
            401,
        ),
        blobs: Blobs::Redirect(307, "/cdn/eusmanaged?se=2026-11-29T00%3A00%3A00Z&sig=a%2Bb%3D"),
        ..PLAIN
    },
    Registry {
        name: "Microsoft Container Registry",
        blobs: Blobs::Redirect(307, "/cdn/mcr?regid=1&xtns=2"),
        referrers: Referrers::Status(404),
        ..PLAIN
    },
    Registry {
        name: "registry.k8s.io",
        blobs: Blobs::Redirect(307, "/cdn/containers/images/sha256?"),
        referrers: Referrers::LoginPage,
        ..PLAIN
    },
    Registry {
        name: "Harbor's proxy cache",
        login: Login::Bearer(
            r#"realm="URL/service/token",service="harbor-registry",scope="repository:NAME:pull""#,
            200,
        ),
        blobs: Blobs::Chunked,
        referrers: Referrers::Status(400),
        refusal: r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized to access repository: a/b, action: pull"}]}"#,
        ..PLAIN
    },
    Registry {
        name: "Artifactory",
        prefix: "/artifactory/api/docker/remote",
        login: Login::Bearer(
            r#"realm="URL/artifactory/api/docker/remote/v2/token",service="127.0.0.1",scope="repository:NAME:pull""#,
            401,
        ),
        link: r#"</v2/px/NAME/tags/list?last=v1&n=2>; rel="next""#,
        referrers: Referrers::Status(405),
        refusal: r#"{"errors":[{"status":401,"message":"Unauthorized"}]}"#,
        ..PLAIN
    },
    Registry {
        name: "Nexus",
        prefix: "/repository/docker-proxy",
        login: Login::Basic(r#"BASIC realm="Sonatype Nexus Repository Manager""#),
        link: r#"<http://nexus.internal:8081/repository/docker-proxy/repository/docker-proxy/v2/NAME/tags/list?last=v1&n=2>; rel=next"#,
        referrers: Referrers::Status(400),
        head: 404,
        digests: false,
        refusal: "<html><body>401</body></html>",
        ..PLAIN
    },
    Registry {
        name: "GitLab",
        login: Login::Bearer(
            r#"realm="URL/jwt/auth/token",service="container_registry",scope="repository:NAME:pull",error="invalid_token""#,
            403,
        ),
        link: r#"<http://gitlab.internal:5000/v2/NAME/tags/list?last=v1&n=2>; rel="next""#,
        blobs: Blobs::Redirect(
            307,
            "/cdn/gitlab-container/docker/registry/v2/blobs/data?GoogleAccessId=a&Signature=b%2B",
        ),
        referrers: Referrers::Status(404),
        ..PLAIN
    },
];

const PUBLIC: &str = "library/tool";
const PRIVATE: &str = "team/secret";
const PASSWORD: &str = "robot:s3cret";
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
const LAYERS: [&str; 2] = ["the bytes of the first layer", "the bytes of another layer"];
const TAGS: [&str; 3] = ["latest", "v1", "v2"];

/// What every repository of the played registries holds.
struct Content {
    index: String,
    manifest: String,
    referrers: String,
}

fn content() -> Content {
    let descriptor = |kind: &str, body: &str| {
        format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"{}","size":{}}}"#, digest(body), body.len())
    };
    let layers = LAYERS.map(|layer| descriptor("oci.image.layer.v1.tar", layer)).join(",");
    let config = descriptor("oci.image.config.v1+json", CONFIG);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{layers}]}}"#
    );
    let index = |kind: &str, body: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
            descriptor(kind, body)
        )
    };
    Content {
        index: index("oci.image.manifest.v1+json", &manifest),
        referrers: index("oci.image.manifest.v1+json", "a signature"),
        manifest,
    }
}

/// What was asked and let in, by method and kind: "GET manifests" → 2.
type Counts = Arc<Mutex<BTreeMap<String, usize>>>;

impl Registry {
    /// The registry and what it let in. Both it and its content network run until the process ends.
    fn start(&'static self) -> (Server, Counts) {
        let (counts, content) = (Counts::default(), content());
        let counted = counts.clone();
        let network = Server::start(|asked, _| match asked.header("authorization") {
            None => self.blob(asked),
            Some(_) => answer(400, &[], "<Error><Code>InvalidArgument</Code></Error>"),
        });
        let server = Server::start(move |asked, url| self.respond(asked, url, &network.url(), &content, &counted));
        (server, counts)
    }

    fn respond(&self, asked: &Asked, url: &str, network: &str, content: &Content, counts: &Counts) -> Vec<u8> {
        let path = asked.path();
        let robot = format!("Basic {}", BASE64_STANDARD.encode(PASSWORD));
        let authorization = asked.header("authorization").unwrap_or_default();
        if path.trim_end_matches('/').ends_with("/token") {
            let private = asked.target.contains("secret");
            return match self.login {
                _ if authorization == robot => answer(200, &[], r#"{"token":"of-robot","expires_in":300}"#),
                Login::Bearer(_, status) if private && status != 200 => answer(status, &[], self.refusal),
                _ => answer(
                    200,
                    &[],
                    r#"{"access_token":"anonymous","expires_in":300,"issued_at":"2026-11-29T00:00:00.1Z"}"#,
                ),
            };
        }
        if path == "/login" {
            return answer(200, &[("Content-Type", "text/html; charset=utf-8")], "<html>log in</html>");
        }
        let Some((name, kind, rest)) = parts(path.strip_prefix(self.prefix).unwrap_or_default()) else {
            return answer(404, &[], "404 page not found");
        };
        let allowed = match self.login {
            Login::Open => true,
            Login::Basic(_) => name == PUBLIC && authorization.is_empty() || authorization == robot,
            Login::Bearer(..) => {
                authorization == "Bearer of-robot" || name == PUBLIC && authorization == "Bearer anonymous"
            }
        };
        if !allowed {
            let challenge = match self.login {
                Login::Bearer(challenge, _) => {
                    let action =
                        if kind == "tags" && self.name.starts_with("Azure") { "metadata_read" } else { "pull" };
                    let challenge = challenge.replace("URL", url).replace("NAME", name);
                    format!("Bearer {}", challenge.replace("ACTION", action))
                }
                Login::Basic(challenge) => challenge.to_owned(),
                Login::Open => String::new(),
            };
            return answer(401, &[("WWW-Authenticate", &challenge)], self.refusal);
        }
        *counts.lock().unwrap().entry(format!("{} {kind}", asked.method)).or_default() += 1;
        match kind {
            "manifests" => self.manifest(asked, rest, content),
            "blobs" => match self.blobs {
                Blobs::Redirect(status, target) => {
                    answer(status, &[("Location", &format!("{network}{target}&digest={rest}"))], "")
                }
                Blobs::Chunked if asked.method == "HEAD" => head(404, &[], 0),
                _ => self.blob(asked),
            },
            "tags" if asked.target.contains("v1") => answer(200, &[], r#"{"name":"x","tags":["v2"]}"#),
            "tags" => {
                answer(200, &[("Link", &self.link.replace("NAME", name))], r#"{"name":"x","tags":["v1","latest"]}"#)
            }
            _ => match self.referrers {
                Referrers::Api => answer(200, &[super::OCI_INDEX], &content.referrers),
                Referrers::Status(status) => answer(status, &[], self.refusal),
                Referrers::LoginPage => answer(302, &[("Location", &format!("{url}/login"))], ""),
            },
        }
    }

    fn manifest(&self, asked: &Asked, reference: &str, content: &Content) -> Vec<u8> {
        let subject = digest(&content.manifest);
        let (body, kind) = match reference {
            _ if reference == subject => (&content.manifest, "application/vnd.oci.image.manifest.v1+json"),
            _ if reference == digest(&content.referrers) || reference == subject.replace(':', "-") => {
                (&content.referrers, super::OCI_INDEX.1)
            }
            _ if reference == digest(&content.index) || TAGS.contains(&reference) => {
                (&content.index, super::OCI_INDEX.1)
            }
            _ => return answer(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        };
        if asked.method == "HEAD" && self.head != 200 {
            return head(self.head, &[], 0);
        }
        let named = digest(body);
        let headers = [("Content-Type", kind), ("Docker-Content-Digest", named.as_str())];
        answer(200, if self.digests { &headers } else { &headers[..1] }, body)
    }

    fn blob(&self, asked: &Asked) -> Vec<u8> {
        let Some(body) = LAYERS.iter().chain([&CONFIG]).find(|body| asked.target.contains(&digest(body))) else {
            return answer(404, &[("Content-Type", "application/xml")], "<Error><Code>NoSuchKey</Code></Error>");
        };
        match self.blobs {
            Blobs::Chunked => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
                format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
            }
            _ => answer(200, &[("Content-Type", "application/octet-stream")], body),
        }
    }
}

/// `/v2/<name>/<kind>/<rest>`.
fn parts(path: &str) -> Option<(&str, &str, &str)> {
    let path = path.strip_prefix("/v2/")?;
    let kinds = ["manifests", "blobs", "tags", "referrers"];
    kinds.into_iter().find_map(|kind| {
        let (name, rest) = path.split_once(&format!("/{kind}/"))?;
        Some((name, kind, rest))
    })
}

/// A pull as docker does it, all tags, and who refers to the image.
fn walk(weir: &Weir, played: &Registry, name: &str, credential: &str) {
    let registry = played.name;
    let content = content();
    let index = digest(&content.index);
    let get = |path: &str| {
        let (status, _, body) = ask(weir.registry, "GET", &format!("/v2/{name}/{path}"), credential);
        assert_eq!(status, 200, "{registry}: {path} of {name}: {body}");
        body
    };
    let (status, headers, _) = ask(weir.registry, "HEAD", &format!("/v2/{name}/manifests/latest"), credential);
    assert!(status == 200 && headers.contains(&index), "{registry}: HEAD of {name}: {status} {headers}");
    assert_eq!(get(&format!("manifests/{index}")), content.index, "{registry}");
    assert_eq!(get(&format!("manifests/{}", digest(&content.manifest))), content.manifest, "{registry}");
    for body in [CONFIG, LAYERS[0], LAYERS[1]] {
        assert_eq!(get(&format!("blobs/{}", digest(body))), body, "{registry}");
    }
    let json = |body: String| serde_json::from_str::<serde_json::Value>(&body).unwrap();
    assert_eq!(json(get("tags/list"))["tags"], serde_json::json!(TAGS), "{registry}");
    let referrers = json(get(&format!("referrers/{}", digest(&content.manifest))));
    assert_eq!(referrers["manifests"], json(content.referrers)["manifests"], "{registry}");
}

#[test]
fn each_registry_is_pulled_from_listed_and_searched_for_referrers() {
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("password");
    let (user, password) = PASSWORD.split_once(':').unwrap();
    std::fs::write(&file, password).unwrap();
    let keys = format!("accounts = [{{ username = \"{user}\", password_file = \"{}\" }}]\n{ACCOUNT}", file.display());
    for registry in REGISTRIES {
        let (server, counts) = registry.start();
        let taken = || std::mem::take(&mut *counts.lock().unwrap());
        let url = format!("{}{}", server.url(), registry.prefix);
        let weir = Weir::start(&url, "", &[]);
        walk(&weir, registry, PUBLIC, "");
        let cold = taken();
        let fallback = usize::from(!matches!(registry.referrers, Referrers::Api));
        let expected =
            [("HEAD manifests", 1 + fallback), ("GET manifests", 2 + fallback), ("GET tags", 2), ("GET referrers", 1)];
        if registry.head == 200 && registry.blobs != Blobs::Chunked {
            let expected = expected.into_iter().chain([("GET blobs", 3)]).map(|(key, n)| (key.to_owned(), n)).collect();
            assert_eq!(cold, expected, "{}: what a cold pull costs", registry.name);
        }
        let before = server.asked().len();
        walk(&weir, registry, PUBLIC, "");
        assert_eq!(server.asked()[before..].len(), 0, "{}: a warm pull costs nothing: {:?}", registry.name, taken());
        if matches!(registry.login, Login::Open) {
            continue;
        }
        let weir = Weir::start(&url, &keys, &[TOKEN_HEADER]);
        let (status, _, body) = ask(weir.registry, "GET", &format!("/v2/{PRIVATE}/manifests/latest"), "");
        assert_eq!(status, 404, "{}: private to an anonymous client: {body}", registry.name);
        walk(&weir, registry, PRIVATE, "X-Weir: ci:weir\r\n");
        let before = server.asked().len();
        walk(&weir, registry, PRIVATE, "X-Weir: ci:weir\r\n");
        assert_eq!(server.asked()[before..].len(), 0, "{}: nor does one as an account", registry.name);
        let (status, ..) = ask(weir.registry, "GET", &format!("/v2/{PRIVATE}/blobs/{}", digest(LAYERS[0])), "");
        assert_eq!(status, 404, "{}: an account's content is private when it is here", registry.name);
    }
}
