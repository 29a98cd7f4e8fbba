//! *Images* and one image: what they show, and that every change has a reason, an operator and an entry in the audit.

use std::time::SystemTime;

use weir::limits::audit::{AdminEvent, Event};
use weir_conformance::hub::{Layer, Spec};
use weir_storage::Call;

use super::harness::{Browser, Harness};
use crate::mirror::support::{lookup, read};

const IMAGE: &str = "/image?repository=docker.io%2Flibrary%2Fimage-1&reference=latest";

/// The last change of the audit: by whom, what, why.
fn last_change(harness: &Harness) -> (String, String, String) {
    let entry = harness.limits.audit(1).remove(0);
    let (what, reason) = match entry.event {
        Event::Admin(AdminEvent::Pinned { pattern, reason }) => (format!("pinned {pattern}"), reason),
        Event::Admin(AdminEvent::Unpinned { pattern, reason }) => (format!("unpinned {pattern}"), reason),
        Event::Admin(AdminEvent::Refreshed { image, moved, reason }) => (format!("refreshed {image} {moved}"), reason),
        Event::Admin(AdminEvent::Purged { selection, reason, .. }) => (format!("purged {selection}"), reason),
        other => (format!("{other:?}"), String::new()),
    };
    (entry.by, what, reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_and_each_change_of_one_has_a_reason_and_is_in_the_audit() {
    let harness = Harness::start().await;
    harness.spend().await;
    let mut ops = Browser::logged_in(&harness, "ops");
    let page = ops.get("/images");
    for words in ["Registries", "docker.io", "library/image-0:latest", "href=\"/images?registry=docker.io\""] {
        assert!(page.status == 200 && page.body.contains(words), "{words}: {}", page.body);
    }
    let page = ops.get("/images?pattern=image-1&stale=");
    assert!(page.body.contains("image-1:latest") && !page.body.contains("image-2:latest"), "{}", page.body);
    let page = ops.get("/images?registry=docker.io");
    assert!(page.body.contains("Repositories of docker.io") && page.body.contains("docker.io/library/image-8"));
    let page = ops.get("/images?pattern=typed&not_pulled_within=soon");
    assert!(page.status == 400 && page.body.contains("Not_pulled_within is a duration"), "{}", page.body);
    assert!(page.body.contains("value=\"typed\"") && page.body.contains("value=\"soon\""), "what was typed is kept");
    for (span, value, is_found) in [("pulled_within", "90d", false), ("not_arrived_within", "0s", true)] {
        let page = ops.get(&format!("/images?{span}={value}"));
        let kept = format!("id=\"{span}\" name=\"{span}\" value=\"{value}\"");
        assert!(page.status == 200 && page.body.contains(&kept), "{span}: {}", page.body);
        assert_eq!(page.body.contains("image-1:latest"), is_found, "{span}: {}", page.body);
    }

    let page = ops.get(IMAGE);
    assert!(page.body.contains("<dt>Here since</dt><dd><time datetime="), "{}", page.body);
    let list = ops.get("/images?pattern=image-1");
    assert!(list.body.contains("data-label=\"Here since\"><div><time"), "{}", list.body);
    for words in ["docker.io/library/image-1:latest", "not complete", "linux/arm64", "had changed", "10.5.0.3"] {
        assert!(page.status == 200 && page.body.contains(words), "{words}: {}", page.body);
    }
    let token = page.token();
    let image = [("csrf", &*token), ("repository", "docker.io/library/image-1"), ("reference", "latest")];
    let with = |reason: &'static str| [&image[..], &[("reason", reason)]].concat();
    for path in ["/image/pin", "/image/refresh", "/image/purge"] {
        let answer = ops.post(path, &with(" "));
        assert!(answer.status == 400 && answer.body.contains("Say why."), "{path}: {}", answer.body);
        let answer = ops.post(path, &with("x")[1..]);
        assert_eq!((answer.status, harness.refusals()[0].2.as_str()), (403, "without the token of its form"), "{path}");
    }
    let name = "docker.io/library/image-1:latest";
    let changed = |what: String, reason: &str| {
        assert_eq!(last_change(&harness), ("ops".to_owned(), what, reason.to_owned()));
    };
    let answer = ops.post("/image/pin", &with("must start"));
    assert!(answer.status == 200 && answer.body.contains("Pinned by <b>ops</b>"), "{}", answer.body);
    changed(format!("pinned {name}"), "must start");
    let answer = ops.post("/image/unpin", &with("no more"));
    assert!(answer.status == 200 && !answer.body.contains("Pinned by"), "{}", answer.body);
    changed(format!("unpinned {name}"), "no more");
    let answer = ops.post("/image/unpin", &with("again"));
    assert!(answer.status == 404 && answer.body.contains("value=\"again\""), "the reason is kept: {}", answer.body);
    harness.bench.hub.push(Spec::new("library/image-1").seed(99)).unwrap();
    let answered = |confirmed: &'static str| [&with("a release")[..], &[("confirmed", confirmed)]].concat();
    let answer = ops.post("/image/refresh", &with("a release"));
    let is_asked = answer.body.contains("name=\"confirmed\" value=\"yes\"") && answer.body.contains("are counted");
    assert!(answer.status == 200 && is_asked, "{}", answer.body);
    let answer = ops.post("/image/refresh", &answered("no"));
    let kept = "id=\"refresh-reason\" name=\"reason\" required maxlength=\"500\" value=\"a release\"";
    assert!(answer.status == 200 && answer.body.contains(kept), "{}", answer.body);
    changed(format!("unpinned {name}"), "no more");
    let answer = ops.post("/image/refresh", &answered("yes"));
    assert!(answer.body.contains("The tag moved to sha256:"), "{}", answer.body);
    changed(format!("refreshed {name} true"), "a release");

    // Each letter has two bytes.
    let long = "ü".repeat(300);
    for (path, field) in
        [("/image/pin", "pin-reason"), ("/image/refresh", "refresh-reason"), ("/image/purge", "reason")]
    {
        let answer = ops.post(path, &[&image[..], &[("reason", &*long), ("confirmed", "yes")]].concat());
        assert!(answer.status == 400 && answer.body.contains("at most 500 bytes"), "{path}: {}", answer.body);
        let kept = format!("id=\"{field}\" name=\"reason\" required maxlength=\"500\" value=\"{long}\"");
        assert!(answer.body.contains(&kept), "{path} keeps its reason: {}", answer.body);
        assert_eq!(answer.body.matches(&long).count(), 1, "{path}: no other form has it");
    }

    let page = ops.get("/image/remove?repository=docker.io%2Flibrary%2Fimage-1&reference=latest");
    assert!(page.status == 200 && page.body.contains("would be freed: 1 manifest"), "{}", page.body);
    assert!(page.body.contains(&format!("<h1>Purge {name}?</h1>")), "{}", page.body);
    let answer = ops.post("/image/purge", &with("a leak"));
    assert!(answer.status == 200 && answer.body.contains("freed: 1 manifest"), "{}", answer.body);
    changed(format!("purged {name}"), "a leak");
    assert_eq!(ops.get(IMAGE).status, 404);

    let mut ann = Browser::logged_in(&harness, "ann");
    for path in ["/images", IMAGE, "/image/remove?repository=library/image-2&reference=latest"] {
        assert_eq!(ann.get(path).status, 403, "{path} is for operators");
    }
    let token = ann.get("/unblock").token();
    let answer = ann.post(
        "/image/purge",
        &[("csrf", &token), ("repository", "library/image-2"), ("reference", "latest"), ("reason", "x")],
    );
    assert_eq!((answer.status, harness.refusals()[0].1.as_str()), (403, "purge an image"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_and_no_search_looks_at_the_disk_and_one_image_lists_no_directory() {
    let harness = Harness::start().await;
    harness.spend().await;
    let mut ops = Browser::logged_in(&harness, "ops");
    ops.until("/images", "library/image-8:latest");
    let looks = |asked: &[&str], is_look: fn(Call) -> bool, ops: &mut Browser| {
        harness.bench.faults.record();
        for path in asked {
            let answer = ops.get(path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        }
        let calls = harness.bench.faults.recorded();
        harness.bench.faults.heal();
        calls.into_iter().filter(|(call, _)| is_look(*call)).collect::<Vec<_>>()
    };
    let lists = [
        "/images",
        "/images?pattern=image-1",
        "/images?registry=docker.io&platform=linux/arm64&complete=false",
        "/images?sort=size",
        "/images?sort=idle&not_pulled_within=0s&not_arrived_within=0s&stale=false",
        "/api/v1/cache?n=3&last=docker.io/library/image-1:latest",
        "/api/v1/cache?pattern=*image-2*",
        "/api/v1/cache/registries",
        "/api/v1/cache/repositories?pattern=image",
        "/api/v1/cache/pins",
        "/api/v1/cache/image?repository=image-1&reference=latest",
    ];
    let is_look = |call| matches!(call, Call::Open | Call::Read | Call::List | Call::Stat);
    let looked = looks(&lists, is_look, &mut ops);
    assert!(looked.is_empty(), "{looked:?}");
    let listed = looks(&[IMAGE], |call| call == Call::List, &mut ops);
    assert!(listed.is_empty(), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_stands_in_one_element_with_its_field() {
    let harness = Harness::start().await;
    harness.spend().await;
    let ban = harness.block("10.1.0.7", "shop/api");
    let mut ops = Browser::logged_in(&harness, "ops");
    let ban = format!("/blocked/{ban}");
    let off = "/throttles/off?name=throttle_unauthenticated_pulls";
    for path in
        ["/images", IMAGE, "/blocked", &ban, "/budget", "/clients", "/policy", "/audit", off, "/log", "/settings"]
    {
        let page = ops.get(path).body;
        let forms: Vec<&str> = page.split("<form class=\"line\"").skip(1).collect();
        let forms = forms.iter().map(|form| form.split("</form>").next().unwrap());
        let mut labels = 0;
        for form in forms {
            for (at, _) in form.match_indices("<label for=") {
                let (before, after) = form.split_at(at);
                let field = after.split("</span>").next().unwrap();
                let is_pair = before.ends_with("<span class=\"field\">")
                    && (field.contains("<input ") || field.contains("<select "));
                assert!(is_pair, "{path}: {form}");
                labels += 1;
            }
        }
        assert!(labels > 0, "{path}: {page}");
    }
}

/// The cells of the row of a table that names this digest.
fn row<'a>(page: &'a str, table: &str, digest: &str) -> &'a str {
    let table = page.split_once(&format!("aria-label=\"{table}\"")).unwrap_or_else(|| panic!("{table}: {page}")).1;
    let table = table.split("</table>").next().unwrap();
    let mut rows = table.split("<tr role=\"row\">").skip(1);
    rows.find(|row| row.contains(digest)).unwrap_or_else(|| panic!("{digest}: {table}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_lists_its_layers_with_what_is_here_and_what_shares_them() {
    let harness = Harness::start().await;
    let (hub, mirror) = (&harness.bench.hub, &harness.bench.mirror);
    let shared = Layer::Shared { seed: 9, size: 5000 };
    let one = hub.push(Spec::new("library/one").seed(1).layer(shared.clone())).unwrap();
    let two = hub.push(Spec::new("library/two").seed(2).layer(shared)).unwrap();
    for (image, repository) in [(&one, "library/one"), (&two, "library/two")] {
        for reference in ["latest", &image.platforms[0].manifest.digest] {
            mirror.manifests.get(&lookup(repository, &[]), &reference.parse().unwrap()).await.unwrap();
        }
    }
    let [first, second, .., common] = &one.platforms[0].layers[..] else { panic!("{one:?}") };
    let blob = mirror.blobs.get(&lookup("library/one", &[]), &first.digest.parse().unwrap(), None).await;
    let mut reader = blob.unwrap().reader;
    read(&mut reader, 0, first.size).await.unwrap();

    let path = "/image?repository=docker.io%2Flibrary%2Fone&reference=latest";
    let mut operator = Browser::new(&harness);
    let page = operator.until(path, ">here<").body;
    for (layer, words) in [
        (first, [">here<", ">this image alone<"]),
        (second, [">missing<", ">this image alone<"]),
        (common, [">missing<", ">other images too<"]),
    ] {
        let row = row(&page, "Layers", &layer.digest);
        assert!(words.iter().all(|words| row.contains(words)), "{words:?}: {row}");
    }
    let absent = &one.platforms[1];
    assert!(row(&page, "Platforms", &absent.manifest.digest).contains("linux/arm64"));
    assert!(!page.contains(&absent.layers[0].digest), "what only a manifest names that is not here is not known");
    assert!(row(&page, "What was spent on it", "library/one").contains("was not here"), "{page}");

    // No client pulled it over HTTP.
    assert!(page.contains("no pull of it is remembered") && !page.contains("Pulled by"), "{page}");
    mirror.note_pull(&lookup("library/one", &[]), &"latest".parse().unwrap(), SystemTime::now());
    let page = operator.until(path, "1 pull, the last at").body;
    assert!(page.contains("<dt>Pulled by</dt><dd>127.0.0.1"), "{page}");
}
