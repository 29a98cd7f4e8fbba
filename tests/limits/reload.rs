//! A configuration that is wrong in one place while all the others change, and then a good one.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustix::process::Signal;
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use weir_conformance::{
    hub::{self, Hub, Spec},
    mirror::process::free_address,
};

use super::{PROXY, support::World, throttle};
use crate::admin_tls::{EXPIRED, GOOD, ask, tls_client};

const PULLS: &str = "throttle_unauthenticated_pulls";
const A0: &str = "/v2/library/a0/manifests/latest";

/// A connection to the listener with TLS that is kept.
struct Kept(StreamOwned<ClientConnection, TcpStream>);

impl Kept {
    fn to(address: SocketAddr) -> Kept {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let connection = ClientConnection::new(tls_client(), ServerName::try_from("localhost").unwrap()).unwrap();
        Kept(StreamOwned::new(connection, socket))
    }

    /// The status of a GET as this client.
    fn get(&mut self, path: &str, client: &str) -> u16 {
        write!(self.0, "GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n\r\n").unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0].to_ascii_lowercase());
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        self.0.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
        head[9..12].parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_in_one_place_changes_nothing_in_any_other() {
    let (world, other) = (World::start(None, PROXY).await, Hub::start(hub::Settings::default()).await.unwrap());
    world.images("a", 1);
    other.push(Spec::new("library/elsewhere")).unwrap();
    let (directory, secured) = (tempfile::tempdir().unwrap(), free_address().unwrap());
    let [pem, roots, nonsense] = ["tls.pem", "roots.pem", "nonsense"].map(|name| directory.path().join(name));
    std::fs::write(&pem, GOOD).unwrap();
    std::fs::write(&roots, GOOD).unwrap();
    std::fs::write(&nonsense, "nonsense").unwrap();
    let [pem, roots, nonsense] = [&pem, &roots, &nonsense].map(|path| path.to_str().unwrap());

    let listener = format!("[[listener]]\naddress = \"{secured}\"\ntls = {{ cert = {pem:?}, key = {pem:?} }}\n");
    let at = |hub: &Hub| {
        format!(
            "[[upstream]]\nname = \"secured.test\"\nurl = \"https://secured.test\"\nca_file = {roots:?}\n\
             [[upstream]]\nname = \"docker.io\"\nurl = \"{}\"\ndefault = true\n",
            hub.registry()
        )
    };
    let hosted = "[hosted]\nnamespaces = [\"local/*\"]\n";
    let old = format!("{PROXY}{hosted}{}{listener}{}", throttle(PULLS, 100, "burst = 90"), at(&world.hub));
    let hosted = "[hosted]\nnamespaces = [\"local/*\", \"team/*\"]\nanonymous_push = true\n";
    let new = format!("{PROXY}{hosted}{}{listener}{}", throttle(PULLS, 1, "burst = 1"), at(&other));
    let mut world = world;
    world.weir.write(&old);
    world.restart(Signal::TERM);
    let ghcr = |lines: &str| format!("{new}[[upstream]]\nname = \"ghcr.io\"\nurl = \"https://ghcr.io\"\n{lines}\n");
    let wrong = [
        ("TOML parse error", format!("{new}[[throttle\n")),
        ("limits", format!("{new}[limits]\nnonsense = 1\n")),
        ("nonsense", ghcr("").replace("https://ghcr.io", "nonsense")),
        ("/nonexistent", ghcr("accounts = [{ username = \"x\", password_file = \"/nonexistent\" }]")),
        (nonsense, ghcr(&format!("ca_file = {nonsense:?}"))),
        (
            "policy",
            format!(
                "{new}[[policy]]\nname = \"p\"\nimages = [\"docker.io/*\"]\nsigned = [{{ key = \"/nonexistent\" }}]\n"
            ),
        ),
        ("warm", format!("{new}[[warm]]\nfile = \"/nonexistent\"\nevery = \"1h\"\n")),
        // Cut in the middle of a word, as by an editor that writes in place.
        ("TOML parse error", new[..new.rfind("http").unwrap() + 6].to_owned()),
        (roots, new.clone()),
        (pem, new.clone()),
    ];

    let (mut client, mut kept) = (world.client("192.0.2.7"), Kept::to(secured));
    for (number, (reason, text)) in wrong.iter().enumerate() {
        if [pem, roots].contains(reason) {
            std::fs::write(reason, "nonsense").unwrap();
        }
        if *reason == pem {
            std::fs::write(roots, GOOD).unwrap();
        }
        let said = world.weir.log().len();
        world.weir.write(text);
        world.weir.until_log(said, reason);
        if number == 0 {
            // A certificate that is good by itself waits for the rest.
            std::fs::write(pem, EXPIRED).unwrap();
        }
        let again = world.weir.log().len();
        world.weir.signal(Signal::HUP);
        world.weir.until_log(again, "the new configuration is not used");
        let log = world.weir.log()[said..].to_owned();
        assert!(!log.contains(r#""message":"reloaded""#), "{reason}: {log}");
        assert!(world.weir.admin("GET", "/metrics", "").body.contains("weir_config_last_reload_successful 0\n"));

        let cold = format!("library/cold{number}");
        world.hub.push(Spec::new(&*cold)).unwrap();
        assert_eq!(client.get(&format!("/v2/{cold}/tags/list")).status, 200, "{reason}: the upstream is the old one");
        assert_eq!((client.get(A0).status, client.get(A0).status), (200, 200), "{reason}: the throttle is the old one");
        assert_eq!(kept.get(A0, "192.0.2.7"), 200, "{reason}: on the other listener, too");
        let mut push = |name: &str| {
            client.send("POST", &format!("/v2/{name}/app/blobs/uploads/"), "Content-Length: 0\r\n", "").status
        };
        assert_eq!((push("local"), push("team")), (401, 405), "{reason}: what is hosted is as it was");
        let secured = ask(TcpStream::connect(secured).unwrap(), "/v2/");
        assert!(
            secured.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")),
            "{reason}: the certificate is the old one"
        );
    }

    let said = world.weir.log().len();
    std::fs::write(pem, EXPIRED).unwrap();
    world.weir.write(&new);
    world.weir.signal(Signal::HUP);
    world.weir.until_log(said, r#""message":"reloaded""#);
    // The log says so before the metric does.
    while !world.weir.admin("GET", "/metrics", "").body.contains("weir_config_last_reload_successful 1\n") {
        std::thread::yield_now();
    }
    // The connections are those from before.
    assert_eq!((client.get(A0).status, kept.get(A0, "192.0.2.7")), (429, 429));
    assert_eq!(client.get("/v2/library/elsewhere/tags/list").status, 200);
    assert_eq!(client.send("POST", "/v2/local/app/blobs/uploads/", "Content-Length: 0\r\n", "").status, 202);
    let expired = ask(TcpStream::connect(secured).unwrap(), "/v2/").unwrap_err().to_string();
    assert!(expired.contains("xpired"), "{expired}");
}
