//! `weir client-config`: the configuration file that makes a client use this mirror.
//!
//! The file goes to standard output and what to do with it to standard error, so that the output can be redirected into
//! the file. Most clients go to the registry itself when the mirror answers an error: a refusal then spends a pull of the
//! client's own address. The notes say how to switch that fallback off, or what else stops it.

use std::{fmt::Write as _, io::Write as _};

use clap::{Args, ValueEnum};
use url::Url;

use super::say;
use crate::config::Config;

/// Which client, and where the mirror is.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The client
    #[arg(value_enum)]
    client: Client,
    /// The URL by which clients reach the mirror; from server.listen when absent
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print the file and nothing else: no notes, and no line that names it
    #[arg(long)]
    raw: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Client {
    /// dockerd, with either image store
    Docker,
    /// containerd: ctr, nerdctl, and the kubelet by CRI
    #[value(alias = "cri")]
    Containerd,
    /// podman and buildah
    Podman,
    Skopeo,
    Crio,
    /// buildkitd, also for docker buildx
    Buildkit,
    /// k3s and RKE2
    #[value(alias = "rke2")]
    K3s,
    Kaniko,
    /// crane, syft, trivy and others by go-containerregistry
    Crane,
    /// regctl and regsync
    Regctl,
    Jib,
    /// The eStargz snapshotter for containerd
    Stargz,
    /// The SOCI snapshotter for containerd
    Soci,
    /// Any other client
    Other,
}

/// Where a client finds the mirror.
struct Mirror {
    /// `http://127.0.0.1:5000`
    url: String,
    /// `127.0.0.1:5000`
    host: String,
    is_plain: bool,
    is_loopback: bool,
    /// `docker.io`, …
    upstreams: Vec<String>,
}

/// What a client is given.
struct Setup {
    /// Paths and contents. Several are for several registries, and alike.
    files: Vec<(String, String)>,
    /// Whether a line that begins with `#` is a comment in such a file.
    has_comments: bool,
    notes: String,
}

impl Setup {
    fn one(path: &str, content: String, notes: impl Into<String>) -> Setup {
        Setup { files: vec![(path.to_owned(), content)], has_comments: true, notes: notes.into() }
    }
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let url = arguments.url.clone().unwrap_or_else(|| mirror_url(config));
    let setup = setup(arguments.client, &Mirror::new(&url, config)?);
    if arguments.raw {
        return say(&setup.files[0].1);
    }
    let mut text = String::new();
    for (path, content) in &setup.files {
        if setup.has_comments {
            let _ = writeln!(text, "# {path}");
        }
        text.push_str(content);
    }
    let mut notes = format!("# {}\n", setup.files[0].0);
    setup.notes.lines().for_each(|line| notes += &format!("# {line}\n"));
    // A closed standard error takes no notes, and the file was printed.
    let _ = std::io::stderr().write_all(notes.as_bytes());
    say(&text)
}

/// Where clients reach the mirror, as far as the configuration says. For all addresses it is a name to replace.
pub(super) fn mirror_url(config: &Config) -> String {
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    match config.server.listen.0.first() {
        Some(address) if !address.ip().is_unspecified() => format!("{scheme}://{address}"),
        Some(address) => format!("{scheme}://weir.example.com:{}", address.port()),
        None => format!("{scheme}://weir.example.com:5000"),
    }
}

impl Mirror {
    fn new(text: &str, config: &Config) -> Result<Mirror, String> {
        let is_origin = |url: &Url| {
            let is_bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            let plain = is_bare && url.port() != Some(0);
            matches!(url.scheme(), "http" | "https") && plain && url.path() == "/" && url.fragment().is_none()
        };
        let url = Url::parse(text).ok().filter(is_origin);
        let url = url.ok_or("write --url as http://HOST:PORT or https://HOST:PORT, without a user or a path")?;
        let name = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        Ok(Mirror {
            url: format!("{}://{host}", url.scheme()),
            is_plain: url.scheme() == "http",
            is_loopback: name == "localhost" || name.starts_with("127.") || name == "[::1]",
            host,
            upstreams: config.upstream.iter().map(|upstream| upstream.name.to_string()).collect(),
        })
    }

    /// `, plain HTTP` for the notes of clients that need an option for it.
    fn if_plain(&self, text: &str) -> String {
        if self.is_plain { text.to_owned() } else { String::new() }
    }

    /// How images of other registries are named when a client mirrors Docker Hub alone.
    fn by_name(&self) -> String {
        format!("Images of another registry are named with the mirror in front: {}/ghcr.io/OWNER/IMAGE", self.host)
    }
}

fn setup(client: Client, mirror: &Mirror) -> Setup {
    match client {
        Client::Docker => docker(mirror),
        Client::Containerd => containerd(mirror),
        Client::Podman => containers(mirror, "podman and buildah read it with every command."),
        Client::Skopeo => containers(
            mirror,
            "skopeo copy reads it. skopeo inspect and list-tags do not: name the mirror in the image, as in\n\
             docker://HOST/docker.io/library/busybox.",
        ),
        Client::Crio => containers(mirror, "Then: systemctl reload crio"),
        Client::Buildkit => buildkit(mirror),
        Client::K3s => k3s(mirror),
        Client::Kaniko => kaniko(mirror),
        Client::Crane => crane(mirror),
        Client::Regctl => regctl(mirror),
        Client::Jib => jib(mirror),
        Client::Stargz => snapshotter(mirror, "containerd-stargz-grpc", "stargz-snapshotter"),
        Client::Soci => snapshotter(mirror, "soci-snapshotter-grpc", "soci-snapshotter"),
        Client::Other => other(mirror),
    }
}

/// For clients that always try Docker Hub last.
const EGRESS: &str = "\
Fallback: when the mirror answers an error (429, an image it cannot get), this client asks Docker Hub itself, from
this machine's own address, and has no setting against it. To stop it, let only Weir's machine reach
registry-1.docker.io:443; or, on a machine that does not run Weir, write into /etc/hosts: 127.0.0.1 registry-1.docker.io
";

fn docker(mirror: &Mirror) -> Setup {
    let mut file = serde_json::json!({ "registry-mirrors": [mirror.url] });
    if mirror.is_plain && !mirror.is_loopback {
        file["insecure-registries"] = serde_json::json!([mirror.host]);
    }
    let notes = format!(
        "Merge it with what is there. Then: systemctl reload docker\n\
         Check: docker info --format '{{{{.RegistryConfig.Mirrors}}}}'\n\
         Docker asks a mirror for images of Docker Hub alone. {}\n\
         With the containerd image store (the default since Docker 29) docker pull prints the mirror's error; with a graph\n\
         driver (overlay2) it prints Docker Hub's, and the mirror's stands in the log of dockerd.\n\
         Such a dockerd pulls anonymously from this address; it cannot from a listener with login = true.\n{EGRESS}",
        mirror.by_name()
    );
    Setup { files: vec![("/etc/docker/daemon.json".to_owned(), format!("{file:#}\n"))], has_comments: false, notes }
}

fn containerd(mirror: &Mirror) -> Setup {
    let url = &mirror.url;
    // The empty table: containerd 1.6 reads nothing of this file without it.
    let file = format!("server = \"{url}\"\ncapabilities = [\"pull\", \"resolve\"]\n[host]\n");
    let path = |upstream: &String| format!("/etc/containerd/certs.d/{upstream}/hosts.toml");
    let notes = "\
It is read with every pull. Once, in /etc/containerd/config.toml, name the directory and restart containerd:
  [plugins.\"io.containerd.grpc.v1.cri\".registry]       with containerd 1.x
  [plugins.\"io.containerd.cri.v1.images\".registry]     with containerd 2.x
    config_path = \"/etc/containerd/certs.d\"
The kubelet (CRI) and nerdctl then use it; ctr wants --hosts-dir /etc/containerd/certs.d.
Fallback: there is none, for `server` is the last host that containerd asks, and it is the mirror. To push to these registries
from here, write the mirror as [host.\"…\"] and leave server out: the registry itself then comes last.
";
    Setup {
        files: mirror.upstreams.iter().map(|upstream| (path(upstream), file.clone())).collect(),
        has_comments: true,
        notes: notes.to_owned(),
    }
}

fn containers(mirror: &Mirror, then: &str) -> Setup {
    let mut file = String::new();
    for upstream in &mirror.upstreams {
        let (host, plain) = (&mirror.host, mirror.is_plain);
        let blank = if file.is_empty() { "" } else { "\n" };
        file += &format!(
            "{blank}[[registry]]\nprefix = \"{upstream}\"\nlocation = \"{host}/{upstream}\"\ninsecure = {plain}\n"
        );
    }
    let notes = format!(
        "{then}\nFallback: there is none, for `location` is the mirror itself. To push to these registries from here, write the\n\
         mirror as [[registry.mirror]] below the registry: the registry itself then comes last.\n"
    );
    Setup::one("/etc/containers/registries.conf.d/weir.conf", file, notes)
}

fn buildkit(mirror: &Mirror) -> Setup {
    let host = &mirror.host;
    let each = mirror.upstreams.iter().map(|upstream| format!("[registry.\"{upstream}\"]\n  mirrors = [\"{host}\"]\n"));
    let file = each.collect::<String>() + &mirror.if_plain(&format!("[registry.\"{host}\"]\n  http = true\n"));
    let notes = format!(
        "Then: systemctl restart buildkit\n\
         For docker buildx: docker buildx create --use --buildkitd-config buildkitd.toml. The builder is a container, where\n\
         127.0.0.1 is not this machine: name an address that it reaches.\n{EGRESS}"
    );
    Setup::one("/etc/buildkit/buildkitd.toml", file, notes)
}

fn k3s(mirror: &Mirror) -> Setup {
    let url = &mirror.url;
    let each = mirror.upstreams.iter().map(|upstream| format!("  \"{upstream}\":\n    endpoint:\n      - \"{url}\"\n"));
    let notes = "\
On every node; with RKE2 it is /etc/rancher/rke2/registries.yaml. Then: systemctl restart k3s (k3s-agent, rke2-server, …)
Fallback: k3s adds the registry itself as the last endpoint. To switch it off, start k3s with
--disable-default-registry-endpoint, or write disable-default-registry-endpoint: true into /etc/rancher/k3s/config.yaml.
";
    Setup::one("/etc/rancher/k3s/registries.yaml", format!("mirrors:\n{}", each.collect::<String>()), notes)
}

fn kaniko(mirror: &Mirror) -> Setup {
    let host = &mirror.host;
    let map = |upstream: &String| match &**upstream {
        "docker.io" => format!("index.docker.io={host}"),
        name => format!("{name}={host}/{name}"),
    };
    let map = mirror.upstreams.iter().map(map).collect::<Vec<_>>().join(";");
    let insecure = mirror.if_plain(&format!("--insecure-registry={host}\n"));
    let file = format!("--registry-map={map}\n{insecure}--skip-default-registry-fallback\n");
    let notes = "\
Arguments of the executor, one a line; kaniko 1.23 or newer. Older ones know --registry-mirror=HOST for Docker Hub alone.
Fallback: the last argument switches it off.
";
    Setup::one("arguments of kaniko", file, notes)
}

fn crane(mirror: &Mirror) -> Setup {
    let insecure = mirror.if_plain(" --insecure");
    let host = &mirror.host;
    let each = |upstream: &String| match &**upstream {
        "docker.io" => format!("crane pull{insecure} {host}/docker.io/library/busybox:latest busybox.tar\n"),
        name => format!("crane pull{insecure} {host}/{name}/OWNER/IMAGE:latest image.tar\n"),
    };
    let notes = "\
These tools have no setting for a mirror: the image is named with the mirror and its registry in front.
trivy and syft take the same names; over plain HTTP with --insecure, or SYFT_REGISTRY_INSECURE_USE_HTTP=true.
Fallback: there is none.
";
    Setup::one("commands", mirror.upstreams.iter().map(each).collect(), notes)
}

fn regctl(mirror: &Mirror) -> Setup {
    let host = &mirror.host;
    let plain = mirror.if_plain(&format!("regctl registry set {host} --tls disabled\n"));
    let notes = format!(
        "They write ~/.regctl/config.json. {}\nFallback: regctl asks Docker Hub itself last, as docker does.\n{EGRESS}",
        mirror.by_name()
    );
    Setup::one("commands", format!("{plain}regctl registry set docker.io --mirror {host}\n"), notes)
}

fn jib(mirror: &Mirror) -> Setup {
    let file = serde_json::json!({
        "registryMirrors": [{ "registry": "registry-1.docker.io", "mirrors": [mirror.host] }]
    });
    let plain = mirror.if_plain("Plain HTTP: build with -Djib.allowInsecureRegistries=true.\n");
    let notes = format!("{}\n{plain}{EGRESS}", mirror.by_name());
    let path = "~/.config/google-cloud-tools-java/jib/config.json".to_owned();
    Setup { files: vec![(path, format!("{file:#}\n"))], has_comments: false, notes }
}

/// Snapshotters do not read containerd's hosts.toml, and name no registry in their requests: the default upstream alone.
fn snapshotter(mirror: &Mirror, directory: &str, service: &str) -> Setup {
    let (host, plain) = (&mirror.host, mirror.is_plain);
    let file = format!("[[resolver.host.\"docker.io\".mirrors]]\nhost = \"{host}\"\ninsecure = {plain}\n");
    let notes = format!(
        "Then: systemctl restart {service}. It does not read containerd's hosts.toml, which containerd itself still needs\n\
         (weir client-config containerd). {}\n{EGRESS}",
        mirror.by_name()
    );
    Setup::one(&format!("/etc/{directory}/config.toml"), file, notes)
}

fn other(mirror: &Mirror) -> Setup {
    let host = &mirror.host;
    let notes = format!(
        "Any client can name the mirror and the registry in front of an image. One that takes a mirror for Docker Hub is given\n\
         {}. One that takes a URL and appends a name is given {}/v2/docker.io/.\n\
         Fallback: with a name of this kind there is none.\n",
        mirror.url, mirror.url
    );
    let each = mirror.upstreams.iter().map(|upstream| match &**upstream {
        "docker.io" => format!("{host}/docker.io/library/busybox:latest\n"),
        name => format!("{host}/{name}/OWNER/IMAGE:TAG\n"),
    });
    Setup::one("names of images", each.collect(), notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(client: Client, url: &str) -> Setup {
        let two = "[[upstream]]\nname = \"docker.io\"\nurl = \"https://registry-1.docker.io\"\ndefault = true\n\
                   [[upstream]]\nname = \"ghcr.io\"\nurl = \"https://ghcr.io\"";
        setup(client, &Mirror::new(url, &Config::read(two, []).unwrap()).unwrap())
    }

    #[test]
    fn every_client_is_given_the_mirror_and_a_word_about_its_fallback() {
        for client in Client::value_variants() {
            let setup = of(*client, "http://10.0.0.5:5000");
            let files: String = setup.files.iter().map(|(_, content)| content.as_str()).collect();
            assert!(files.contains("10.0.0.5:5000") && files.ends_with('\n'), "{files}");
            assert!(setup.notes.contains("Fallback: ") && setup.notes.ends_with('\n'), "{}", setup.notes);
            assert!(!files.contains('#') && !files.contains("\n\n\n"), "{files}");
            let other = setup.notes.contains("ghcr.io") || files.contains("ghcr.io") || setup.files.len() == 2;
            assert!(other, "another registry: {files}{}", setup.notes);
        }
    }

    #[test]
    fn a_file_is_what_its_client_reads() {
        let file = |client, url| of(client, url).files[0].1.clone();
        let toml = |client, url| file(client, url).parse::<toml::Table>().unwrap();
        let json = |client, url| serde_json::from_str::<serde_json::Value>(&file(client, url)).unwrap();
        assert_eq!(json(Client::Docker, "https://m"), serde_json::json!({ "registry-mirrors": ["https://m"] }));
        assert_eq!(json(Client::Docker, "http://m:1")["insecure-registries"][0], "m:1");
        assert_eq!(json(Client::Jib, "https://m")["registryMirrors"][0]["mirrors"][0], "m");
        let hosts = toml(Client::Containerd, "https://m");
        assert_eq!((hosts["server"].as_str(), hosts["host"].is_table()), (Some("https://m"), true));
        let podman = toml(Client::Podman, "https://m");
        assert_eq!(podman["registry"][1]["location"].as_str(), Some("m/ghcr.io"));
        assert_eq!(podman["registry"][0]["insecure"].as_bool(), Some(false));
        assert_eq!(toml(Client::Buildkit, "http://m:5000")["registry"]["m:5000"]["http"].as_bool(), Some(true));
        let mirrors = &toml(Client::Stargz, "http://m:1")["resolver"]["host"]["docker.io"]["mirrors"][0];
        assert_eq!((mirrors["host"].as_str(), mirrors["insecure"].as_bool()), (Some("m:1"), Some(true)));
        let kaniko = file(Client::Kaniko, "https://m");
        assert!(kaniko.starts_with("--registry-map=index.docker.io=m;ghcr.io=m/ghcr.io\n--skip"), "{kaniko}");
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        for bad in [
            "m:5000",
            "ftp://m",
            "http://",
            "http://m/path",
            "http://x y",
            "https://h:99999",
            "http://h:0",
            "http://u:p@h",
        ] {
            assert!(Mirror::new(bad, &Config::default()).is_err(), "{bad}");
        }
        assert_eq!(Mirror::new("http://m:1/", &Config::default()).unwrap().url, "http://m:1");
    }
}
