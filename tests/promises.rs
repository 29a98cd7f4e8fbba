//! Promises that span several parts of Weir: what is kept apart, what is bounded, and what is never written down.

use std::{path::Path, time::Duration};

use sha2::{Digest as _, Sha256};
use weir_conformance::{
    client::{Body, Client, Request, Response},
    hub::{self, Fault, Hub, Spec, What},
    mirror::process::{Process, Program, free_address, resident},
};

const MIB: usize = 1 << 20;
const HOSTED: &str = "[hosted]\nnamespaces = [\"team/*\"]\nanonymous_push = true\n";

async fn weir(upstream: &Hub, extra: &str) -> (Process, Client) {
    let program = Program::Weir(env!("CARGO_BIN_EXE_weir").into());
    let process = Process::start(program, upstream.registry_address(), extra).await.unwrap();
    let client = Client::new(process.address, "");
    (process, client)
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

async fn send(client: &Client, request: Request) -> Response {
    client.send(&request).await.unwrap()
}

async fn push(client: &Client, repository: &str, bytes: &[u8]) -> String {
    let digest = digest(bytes);
    let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let pushed = send(client, Request::new("POST", target).body(bytes)).await;
    assert_eq!(pushed.status(), 201, "{}", pushed.describe());
    digest
}

#[tokio::test]
async fn a_blob_deleted_in_one_repository_stays_in_the_other() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let (_weir, client) = weir(&hub, HOSTED).await;
    let blob = push(&client, "team/a", b"shared by two repositories").await;
    let mount = format!("/v2/team/b/blobs/uploads/?mount={blob}&from=team/a");
    assert_eq!(send(&client, Request::new("POST", mount).body("")).await.status(), 201);
    let (a, b) = (client.blob("team/a", &blob), client.blob("team/b", &blob));

    assert_eq!(send(&client, Request::new("DELETE", &*a)).await.status(), 202);
    // Reading it in B must not bring it back in A.
    for _ in 0..3 {
        assert_eq!(send(&client, Request::get(&*b)).await.text(), "shared by two repositories");
        assert_eq!(send(&client, Request::get(&*a)).await.status(), 404);
        assert_eq!(send(&client, Request::head(&*a)).await.status(), 404);
    }
}

#[tokio::test]
async fn a_name_of_an_upstream_that_fails_is_asked_of_no_other() {
    let default = Hub::start(hub::Settings::default()).await.unwrap();
    let corporate = Hub::start(hub::Settings::default()).await.unwrap();
    default.push(Spec::new("corp/app")).unwrap();
    let upstream = format!("[[upstream]]\nname = \"corp.test\"\nurl = \"{}\"\n", corporate.registry());
    let (_weir, client) = weir(&default, &upstream).await;
    let asked = [
        client.manifest("corp.test/corp/app", "latest"),
        client.path("corp.test/corp/app", "tags/list"),
        format!("{}?ns=corp.test", client.manifest("corp/app", "latest")),
    ];
    for target in &asked {
        let missing = send(&client, Request::get(&**target).accepting_manifests()).await;
        assert_eq!(missing.status(), 404, "{target}: {}", missing.describe());
    }
    corporate.fault(Fault::always(What::Status(503)));
    for target in &asked {
        let failed = send(&client, Request::get(&**target).accepting_manifests()).await;
        assert!(matches!(failed.status(), 404 | 502 | 503), "{target}: {}", failed.describe());
    }
    assert!(corporate.log().len() > 2);
    // A name of its own for each way to fail, since an absence is remembered.
    let faults = [What::Status(500), What::Status(429), What::Html, What::TokenStatus(503), What::TokenRefused];
    for (number, fault) in faults.into_iter().map(Some).chain([None]).enumerate() {
        let repository = format!("corp/app{number}");
        default.push(Spec::new(&*repository)).unwrap();
        corporate.clear_faults();
        match fault {
            Some(fault) => corporate.fault(Fault::always(fault)),
            None => corporate.down().await,
        }
        let failed = client.manifest(&format!("corp.test/{repository}"), "latest");
        let failed = send(&client, Request::get(failed).accepting_manifests()).await;
        assert!(matches!(failed.status(), 404 | 429 | 502 | 503), "{number}: {}", failed.describe());
    }
    assert_eq!(default.log().len(), 0, "nothing was asked of the default upstream");
}

#[tokio::test]
async fn a_manifest_takes_four_mebibytes_and_memory_stays_flat() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let (weir, client) = weir(&hub, HOSTED).await;
    let padded = |length: usize| {
        let begin = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"a":""#;
        let end = "\"}}";
        format!("{begin}{}{end}", "x".repeat(length - begin.len() - end.len()))
    };
    let put = |tag: &str, body: Body| Request {
        body,
        ..Request::new("PUT", client.manifest("team/large", tag))
            .with("Content-Type", "application/vnd.oci.image.index.v1+json")
    };
    let fits = send(&client, put("fits", Body::Bytes(padded(4 * MIB).into_bytes()))).await;
    assert_eq!(fits.status(), 201, "{}", fits.describe());
    let before = resident(weir.pid().unwrap()).unwrap();
    for _ in 0..4 {
        let larger = send(&client, put("larger", Body::Bytes(padded(4 * MIB + 1).into_bytes()))).await;
        assert_eq!(larger.status(), 413, "{}", larger.describe());
        // The mirror may answer and close while the client still sends, so an answer that got lost is no failure of the bound.
        let endless = client.send(&put("endless", Body::Chunked(vec![vec![b'x'; MIB]; 64]))).await;
        assert!(endless.as_ref().map_or(true, |answer| answer.status() == 413), "{endless:?}");
    }
    let grown = resident(weir.pid().unwrap()).unwrap().saturating_sub(before);
    assert!(grown < 16 * MIB as u64, "grew by {} KiB", grown >> 10);
    let missing = send(&client, Request::get(client.manifest("team/large", "larger"))).await;
    assert_eq!(missing.status(), 404);
}

/// Names of files below a directory, and their bytes.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            // What is a socket, or gone by now, has no bytes.
            _ => {
                found.extend(std::fs::read(entry.path()).ok().map(|bytes| (entry.path().display().to_string(), bytes)))
            }
        }
    }
    found
}

/// At the level trace, through pulls as an account of ours, refused logins, pushes, bans and the admin API.
#[tokio::test]
async fn no_secret_is_logged_stored_or_answered() {
    const UPSTREAM: &str = "canary-of-the-upstream-account";
    const WRONG: &str = "canary-of-a-wrong-password";
    // The password is "weir", the hash is of it.
    const HASH: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$kxGijz/3o2vdXUodgFgFqg$xNIKwwOml04OOn6HB04DQtBkecO0nUsH9nxtip4ROiU";
    let settings = hub::Settings { accounts: vec![hub::Account::new("robot", UPSTREAM)], ..hub::Settings::default() };
    let hub = Hub::start(settings).await.unwrap();
    let image = hub.push(Spec::new("corp/private").private()).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("password");
    std::fs::write(&file, UPSTREAM).unwrap();
    let login = free_address().unwrap();
    let extra = format!(
        "accounts = [{{ username = \"robot\", password_file = \"{}\" }}]\n{HOSTED}\n[log]\nfilter = \"trace\"\n[[listener]]\n\
         address = \"{login}\"\nlogin = true\n[[account]]\nname = \"ci\"\nrole = \"admin\"\npassword_hash = \"{HASH}\"\n\
         pull = [\"docker.io/corp/*\", \"team/*\"]\npush = [\"team/*\"]\n",
        file.display()
    );
    let (mut weir, client) = weir(&hub, &extra).await;
    let admin = Client::new(weir.admin.unwrap(), "");
    let at_login = Client::new(login, "");
    let right = ("Authorization", "Basic Y2k6d2Vpcg==");
    let wrong = "Basic Y2k6Y2FuYXJ5LW9mLWEtd3JvbmctcGFzc3dvcmQ=";

    let mut answers = Vec::new();
    let private = at_login.manifest("corp/private", "latest");
    for (client, request) in [
        (&at_login, Request::get(&*private).accepting_manifests().with(right.0, right.1)),
        (&at_login, Request::get(at_login.blob("corp/private", &image.blobs()[0].digest)).with(right.0, right.1)),
        (&at_login, Request::get(&*private).accepting_manifests().with(right.0, wrong)),
        (&at_login, Request::get("/v2/").with(right.0, wrong)),
        (&client, Request::get("/v2/").with(right.0, wrong)),
        (&client, Request::get(format!("/v2/team/x/manifests/1?token={WRONG}"))),
        (&at_login, Request::new("POST", "/v2/team/x/blobs/uploads/").body("").with(right.0, right.1)),
        (&admin, Request::get("/api/v1/audit").with(right.0, wrong)),
        (&admin, Request::get("/api/v1/budget").with(right.0, right.1)),
        (&admin, Request::get("/api/v1/clients").with(right.0, right.1)),
        (&admin, Request::get("/api/v1/audit").with(right.0, right.1)),
        (&admin, Request::get("/metrics")),
    ] {
        let target = request.target.clone();
        answers.push((target, send(client, request).await));
    }
    assert_eq!(answers[0].1.status(), 200, "{}", answers[0].1.describe());
    assert_eq!(answers[1].1.status(), 200, "{}", answers[1].1.describe());
    let tokens: Vec<String> = hub
        .log()
        .iter()
        .flat_map(|logged| logged.headers.iter())
        .filter(|(name, _)| name == "authorization")
        .map(|(_, value)| value.rsplit(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert!(tokens.len() >= 2, "the hub saw a password and a token");
    weir.terminate().unwrap();
    assert!(weir.ended(Duration::from_secs(40)).await.unwrap());

    let mut places = files(weir.directory());
    assert!(places.iter().any(|(name, bytes)| name.ends_with("/log") && bytes.len() > 1000), "the log is among them");
    places.retain(|(name, _)| !name.ends_with("/config"));
    places.extend(answers.into_iter().map(|(target, answer)| {
        let mut bytes = answer.body.clone();
        bytes.extend(format!("{:?}", answer.head).into_bytes());
        (target, bytes)
    }));
    let basic = |header: &str| header.trim_start_matches("Basic ").to_owned();
    let canaries = [UPSTREAM.into(), WRONG.into(), HASH.into(), basic(right.1), basic(wrong)].into_iter().chain(tokens);
    for canary in canaries {
        for (place, bytes) in &places {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{canary} is in {place}");
        }
    }
}

/// What `/readyz?verbose` says of one thing: whether it is well, and what is wrong.
async fn check(admin: &Client, name: &str) -> (bool, String) {
    let answer = send(admin, Request::get("/readyz?verbose")).await;
    assert_eq!(answer.status(), 200, "what is cached goes on: {}", answer.describe());
    let json = answer.json();
    let check = json["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("{name}: {json}"));
    (check["ok"] == true, check["problem"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn readiness_says_what_is_wrong_with_the_disk_an_account_or_an_upstream() {
    let settings = hub::Settings { accounts: vec![hub::Account::new("robot", "right")], ..hub::Settings::default() };
    let hub = Hub::start(settings).await.unwrap();
    (0..8).for_each(|number| drop(hub.push(Spec::new(format!("library/app{number}"))).unwrap()));
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("password");
    std::fs::write(&file, "wrong").unwrap();
    let extra = format!("accounts = [{{ username = \"robot\", password_file = \"{}\" }}]\n", file.display());
    let (weir, client) = weir(&hub, &extra).await;
    let admin = Client::new(weir.admin.unwrap(), "");
    let well = (true, String::new());
    for name in ["disk", "accounts docker.io", "upstream docker.io"] {
        assert_eq!(check(&admin, name).await, well, "{name}");
    }
    let pull = async |number: u32| {
        let target = client.manifest(&format!("library/app{number}"), "latest");
        send(&client, Request::get(target).accepting_manifests()).await.status()
    };
    // The account is tried first, and left alone once it was refused.
    while pull(0).await != 200 {}
    let (ok, problem) = check(&admin, "accounts docker.io").await;
    assert!(!ok && problem.starts_with("1 of 1 refused") && !problem.contains("robot"), "{problem}");

    // Nothing can be written where small files are on their way.
    let partial = weir.data().join("partial");
    std::fs::rename(&partial, weir.data().join("away")).unwrap();
    std::fs::write(&partial, "").unwrap();
    let until = async |name: &str, wanted: bool| loop {
        let (ok, problem) = check(&admin, name).await;
        if ok == wanted {
            return problem;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(until("disk", false).await.contains("Not a directory"));
    std::fs::remove_file(&partial).unwrap();
    std::fs::rename(weir.data().join("away"), &partial).unwrap();
    until("disk", true).await;

    hub.fault(Fault::always(What::Status(503)));
    for number in 1..8 {
        assert_ne!(pull(number).await, 200);
    }
    let (ok, problem) = check(&admin, "upstream docker.io").await;
    assert!(!ok && problem.starts_with("not asked until "), "{problem}");
    assert_eq!(pull(0).await, 200);

    // A file that was there at the start and is not any more.
    hub.clear_faults();
    let (weir, client) = self::weir(&hub, &extra).await;
    std::fs::remove_file(&file).unwrap();
    send(&client, Request::get(client.manifest("library/app0", "latest")).accepting_manifests()).await;
    let (ok, problem) = check(&Client::new(weir.admin.unwrap(), ""), "accounts docker.io").await;
    assert!(!ok && problem.starts_with("1 of 1 without a credential that can be read"), "{problem}");
}
