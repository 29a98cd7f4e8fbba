//! The tier over a real S3 server: versitygw, which this test starts. `cargo test -p weir-shared --test engines`.
//!
//! The program is found by `PATH`, or named by `WEIR_VERSITYGW`: `go install github.com/versity/versitygw/cmd/versitygw@v1.8.0`.

mod support;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use weir_shared::{S3, Unfit};

use self::support::{probe, settings, what_one_keeps_another_gets};

/// A running versitygw. Dropping it ends the process.
struct Gateway {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Gateway {
    fn start() -> Gateway {
        let directory = tempfile::tempdir().unwrap();
        let buckets = directory.path().join("buckets");
        std::fs::create_dir_all(buckets.join("weir")).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let program = std::env::var_os("WEIR_VERSITYGW").unwrap_or_else(|| "versitygw".into());
        let mut command = Command::new(&program);
        command.args([
            "--port",
            &address.to_string(),
            "--access",
            "user",
            "--secret",
            "secretsecret",
            "--quiet",
            "posix",
        ]);
        command.arg(&buckets).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{program:?}: {error}; install versitygw"));
        let gateway = Gateway { child, address, directory };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "versitygw does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        gateway
    }

    fn settings(&self) -> S3 {
        settings(&format!("http://{}", self.address), "weir", self.directory.path())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_real_server_passes_the_probe_and_says_what_is_wrong_with_a_name_or_a_secret() {
    let gateway = Gateway::start();
    probe(&gateway.settings()).await.unwrap();
    let said = probe(&S3 { bucket: "absent".to_owned(), ..gateway.settings() }).await.unwrap_err();
    assert!(matches!(said, Unfit::Refused(_)) && said.to_string().contains("NoSuchBucket"), "{said}");
    let wrong = gateway.directory.path().join("wrong");
    std::fs::write(&wrong, "aws_access_key_id = user\naws_secret_access_key = hunter2\n").unwrap();
    let said = probe(&S3 { credentials_file: wrong, ..gateway.settings() }).await.unwrap_err();
    assert!(matches!(said, Unfit::Refused(_)) && said.to_string().contains("SignatureDoesNotMatch"), "{said}");
    assert!(!said.to_string().contains("hunter2"), "{said}");
}

#[tokio::test]
async fn what_one_replica_keeps_another_gets_from_a_real_server() {
    let gateway = Gateway::start();
    what_one_keeps_another_gets(&gateway.settings()).await;
}
