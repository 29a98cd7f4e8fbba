//! `weir client-config`: how to set up a client, printed in full and ready to paste.
//!
//! Each text ends with the client's side door: dockerd, containerd and the others go straight to Docker Hub when the
//! mirror answers an error, so that a refusal moves the spend to the node's own address. Where a client lets itself be
//! told not to, the text does; where not, it says what else closes the door.

use clap::{Args, ValueEnum};

use super::say;
use crate::config::Config;

/// Which client, and where the mirror is.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The client
    #[arg(value_enum)]
    client: Kind,
    /// Where clients reach the mirror; from server.listen when absent
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Docker,
    Containerd,
    Podman,
    Crio,
    Buildkit,
    K3s,
}

/// A mirror as the texts need it.
struct Mirror<'a> {
    /// `http://127.0.0.1:5000`
    url: &'a str,
    /// `127.0.0.1:5000`
    host: &'a str,
    plain: bool,
    /// `docker.io`, …
    upstreams: Vec<&'a str>,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let url = arguments.url.clone().unwrap_or_else(|| mirror_url(config));
    say(&text(arguments.client, url.trim_end_matches('/'), config)?)
}

/// Where clients reach the mirror, as far as the configuration tells. What listens on all addresses gets a name to replace.
pub(super) fn mirror_url(config: &Config) -> String {
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    match config.server.listen.0.first() {
        Some(address) if !address.ip().is_unspecified() => format!("{scheme}://{address}"),
        Some(address) => format!("{scheme}://weir.example.com:{}", address.port()),
        None => format!("{scheme}://weir.example.com:5000"),
    }
}

fn text(client: Kind, url: &str, config: &Config) -> Result<String, String> {
    let (scheme, host) = url
        .split_once("://")
        .filter(|(scheme, host)| matches!(*scheme, "http" | "https") && !host.is_empty() && !host.contains('/'))
        .ok_or_else(|| format!("{url}: write http://HOST:PORT or https://HOST:PORT"))?;
    let upstreams = config.upstream.0.iter().map(|upstream| &*upstream.name).collect();
    let mirror = Mirror { url, host, plain: scheme == "http", upstreams };
    Ok(match client {
        Kind::Docker => docker(&mirror),
        Kind::Containerd => containerd(&mirror),
        Kind::Podman => {
            containers(&mirror, "# podman, buildah and skopeo read it with every command; nothing to restart.\n")
        }
        Kind::Crio => containers(&mirror, "# Then: systemctl reload crio\n"),
        Kind::Buildkit => buildkit(&mirror),
        Kind::K3s => k3s(&mirror),
    })
}

/// For clients that always try Docker Hub last.
const EGRESS: &str = "\
# The side door: when the mirror answers an error (429, an image it cannot get), this client asks Docker Hub itself, from
# this machine's own address, and no setting stops it. To close it, let only Weir's machine reach registry-1.docker.io:443
# at the gateway; or, on a machine that does not run Weir, write into /etc/hosts:  127.0.0.1 registry-1.docker.io
";

fn docker(mirror: &Mirror) -> String {
    let url = mirror.url;
    format!(
        r#"# /etc/docker/daemon.json (merge it with what is there; JSON has no comments, so leave these lines out)
{{
  "registry-mirrors": ["{url}"]
}}
# Then: systemctl reload docker     Check: docker info --format '{{{{.RegistryConfig.Mirrors}}}}'
# Docker asks a mirror for Docker Hub's images alone. Of another registry name the mirror in the image:
#   docker pull {host}/ghcr.io/OWNER/IMAGE{insecure}
{EGRESS}"#,
        host = mirror.host,
        insecure = if mirror.plain && !mirror.host.starts_with("127.") {
            format!("\n# which over plain http wants \"insecure-registries\": [\"{}\"] beside the mirrors", mirror.host)
        } else {
            String::new()
        },
    )
}

fn containerd(mirror: &Mirror) -> String {
    let mut text = String::from(
        r#"# /etc/containerd/config.toml, once; then: systemctl restart containerd
[plugins."io.containerd.grpc.v1.cri".registry]       # containerd 1.x
  config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.images".registry]     # containerd 2.x; keep the one that is yours
  config_path = "/etc/containerd/certs.d"
# nerdctl looks there by itself; ctr wants --hosts-dir /etc/containerd/certs.d

"#,
    );
    for upstream in &mirror.upstreams {
        text += &format!(
            r#"# /etc/containerd/certs.d/{upstream}/hosts.toml (read with every pull; nothing to restart)
server = "{url}"
capabilities = ["pull", "resolve"]
[host] # empty, and yet containerd 1.6 reads nothing of this file without it

"#,
            url = mirror.url
        );
    }
    text + r#"# The side door is closed: `server` is where containerd ends, and it is the mirror. Written as [host."…"] instead, with
# server left out, the mirror comes first and the registry itself last. To push to these registries from here, do that.
"#
}

fn containers(mirror: &Mirror, then: &str) -> String {
    let mut text = String::from("# /etc/containers/registries.conf.d/weir.conf\n");
    for upstream in &mirror.upstreams {
        text += &format!(
            "[[registry]]\nprefix = \"{upstream}\"\nlocation = \"{host}/{upstream}\"\ninsecure = {plain}\n\n",
            host = mirror.host,
            plain = mirror.plain
        );
    }
    text += then;
    text + "# The side door is closed: `location` is the mirror itself. Written as [[registry.mirror]] below a location that is the\n\
            # registry, the registry comes last. To push to these registries from here, do that.\n"
}

fn buildkit(mirror: &Mirror) -> String {
    let mut text = String::from("# /etc/buildkit/buildkitd.toml; then: systemctl restart buildkit\n");
    text += "# For a builder of docker buildx: docker buildx create --use --buildkitd-config buildkitd.toml (in a container,\n\
             # where 127.0.0.1 is not this machine: name an address that the container reaches)\n";
    for upstream in &mirror.upstreams {
        text += &format!("[registry.\"{upstream}\"]\n  mirrors = [\"{host}\"]\n", host = mirror.host);
    }
    if mirror.plain {
        text += &format!("[registry.\"{host}\"]\n  http = true\n", host = mirror.host);
    }
    text + EGRESS
}

fn k3s(mirror: &Mirror) -> String {
    let mut text = String::from(
        "# /etc/rancher/k3s/registries.yaml on every node; then: systemctl restart k3s (or k3s-agent)\nmirrors:\n",
    );
    for upstream in &mirror.upstreams {
        text += &format!("  \"{upstream}\":\n    endpoint:\n      - \"{url}\"\n", url = mirror.url);
    }
    text + "# The side door: k3s adds the registry itself as the last endpoint. To close it, start k3s with\n\
            #   --disable-default-registry-endpoint\n\
            # (in /etc/rancher/k3s/config.yaml: disable-default-registry-endpoint: true)\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_told_where_the_mirror_is_and_of_the_side_door() {
        let config = Config::default();
        for client in Kind::value_variants() {
            let text = text(*client, "http://10.0.0.5:5000", &config).unwrap();
            assert!(text.contains("10.0.0.5:5000"), "{text}");
            assert!(text.contains("side door"), "{text}");
            assert!(text.contains("/etc/"), "{text}");
            assert!(text.ends_with('\n') && !text.contains("\n\n\n"), "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_what_the_client_reads() {
        let config = Config::default();
        let without_comments = |text: &str| -> String {
            text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
        };
        let docker = without_comments(&text(Kind::Docker, "https://m", &config).unwrap());
        let json: serde_json::Value = serde_json::from_str(&docker).unwrap();
        assert_eq!(json["registry-mirrors"][0], "https://m");
        let containerd = text(Kind::Containerd, "https://m", &config).unwrap();
        let hosts = &containerd[containerd.find("server =").unwrap()..];
        let hosts: toml::Table = hosts.parse().unwrap();
        assert_eq!((hosts["server"].as_str(), hosts["host"].is_table()), (Some("https://m"), true));
        let podman: toml::Table = without_comments(&text(Kind::Podman, "https://m", &config).unwrap()).parse().unwrap();
        assert_eq!(podman["registry"][0]["location"].as_str(), Some("m/docker.io"));
        assert_eq!(podman["registry"][0]["insecure"].as_bool(), Some(false));
        let buildkit = without_comments(&text(Kind::Buildkit, "http://m:5000", &config).unwrap());
        let buildkit: toml::Table = buildkit.parse().unwrap();
        assert_eq!(buildkit["registry"]["m:5000"]["http"].as_bool(), Some(true));
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        for bad in ["m:5000", "ftp://m", "http://", "http://m/path"] {
            assert!(text(Kind::Docker, bad, &Config::default()).is_err(), "{bad}");
        }
    }
}
