//! `weir cache export` and `import`: what an archive has in it, what is refused, and what a site without a network can pull.

mod transfers;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde_json::Value;
use weir::archive::{END, header, padding};
use weir_conformance::hub::{Image, Layer, Spec};

use crate::{
    cache::World,
    deploy::{Running, ask, printed, weir},
};

/// A world with one image of two platforms, of which the first was pulled, and one image that is complete.
async fn world() -> (World, Image, Image) {
    let world = World::start().await;
    world.counted();
    let two = world.hub.push(Spec::new("library/two")).unwrap();
    let one = world.hub.push(Spec::new("acme/one").seed(7).tags(["1", "2"]).single()).unwrap();
    world.pull(&two, 0);
    world.pull(&one, 0);
    (world, two, one)
}

/// Every regular file below a directory, by its path from there.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        // What is written meanwhile comes and goes.
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path.strip_prefix(root).unwrap().to_owned()) }
        }
    }
    found.sort();
    found
}

/// Flips a bit in the middle of a blob as it lies in a store.
fn damage(root: &Path, digest: &str) {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let path =
        files(root).into_iter().find(|path| path.ends_with(format!("blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(root.join(path)).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn paths(image: &Image, platform: usize) -> Vec<PathBuf> {
    let platform = &image.platforms[platform];
    let digests =
        [image.digest(), &platform.manifest.digest].into_iter().chain(platform.blobs().map(|blob| &*blob.digest));
    let mut paths: Vec<PathBuf> = digests.map(|digest| format!("blobs/{}", digest.replace(':', "/")).into()).collect();
    paths.extend(["index.json".into(), "oci-layout".into()]);
    paths.sort();
    paths.dedup();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_a_layout_of_what_is_complete_and_the_same_each_time() {
    let (world, two, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();

    let text = world.command(&["export", "acme/one:1", "--output", &at("one"), "--reason", "a journey"]);
    assert!(text.starts_with("docker.io/acme/one:1\n1 exported: "), "{text}");
    assert_eq!(files(&out.path().join("one")), paths(&one, 0));
    assert_eq!(fs::read_to_string(at("one/oci-layout")).unwrap(), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let index: Value = serde_json::from_slice(&fs::read(at("one/index.json")).unwrap()).unwrap();
    let listed = &index["manifests"][0];
    assert_eq!((&listed["digest"], index["manifests"].as_array().unwrap().len()), (&one.digest().into(), 1));
    for key in ["org.opencontainers.image.ref.name", "io.containerd.image.name"] {
        assert_eq!(listed["annotations"][key], "docker.io/acme/one:1");
    }
    let audit = world.api("GET", "/api/v1/audit");
    let entry = &audit["audit"][0];
    assert_eq!(
        ["event", "selection", "reason"].map(|key| entry[key].as_str().unwrap()),
        ["exported", "acme/one:1", "a journey"]
    );

    // One platform of two: the index keeps its bytes, and says what is there.
    let text = world.command(&["export", "two", "--output", &at("two")]);
    assert!(text.contains("docker.io/library/two:latest is not complete here: 1 of its objects is missing"), "{text}");
    assert!(text.contains(&two.platforms[1].manifest.digest) && text.contains("are complete: linux/amd64"), "{text}");
    assert!(!out.path().join("two").exists());
    let platform = ["--platform", "linux/amd64"];
    let text = world.command(&[&["export", "two", "--output", &at("two")], &platform[..]].concat());
    assert!(text.starts_with("docker.io/library/two:latest: linux/amd64 of it; its index names more\n"), "{text}");
    assert_eq!(files(&out.path().join("two")), paths(&two, 0));

    let all = |name: &str| {
        let text = world.command(&[&["export", "docker.io/*", "--output", &at(name)], &platform[..]].concat());
        assert!(text.contains("2 exported"), "{text}");
        fs::read(at(name)).unwrap()
    };
    let first = all("first.tar");
    assert_eq!((first.len() % 512, first == all("second.tar")), (0, true));
    let (status, head, _) =
        ask(world.running.admin, "GET", "/api/v1/cache/export?name=docker.io/*&platform=linux/amd64", "");
    assert_eq!(status, 200);
    assert!(head.contains(&format!("content-length: {}", first.len())), "{head}");
    let streamed = weir(&["cache", "export", "docker.io/*", "--output", "-", "--platform", "linux/amd64", "--admin"])
        .arg(format!("http://{}", world.running.admin))
        .output()
        .unwrap();
    assert_eq!((streamed.stdout == first, streamed.status.success()), (true, true), "{}", printed(&streamed));

    // Nothing of the blobs is new since tomorrow; the names are there all the same.
    let text = world.command(&["export", "acme/one:1", "--output", &at("since"), "--since", "2999-01-01T00:00:00Z"]);
    assert!(text.contains("1 exported: 1 objects"), "{text}");

    for (arguments, why) in [
        (&["nothing:1"][..], "weir answered 404: nothing of nothing:1 is cached"),
        (&["quay.io/x/y"], "weir answered 400: quay.io/x/y: no configured upstream"),
        (&["acme/one", "--platform", "amd64"], "weir answered 400: write platforms as linux/amd64"),
        (
            &["two", "--platform", "linux/s390x"],
            "weir answered 409: docker.io/library/two:latest has none of these platforms",
        ),
        (&["acme/one", "--output", &at("one")], "there is something already"),
        (&["acme/one", "--format", "docker-archive"], "end the name in .tar"),
    ] {
        let place = at("refused");
        let output: &[&str] = if arguments.contains(&"--output") { &[] } else { &["--output", &place] };
        let text = world.command(&[&["export"], arguments, output].concat());
        assert!(text.contains(why), "{arguments:?}: {text}");
    }
    assert!(!files(out.path()).iter().any(|path| path.to_string_lossy().contains("partial")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_a_damaged_blob_fails_names_it_and_leaves_nothing() {
    let (world, two, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    for (name, image, output) in [("acme/one", &one, "one"), ("two", &two, "two.tar")] {
        let damaged = &image.platforms[0].layers[1].digest;
        damage(world.running.directory(), damaged);
        let output = out.path().join(output);
        let output = output.to_str().unwrap();
        let text = world.command(&["export", name, "--platform", "linux/amd64", "--output", output]);
        let hex = damaged.strip_prefix("sha256:").unwrap();
        assert!(text.contains(&format!("the export failed at blobs/sha256/{hex}")), "{text}");
        assert_eq!(files(out.path()), [""; 0].map(PathBuf::from));
    }
    assert!(world.running.log().contains("an export ended without its end"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_archive_has_one_image_of_one_platform() {
    let (world, two, _) = world().await;
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("two.tar");
    let export = |more: &[&str]| {
        let arguments = ["export", "two:latest", "--format", "docker-archive", "--output", path.to_str().unwrap()];
        world.command(&[&arguments, more].concat())
    };
    assert!(export(&["--platform", "linux/amd64"]).contains("1 exported"));
    let tar = fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&tar);
    let start = text.find(r#"[{"Config":"#).unwrap();
    let manifest: Value = serde_json::from_str(text[start..].split('\0').next().unwrap()).unwrap();
    let at = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let platform = &two.platforms[0];
    assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["docker.io/library/two:latest"]));
    assert_eq!(manifest[0]["Config"], at(&platform.config.digest));
    let layers: Vec<String> = platform.layers.iter().map(|layer| at(&layer.digest)).collect();
    assert_eq!(manifest[0]["Layers"], serde_json::json!(layers));
    world.pull(&two, 1);
    fs::remove_file(&path).unwrap();
    assert!(export(&[]).contains("docker-archive has one platform, and docker.io/library/two:latest has 2; name one"));
}

/// A Weir whose upstream is out of reach.
struct Site(Running);

impl Site {
    fn start(more: &[(&str, &str)]) -> Site {
        // Nothing listens on the discard port of this machine.
        let environment = [&[("WEIR_UPSTREAM__0__URL", "http://127.0.0.1:9")], more].concat();
        let site = Site(Running::start(&environment));
        while site.api("/api/v1/cache")["counted"] != true {
            std::thread::yield_now();
        }
        site
    }

    fn api(&self, path: &str) -> Value {
        let (status, _, body) = ask(self.0.admin, "GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn import(&self, arguments: &[&str], input: Option<&Path>) -> String {
        let admin = format!("http://{}", self.0.admin);
        let mut command = weir(&[&["cache", "import"], arguments, &["--admin", &admin]].concat());
        if let Some(input) = input {
            command.stdin(fs::File::open(input).unwrap());
        }
        printed(&command.output().unwrap())
    }

    /// The status of each object of one platform, asked for as a container engine does.
    fn pull(&self, image: &Image, platform: usize) -> Vec<u16> {
        let platform = &image.platforms[platform];
        let manifests = [&image.tags[0], image.digest(), &platform.manifest.digest].map(|it| format!("manifests/{it}"));
        let blobs = platform.blobs().map(|blob| format!("blobs/{}", blob.digest));
        let paths = manifests.into_iter().chain(blobs);
        paths
            .map(|path| ask(self.0.registry, "GET", &format!("/v2/{}/{path}", image.repository), "Accept: */*\r\n").0)
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let page = self.api("/api/v1/cache");
        page["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Objects that are stored.
    fn blobs(&self) -> usize {
        let data = files(self.0.directory());
        data.iter().filter(|path| path.components().any(|part| part.as_os_str() == "blobs")).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_exported_is_pulled_where_no_registry_can_be_reached() {
    let (world, two, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    for output in ["all", "all.tar"] {
        let output = at(output);
        let text = world.command(&["export", "docker.io/*", "--platform", "linux/amd64", "--output", &output]);
        assert!(text.contains("2 exported"), "{text}");
    }
    let stream = at("all.tar");
    for (path, input) in [(at("all"), None), (at("all.tar"), None), ("-".to_owned(), Some(Path::new(&stream)))] {
        let site = Site::start(&[]);
        let text = site.import(&[&path, "--reason", "a journey"], input);
        assert!(text.starts_with("docker.io/acme/one:1: imported\n"), "{text}");
        assert!(
            text.contains("docker.io/library/two:latest: imported; linux/amd64 of it, its index names more\n"),
            "{text}"
        );
        assert_eq!(site.pull(&one, 0), [200; 7]);
        assert_eq!(site.pull(&two, 0), [200; 7]);
        assert_eq!(site.names(), ["docker.io/acme/one:1", "docker.io/library/two:latest"]);
        let complete = site.api("/api/v1/cache?pattern=acme")["images"][0]["complete"].clone();
        assert_eq!((complete, site.blobs()), (true.into(), 8), "the manifests are no blobs");
        let audit = site.api("/api/v1/audit");
        let entry = &audit["audit"][0];
        assert_eq!(
            (&entry["event"], &entry["images"], &entry["reason"]),
            (&"imported".into(), &2.into(), &"a journey".into())
        );
        let text = site.import(&[&path], input);
        assert!(text.contains("; 0 of them are new here"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_imported_is_nowhere_shown_as_confirmed() {
    let (world, _, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("one.tar").to_str().unwrap().to_owned();
    world.command(&["export", "acme/one", "--output", &path]);
    let site = Site::start(&[]);
    site.import(&[&path], None);
    let image = site.api("/api/v1/cache?pattern=acme&stale=true")["images"][0].clone();
    assert_eq!((&image["imported"]["by"], image["name"].as_str()), (&"operator".into(), Some("docker.io/acme/one:1")));
    assert_eq!((&image["checked_at"], &image["fresh_until"]), (&Value::Null, &Value::Null));
    assert_eq!(site.api("/api/v1/cache?stale=false")["images"], serde_json::json!([]));

    let page = |path: &str| {
        let (status, _, body) = ask(site.0.admin, "GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let list = page("/images");
    let row = list.split("<tr").find(|row| row.contains("acme/one")).unwrap();
    assert!(row.contains(">imported</span>") && row.contains(">stale<") && !row.contains("until "), "{row}");
    let path = "/image?repository=docker.io%2Facme%2Fone&reference=1";
    let shown = page(path);
    assert!(
        shown.contains("<dt>Imported</dt>") && shown.contains(" by operator, not confirmed by upstream"),
        "{shown}"
    );
    assert!(!shown.contains("Confirmed") && !shown.contains("until "), "{shown}");

    // Another Weir got it from upstream itself.
    world.pull(&one, 0);
    let (_, _, shown) = ask(world.running.admin, "GET", path, "");
    assert!(shown.contains("<dt>Confirmed</dt>") && shown.contains("until ") && !shown.contains("mported"), "{shown}");
    let image = &world.api("GET", "/api/v1/cache?pattern=acme&stale=false")["images"][0];
    assert!(image["checked_at"].is_string() && image["fresh_until"].is_string(), "{image}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_was_imported_does_not_show_that_it_is_fresh() {
    let world = World::start().await;
    world.counted();
    let base = Layer::Shared { seed: 77, size: 100 };
    for (name, layers) in [("acme/base", vec![base.clone()]), ("acme/app", vec![base, Layer::Random(100)])] {
        let image = world.hub.push(Spec { layers, ..Spec::new(name).single() }).unwrap();
        world.pull(&image, 0);
    }
    let fresh_base = |report: &Value| {
        let verdicts = report["platforms"][0]["verdicts"].as_array().unwrap();
        let verdict = verdicts.iter().find(|verdict| verdict["rule"] == "fresh_base").unwrap();
        let [outcome, finding] = ["outcome", "finding"].map(|key| verdict[key].as_str().unwrap().to_owned());
        (outcome, finding)
    };
    let report = "/api/v1/images/acme%2Fapp";
    let (outcome, finding) = fresh_base(&world.api("GET", report));
    assert!(outcome == "pass" && finding.contains("docker.io/acme/base:latest"), "{outcome}: {finding}");

    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("both.tar").to_str().unwrap().to_owned();
    world.command(&["export", "acme/base", "acme/app", "--output", &path]);
    let site = Site::start(&[]);
    site.import(&[&path], None);
    let (outcome, finding) = fresh_base(&site.api(report));
    assert!(outcome == "unknown" && finding.contains("does not know whether it moved on"), "{outcome}: {finding}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_site_has_already_need_not_be_brought_again() {
    let (world, _, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    world.command(&["export", "acme/one", "--output", &at("first")]);
    let shared = world.hub.push(Spec::new("acme/next").seed(7).single()).unwrap();
    assert_eq!(shared.platforms[0].layers[1].digest, one.platforms[0].layers[1].digest);
    world.pull(&shared, 0);
    world.command(&["export", "acme/next", "--since", "2999-01-01T00:00:00Z", "--output", &at("second")]);
    assert!(files(&out.path().join("second")).len() < 4);
    let site = Site::start(&[]);
    let text = site.import(&[&at("second")], None);
    assert!(text.contains("is neither in the archive nor public here") && site.names().is_empty(), "{text}");
    site.import(&[&at("first")], None);
    let text = site.import(&[&at("second")], None);
    assert!(text.contains("docker.io/acme/next:latest: imported"), "{text}");
    assert_eq!(site.pull(&shared, 0), [200; 7]);
}

/// A tar of these files, without its end.
fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, bytes) in files {
        tar.extend_from_slice(&header(path, bytes.len() as u64).unwrap());
        tar.extend_from_slice(bytes);
        tar.resize(tar.len() + padding(bytes.len() as u64) as usize, 0);
    }
    tar
}

/// The files of a layout in a directory, in an order in which `index.json` comes last.
fn layout(root: &Path) -> Vec<(String, Vec<u8>)> {
    files(root).iter().map(|path| (path.to_str().unwrap().to_owned(), fs::read(root.join(path)).unwrap())).collect()
}

fn packed(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    [pack(&files), END.to_vec()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_damaged_or_no_layout_is_refused_and_leaves_nothing() {
    let (world, _, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    world.command(&["export", "acme/one", "--output", &at("one")]);
    let sound = layout(&out.path().join("one"));
    let site = Site::start(&[]);
    let refused = |tar: &[u8], why: &str| {
        fs::write(at("bad.tar"), tar).unwrap();
        let text = site.import(&[&at("bad.tar")], None);
        assert!(text.contains(why), "{why}: {text}");
        assert_eq!((site.names(), site.blobs()), (Vec::new(), 0), "{why}");
    };
    let changed = |path: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = sound.clone();
        change(&mut files.iter_mut().find(|(name, _)| name.ends_with(path)).unwrap().1);
        packed(&files)
    };
    let without = |path: &str| {
        let files: Vec<_> = sound.iter().filter(|(name, _)| !name.ends_with(path)).cloned().collect();
        packed(&files)
    };
    let platform = &one.platforms[0];
    let objects = [&platform.manifest.digest, &platform.config.digest, &platform.layers[2].digest];
    for digest in objects {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let flipped = changed(hex, &|bytes| *bytes.last_mut().unwrap() ^= 1);
        refused(&flipped, &format!("docker.io/acme/one:1: refused: {digest} does not match its digest"));
        let why = if *digest == platform.manifest.digest {
            "is not in the archive"
        } else {
            "is neither in the archive nor public here"
        };
        refused(&without(hex), why);
    }
    let index = |from: &str, to: &str| {
        changed("index.json", &|bytes| *bytes = String::from_utf8_lossy(bytes).replace(from, to).into_bytes())
    };
    refused(&index("image.manifest.v1", "image.config.v1"), "which is no manifest's");
    refused(&index("docker.io/acme", "quay.io/acme"), r#"add [[upstream]] with name = "quay.io""#);
    refused(&index("docker.io/acme/one:1", "1"), r#"the archive gives it no full name, only "1""#);
    refused(&index("docker.io/acme/one:1", "docker.io/acme/One:1"), "this is no repository name");
    refused(&index("\"manifests\"", "\"other\""), "index.json: missing field");
    refused(&changed("index.json", &|bytes| bytes.truncate(20)), "index.json: ");
    refused(&changed("oci-layout", &|bytes| *bytes = br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec()), "version 2.0.0");
    refused(&without("index.json"), "index.json: it is missing");
    refused(&without("oci-layout"), "oci-layout: it is missing");
    let hex = platform.manifest.digest.strip_prefix("sha256:").unwrap();
    let size = sound.iter().find(|(name, _)| name.ends_with(hex)).unwrap().1.len();
    let size = format!("\"size\":{size}");
    refused(&index(&size, "\"size\":7"), "bytes, and 7 are named");

    let whole = packed(&sound);
    refused(&whole[..whole.len() - END.len()], "it has no end");
    refused(&whole[..whole.len() / 2], "the archive ended early, in or after blobs/sha256/");
    let text = b"this is no archive, though it is as long as a header. ".repeat(20);
    for text in [&b""[..], b"this is no archive", &text] {
        refused(text, "weir answered 400: this is no tar archive, and so no OCI image layout");
    }
    let first = |entry: Vec<u8>| [entry, whole.clone()].concat();
    refused(&first(pack(&[("blobs/sha256/short", b"x")])), "it is no part of an OCI image layout");
    refused(&first(pack(&[("0123/layer.tar", b"x")])), "skopeo copy docker-archive:");
    refused(&first(pack(&[("oci-layout", sound.last().unwrap().1.as_slice())])), "it is in the archive twice");
    let raw = |change: &dyn Fn(&mut tar::Header)| {
        let mut header = tar::Header::from_byte_slice(&header("oci-layout", 0).unwrap()).clone();
        change(&mut header);
        header.set_cksum();
        first(header.as_bytes().to_vec())
    };
    for path in ["../etc/passwd", "/etc/passwd", "blobs/../../x"] {
        let named = raw(&|header| {
            header.as_mut_bytes()[..100].fill(0);
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        });
        refused(&named, "is no path within an archive");
    }
    refused(&raw(&|header| header.set_entry_type(tar::EntryType::Symlink)), "an entry of type Symlink has no place");
    refused(&raw(&|header| header.set_entry_type(tar::EntryType::Link)), "an entry of type Link has no place");
    refused(&raw(&|header| header.set_size(1 << 40)), "it has 1099511627776 bytes, and may have");
    let hex = "0".repeat(64);
    let absurd = raw(&|header| {
        header.set_path(format!("blobs/sha256/{hex}")).unwrap();
        header.set_size(1 << 60);
    });
    refused(&absurd, "weir answered 507: no room for 1152921504606846976 bytes");

    // One that nothing names is removed again.
    let junk = first(pack(&[(
        &format!("blobs/sha256/{}", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"),
        b"x",
    )]));
    fs::write(at("junk.tar"), junk).unwrap();
    let text = site.import(&[&at("junk.tar")], None);
    assert!(text.contains("docker.io/acme/one:1: imported"), "{text}");
    assert_eq!(site.blobs(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_a_layout_is_not_followed_and_a_denied_repository_is_not_imported() {
    let (world, _, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("one");
    world.command(&["export", "acme/one", "--output", path.to_str().unwrap()]);
    let site = Site::start(&[("WEIR_UPSTREAM__0__DENY", "acme/*")]);
    let text = site.import(&[path.to_str().unwrap()], None);
    assert!(
        text.contains("refused: docker.io/acme/one is not mirrored here: its operator denies acme/* of docker.io"),
        "{text}"
    );
    assert!(text.contains("1 of 1 images was refused") && site.blobs() == 0, "{text}");
    for name in ["docker.io/library/one:9", "library/one:9", "one:9"] {
        let text = site.import(&[path.to_str().unwrap(), "--name", name], None);
        assert!(text.starts_with("docker.io/library/one:9: imported\n"), "{name}: {text}");
    }
    let hex = one.platforms[0].config.digest.strip_prefix("sha256:").unwrap();
    let blob = path.join("blobs/sha256").join(hex);
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &blob).unwrap();
    let text = site.import(&[path.to_str().unwrap()], None);
    assert!(text.contains(hex) && text.contains("it is a link or no regular file"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_tag_is_answered_at_once_until_upstream_says_what_it_names() {
    let (world, two, one) = world().await;
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("all.tar");
    let path = path.to_str().unwrap();
    world.command(&["export", "docker.io/*", "--platform", "linux/amd64", "--output", path]);
    // A tag is never fresh here: only that it was imported lets it be answered without upstream.
    let url = format!("http://{}", world.hub.registry_address());
    let site = Site::start(&[("WEIR_UPSTREAM__0__URL", &url), ("WEIR_MIRROR__TAG_TTL", "0s")]);
    world.hub.down().await;
    assert!(site.import(&[path], None).contains("docker.io/acme/one:1: imported"));
    let named = |repository: &str, tag: &str| {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, head, _) = ask(site.0.registry, "HEAD", &path, "Accept: */*\r\n");
        let digest = head.lines().find_map(|line| line.strip_prefix("docker-content-digest: ")).unwrap_or_default();
        (status, digest.to_owned(), head.contains("was imported"))
    };
    assert_eq!(named("acme/one", "1"), (200, one.digest().to_owned(), true));
    assert_eq!(site.pull(&one, 0), [200; 7]);
    let mark = |pattern: &str| site.api(&format!("/api/v1/cache?pattern={pattern}"))["images"][0]["imported"].clone();
    assert_eq!(mark("acme/one")["by"], "operator");

    world.hub.up().await.unwrap();
    let moved = world.hub.push(Spec::new("acme/one").seed(8).tags(["1"]).single()).unwrap();
    world.hub.remove("library/two", "latest");
    // The breaker forgets the outage by and by; each request asks in the background until upstream answers.
    while named("acme/one", "1").1 != moved.digest() {
        std::thread::yield_now();
    }
    assert_eq!((mark("acme/one"), named("acme/one", "1").2), (Value::Null, false));
    while named("library/two", "latest").0 != 404 {
        std::thread::yield_now();
    }
    assert_eq!(site.pull(&two, 0)[1..], [200; 6], "what was imported is there by digest");

    // Upstream's word that is fresh stands against that of an archive.
    world.hub.push(Spec::new("library/two").seed(9)).unwrap();
    let fresh = Site::start(&[("WEIR_UPSTREAM__0__URL", &url)]);
    assert_eq!(ask(fresh.0.registry, "GET", "/v2/acme/one/manifests/1", "Accept: */*\r\n").0, 200);
    let text = fresh.import(&[path], None);
    let kept = format!("docker.io/acme/one:1: imported; upstream said lately that the tag names {}", moved.digest());
    assert!(text.contains(&kept), "{text}");
    assert_eq!(ask(fresh.0.registry, "GET", &format!("/v2/acme/one/manifests/{}", one.digest()), "").0, 200);
}
