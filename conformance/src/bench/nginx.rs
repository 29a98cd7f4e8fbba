//! nginx as the yardstick: the same manifest and the same blob as files under the same paths.

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};

use crate::{
    client::{Client, Request},
    mirror::{Image, process::free_address},
};

/// A running nginx. Dropping it kills the master, and the workers go with it.
pub(super) struct Nginx {
    pub(super) address: SocketAddr,
    child: Child,
    _directory: TempDir,
}

impl Nginx {
    /// Takes the image's index and first layer from `source` and serves them under the paths a registry has them.
    pub(super) async fn start(program: &Path, source: &Client, image: &Image) -> Result<Nginx, String> {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let root = directory.path().join("root");
        let manifest = source.get_manifest(&image.repository, &image.tag).await.map_err(|e| e.to_string())?;
        let at = |path: String| root.join(path.trim_start_matches('/'));
        let manifest_file = at(source.manifest(&image.repository, &image.tag));
        let blob_path = source.blob(&image.repository, &image.layers[0].digest);
        let blob_file = at(blob_path.clone());
        for file in [&manifest_file, &blob_file] {
            let parent = file.parent().ok_or("a path without a directory")?;
            std::fs::create_dir_all(parent).map_err(|e| e.to_string())?;
        }
        std::fs::write(&manifest_file, &manifest.body).map_err(|e| e.to_string())?;
        copy(source, &blob_path, &blob_file).await?;
        let address = free_address()?;
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config(address, directory.path(), &image.digest)).map_err(|e| e.to_string())?;
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(directory.path())
            .arg("-e")
            .arg(directory.path().join("error.log"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("nginx: {e}"))?;
        let nginx = Nginx { address, child, _directory: directory };
        let start = Instant::now();
        let client = Client::new(address, "");
        loop {
            match client.get_manifest(&image.repository, &image.tag).await {
                Ok(answer) if answer.status() == 200 && answer.body == manifest.body => return Ok(nginx),
                Ok(answer) => return Err(format!("nginx: {}", answer.describe())),
                Err(error) if start.elapsed() > Duration::from_secs(5) => return Err(format!("nginx: {error}")),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The master and its workers.
    pub(super) fn pids(&self) -> Result<Vec<u32>, String> {
        let master = self.child.id().ok_or("nginx has ended")?;
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
        let children = children.map_err(|e| format!("nginx's workers: {e}"))?;
        Ok(std::iter::once(master).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM to the master ends the workers; the SIGKILL of kill_on_drop would leave them.
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

async fn copy(source: &Client, path: &str, to: &Path) -> Result<(), String> {
    let text = |e: crate::client::Error| format!("{path}: {e}");
    let mut file = tokio::fs::File::create(to).await.map_err(|e| e.to_string())?;
    let mut connection = source.connect().await.map_err(text)?;
    let mut incoming = connection.start(&Request::get(path)).await.map_err(text)?;
    let mut piece = Vec::new();
    while incoming.piece(|bytes| piece.extend_from_slice(bytes)).await.map_err(text)? {
        file.write_all(&piece).await.map_err(|e| e.to_string())?;
        piece.clear();
    }
    file.flush().await.map_err(|e| e.to_string())
}

/// As facts about the fastest plain file server have it; the headers are those a registry sends.
fn config(address: SocketAddr, directory: &Path, digest: &str) -> String {
    let temporary = directory.display();
    format!(
        "daemon off;\nworker_processes auto;\npid {temporary}/nginx.pid;\nuser root;\nevents {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n  keepalive_timeout 65;\n  \
         keepalive_requests 100000000;\n  open_file_cache max=1000 inactive=60s;\n  open_file_cache_valid 60s;\n  \
         client_body_temp_path {temporary}/b;\n  proxy_temp_path {temporary}/p;\n  fastcgi_temp_path {temporary}/f;\n  \
         uwsgi_temp_path {temporary}/u;\n  scgi_temp_path {temporary}/s;\n  server {{\n    listen {address};\n    \
         root {temporary}/root;\n    default_type application/vnd.oci.image.index.v1+json;\n    \
         add_header Docker-Content-Digest \"{digest}\";\n    add_header Docker-Distribution-Api-Version registry/2.0;\n  }}\n}}\n"
    )
}
