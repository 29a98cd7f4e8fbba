//! `weir serve`: what it prints when it is ready. The serving is wired in `main`.

use crate::config::{Config, Size};

use super::client_config::mirror_url;

/// What is served, and the lines that set the common clients up.
pub fn greeting(config: &Config) -> String {
    let url = mirror_url(config);
    let host = url.split_once("://").map_or(&*url, |(_, host)| host);
    let names: Vec<&str> = config.upstream.iter().map(|upstream| &*upstream.name).collect();
    let mut names = names.join(", ");
    if names.is_empty() {
        names.push_str("nothing (no [[upstream]])");
    }
    format!(
        r#"weir {version} mirrors {names} on {url}
  data in {root}, at most {capacity}; admin, metrics and health on http://{admin}

docker: put this into /etc/docker/daemon.json, then `systemctl reload docker`
  {{
    "registry-mirrors": ["{url}"]
  }}
containerd: put this into /etc/containerd/certs.d/docker.io/hosts.toml
  server = "{url}"
  [host]
podman: put this into /etc/containers/registries.conf.d/weir.conf
  [[registry]]
  prefix = "docker.io"
  location = "{host}/docker.io"
  insecure = {insecure}
In full, and for other clients: weir client-config CLIENT
"#,
        version = env!("CARGO_PKG_VERSION"),
        root = config.storage.root.display(),
        capacity = Size(config.storage.capacity),
        admin = config.admin.listen,
        insecure = url.starts_with("http://"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_holds_the_lines_that_set_docker_up() {
        let text = greeting(&Config::default());
        assert!(text.contains(r#""registry-mirrors": ["http://127.0.0.1:5000"]"#), "{text}");
        assert!(text.contains(r#"location = "127.0.0.1:5000/docker.io""#), "{text}");
        assert!(text.starts_with("weir ") && text.contains("mirrors docker.io on http://127.0.0.1:5000"), "{text}");
    }
}
