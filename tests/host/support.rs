//! Weir started by a script, in front of a Docker Hub on loopback.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use weir_conformance::{
    client::{Client, Request},
    hub::{self, Hub, Image, Spec},
    mirror::process::{Process, Program},
};

pub(crate) const WEIR: &str = env!("CARGO_BIN_EXE_weir");
pub(crate) const HOSTED: &str = "[hosted]\nnamespaces = [\"team/*\"]\nanonymous_push = true\n";

pub(crate) struct World {
    pub(crate) hub: Hub,
    pub(crate) weir: Process,
    pub(crate) client: Client,
    pub(crate) admin: Client,
    program: tempfile::TempDir,
}

impl World {
    /// `script` becomes weir: it ends with `exec`, `$WEIR` is the program and `$DATA` its data directory, `"$@"` are its arguments.
    pub(crate) async fn start(script: &str, extra: &str) -> World {
        World::with(hub::Settings::default(), script, extra).await
    }

    pub(crate) async fn with(settings: hub::Settings, script: &str, extra: &str) -> World {
        let hub = Hub::start(settings).await.unwrap();
        let program = tempfile::tempdir().unwrap();
        let path = program.path().join("weir");
        let text = format!("#!/bin/sh\nWEIR={WEIR} DATA=$(dirname \"$3\")/data HERE=$(dirname \"$0\")\n{script}\n");
        std::fs::write(&path, text).unwrap();
        for path in [path.as_path(), program.path()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let extra = format!("{extra}{HOSTED}");
        let weir = Process::start(Program::Weir(path), hub.registry_address(), &extra).await.unwrap();
        let (client, admin) = (Client::new(weir.address, ""), Client::new(weir.admin.unwrap(), ""));
        World { hub, weir, client, admin, program }
    }

    /// Where the script is, for what it writes beside itself.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.program.path().join(name)
    }

    /// The data directory as the process sees it.
    pub(crate) fn data(&self) -> PathBuf {
        let data = self.weir.data();
        Path::new("/proc").join(self.weir.pid().unwrap().to_string()).join("root").join(data.strip_prefix("/").unwrap())
    }

    /// Pushes a blob to `team/a`; the status.
    pub(crate) async fn push(&self, bytes: &[u8]) -> u16 {
        let target = format!("/v2/team/a/blobs/uploads/?digest={}", digest(bytes));
        self.client.send(&Request::new("POST", target).body(bytes)).await.unwrap().status()
    }

    /// Pulls an image that was never pulled.
    pub(crate) async fn pull(&self, name: &str) -> Image {
        let image = self.hub.push(Spec::new(name).single().layers([200_000])).unwrap();
        let manifest = Request::get(self.client.manifest(name, "latest")).accepting_manifests();
        assert_eq!(self.client.send(&manifest).await.unwrap().status(), 200);
        let layer = &image.platforms[0].layers[0];
        let blob = self.client.send(&Request::get(self.client.blob(name, &layer.digest))).await.unwrap();
        assert_eq!((blob.status(), digest(&blob.body)), (200, layer.digest.clone()));
        image
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
