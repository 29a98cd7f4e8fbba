//! Limits, accounts, private repositories, negotiation, ranges and listings.

use std::time::Duration;

use super::super::{Account, Artifact, Authorization, Challenge, Kind, Layer, Limit, Media, Settings, Spec};
use super::client::{ask_with, blob, exchange, follow, hub, send, token};

const NAME: &str = "library/hello";
const LATEST: &str = "manifests/latest";
/// `alice:secret`
const ALICE: &str = "Basic YWxpY2U6c2VjcmV0";

fn with_alice() -> Settings {
    Settings { accounts: vec![Account::new("alice", "secret")], ..Settings::default() }
}

#[tokio::test]
async fn pulls_are_counted_and_heads_are_not() {
    let hub = hub(Settings { limit: Some(Limit::hub(2)), ..Settings::default() }).await;
    let image = hub.push(Spec::new(NAME)).unwrap();
    for _ in 0..5 {
        assert_eq!(exchange(&hub, "HEAD", NAME, LATEST).await.header("ratelimit-remaining"), "2;w=21600");
    }
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.header("ratelimit-remaining"), "1;w=21600");
    // An unchanged manifest is a pull all the same, and so is one by digest.
    let etag = format!("\"{}\"", image.digest());
    let unchanged = ask_with(&hub, "GET", NAME, LATEST, &[("If-None-Match", &etag)]).await;
    assert_eq!((unchanged.status, unchanged.header("ratelimit-remaining")), (304, "0;w=21600"));
    let refused = exchange(&hub, "GET", NAME, LATEST).await;
    assert_eq!(
        (refused.status, refused.header("content-type"), refused.header("retry-after")),
        (429, "application/json", "")
    );
    assert_eq!(refused.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    assert!(
        refused.json()["errors"][0]["message"].as_str().unwrap().starts_with("You have reached your unauthenticated")
    );
    let head = exchange(&hub, "HEAD", NAME, LATEST).await;
    assert_eq!((head.status, head.header("ratelimit-remaining")), (200, "0;w=21600"));
    assert_eq!(hub.count(|logged| logged.counted), 2);
    hub.set_budget(1);
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 200);
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 429);
    hub.set_budget(-3);
    assert_eq!(exchange(&hub, "HEAD", NAME, LATEST).await.header("ratelimit-remaining"), "-3;w=21600");
}

#[tokio::test]
async fn pulls_come_back_after_the_window() {
    let limit = Limit { pulls: 1, window: Duration::from_millis(50) };
    let hub = hub(Settings { limit: Some(limit), ..Settings::default() }).await;
    hub.push(Spec::new(NAME)).unwrap();
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 200);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 200);
}

#[tokio::test]
async fn accounts_have_budgets_of_their_own_and_exempt_images_cost_nothing() {
    let hub = hub(Settings { limit: Some(Limit::hub(1)), ..with_alice() }).await;
    hub.push(Spec::new(NAME)).unwrap();
    hub.push(Spec::new("verified/tool").exempt()).unwrap();
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 200);
    let bearer = format!("Bearer {}", token(&hub, NAME, Some(ALICE)).await);
    let path = format!("/v2/{NAME}/{LATEST}");
    let reply = send(hub.registry_address(), "GET", &path, &[("Authorization", &bearer)]).await;
    assert_eq!((reply.status, reply.header("ratelimit-remaining")), (200, "199;w=21600"));
    assert_eq!(reply.header("docker-ratelimit-source").len(), 36, "a UUID");
    for _ in 0..3 {
        let exempt = exchange(&hub, "GET", "verified/tool", LATEST).await;
        assert_eq!((exempt.status, exempt.header("ratelimit-limit")), (200, ""));
    }
    hub.set_account_budget("alice", 0);
    assert_eq!(send(hub.registry_address(), "GET", &path, &[("Authorization", &bearer)]).await.status, 429);
    hub.adjust(|settings| settings.accounts[0].limit = None);
    let paying = send(hub.registry_address(), "GET", &path, &[("Authorization", &bearer)]).await;
    assert_eq!((paying.status, paying.header("ratelimit-limit")), (200, ""));
    assert_eq!(paying.header("docker-ratelimit-source").len(), 36);
}

#[tokio::test]
async fn tokens_are_scoped_expire_and_can_be_revoked() {
    let hub = hub(Settings::default()).await;
    hub.push(Spec::new(NAME)).unwrap();
    hub.push(Spec::new("other/name")).unwrap();
    let asks = async |bearer: &str, name: &str| {
        let path = format!("/v2/{name}/{LATEST}");
        let reply = send(hub.registry_address(), "GET", &path, &[("Authorization", bearer)]).await;
        (reply.status, reply.header("www-authenticate").to_owned())
    };
    let bearer = format!("Bearer {}", token(&hub, NAME, None).await);
    assert_eq!(asks(&bearer, NAME).await.0, 200);
    let (status, challenge) = asks(&bearer, "other/name").await;
    assert_eq!(status, 401);
    assert!(challenge.ends_with("scope=\"repository:other/name:pull\",error=\"insufficient_scope\""), "{challenge}");
    hub.revoke_tokens();
    let (status, challenge) = asks(&bearer, NAME).await;
    assert!(status == 401 && challenge.ends_with("error=\"invalid_token\""), "{challenge}");
    hub.adjust(|settings| settings.token_life = Duration::ZERO);
    let short = format!("Bearer {}", token(&hub, NAME, None).await);
    assert_eq!(asks(&short, NAME).await.0, 401);
    // For another service than the registry's a token is given, and is good for nothing.
    let target = format!("/token?service=registry-1.docker.io&scope=repository:{NAME}:pull");
    let wrong = send(hub.registry_address(), "GET", &target, &[]).await.json();
    assert_eq!(wrong["expires_in"], 0);
    assert_eq!(wrong["token"], wrong["access_token"]);
    assert_eq!(asks(&format!("Bearer {}", wrong["token"].as_str().unwrap()), NAME).await.0, 401);
}

#[tokio::test]
async fn private_and_missing_repositories_look_alike() {
    let hub = hub(with_alice()).await;
    let image = hub.push(Spec::new("alice/secret").private()).unwrap();
    for rest in [LATEST, "tags/list", &format!("blobs/{}", image.platforms[0].config.digest)] {
        let private = exchange(&hub, "GET", "alice/secret", rest).await;
        let missing = exchange(&hub, "GET", "alice/hidden", rest).await;
        assert_eq!((private.status, missing.status), (401, 401));
        assert_eq!(private.body, missing.body);
        let hidden = private.header("www-authenticate").replace("alice/secret", "alice/hidden");
        assert_eq!(missing.header("www-authenticate"), hidden);
    }
    let bearer = format!("Bearer {}", token(&hub, "alice/secret", Some(ALICE)).await);
    let path = format!("/v2/alice/secret/{LATEST}");
    assert_eq!(send(hub.registry_address(), "GET", &path, &[("Authorization", &bearer)]).await.status, 200);
    let wrong = send(hub.registry_address(), "GET", "/token?service=a", &[("Authorization", "Basic YTpi")]).await;
    assert_eq!(wrong.status, 401);
    assert_eq!(hub.log().last().unwrap().authorization, Authorization::Basic("a".to_owned()));
}

#[tokio::test]
async fn basic_and_open_registries_do_without_tokens() {
    let hub = hub(Settings { challenge: Challenge::Basic, ..with_alice() }).await;
    hub.push(Spec::new(NAME)).unwrap();
    let path = format!("/v2/{NAME}/{LATEST}");
    let get = async |headers: &[(&str, &str)]| send(hub.registry_address(), "GET", &path, headers).await;
    let refused = get(&[]).await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Basic realm=\"hub\""));
    assert_eq!(get(&[("Authorization", ALICE)]).await.status, 200);
    hub.adjust(|settings| settings.challenge = Challenge::Nobody);
    assert_eq!(get(&[]).await.status, 200);
    assert_eq!(send(hub.registry_address(), "GET", "/v2/", &[]).await.status, 200);
    assert_eq!(send(hub.registry_address(), "GET", "/v2/no/such/manifests/a", &[]).await.status, 404);
}

#[tokio::test]
async fn who_takes_no_index_gets_the_amd64_manifest() {
    let hub = hub(Settings::default()).await;
    for media in [Media::Oci, Media::Docker] {
        let image = hub.push(Spec::new(NAME).media(media).seed(media as u64)).unwrap();
        for accept in ["*/*", media.manifest()] {
            for method in ["GET", "HEAD"] {
                let reply = ask_with(&hub, method, NAME, LATEST, &[("Accept", accept)]).await;
                assert_eq!(reply.header("content-type"), media.manifest());
                assert_eq!(reply.header("docker-content-digest"), image.platforms[0].manifest.digest);
            }
        }
        let index = exchange(&hub, "GET", NAME, LATEST).await;
        assert_eq!((index.header("content-type"), index.digest().as_str()), (media.index(), image.digest()));
        let by_digest =
            ask_with(&hub, "GET", NAME, &format!("manifests/{}", image.digest()), &[("Accept", "*/*")]).await;
        assert_eq!(by_digest.digest(), image.digest());
    }
    let single = hub.push(Spec::new("a/b").single()).unwrap();
    assert_eq!(exchange(&hub, "GET", "a/b", LATEST).await.digest(), single.platforms[0].manifest.digest);
}

#[tokio::test]
async fn the_cdn_wants_a_signature_and_no_credential() {
    let hub = hub(Settings::default()).await;
    let image = hub.push(Spec::new(NAME)).unwrap();
    let config = &image.platforms[0].config.digest;
    let redirect = exchange(&hub, "GET", NAME, &format!("blobs/{config}")).await;
    assert_eq!(follow(&redirect, &[]).await.digest(), *config);
    assert_eq!(follow(&redirect, &[("Authorization", "Bearer x")]).await.status, 400);
    let target = url::Url::parse(redirect.header("location")).unwrap();
    let cdn = hub.cdn().socket_addrs(|| None).unwrap()[0];
    assert_eq!(send(cdn, "GET", target.path(), &[]).await.status, 403);
    hub.adjust(|settings| settings.cdn_life = Duration::ZERO);
    let expired = exchange(&hub, "GET", NAME, &format!("blobs/{config}")).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(follow(&expired, &[]).await.status, 403);
    hub.adjust(|settings| settings.redirect_blobs = false);
    let direct = exchange(&hub, "GET", NAME, &format!("blobs/{config}")).await;
    assert_eq!(
        (direct.status, direct.header("docker-content-digest"), direct.digest()),
        (200, config.as_str(), config.clone())
    );
    assert_eq!(exchange(&hub, "GET", NAME, &format!("blobs/sha256:{}", "0".repeat(64))).await.status, 404);
}

#[tokio::test]
async fn ranges_of_a_blob_are_parts_of_it() {
    let hub = hub(Settings::default()).await;
    let image = hub.push(Spec::new(NAME)).unwrap();
    let layer = &image.platforms[0].layers[0];
    let whole = blob(&hub, NAME, &layer.digest, &[]).await.body;
    let size = whole.len();
    for (range, start, end) in [("bytes=0-0", 0, 1), ("bytes=100-", 100, size), ("bytes=-7", size - 7, size)] {
        let part = blob(&hub, NAME, &layer.digest, &[("Range", range)]).await;
        assert_eq!((part.status, part.body.as_slice()), (206, &whole[start..end]));
        assert_eq!(part.header("content-range"), format!("bytes {start}-{}/{size}", end - 1));
    }
    let outside = blob(&hub, NAME, &layer.digest, &[("Range", &format!("bytes={size}-"))]).await;
    assert_eq!((outside.status, outside.header("content-range")), (416, format!("bytes */{size}").as_str()));
    let changed = blob(&hub, NAME, &layer.digest, &[("Range", "bytes=5-"), ("If-Range", "\"other\"")]).await;
    assert_eq!((changed.status, changed.body.len()), (200, size));
    assert_eq!(hub.log().last().unwrap().range.as_deref(), Some("bytes=5-"));
}

#[tokio::test]
async fn tags_come_in_pages_or_all_at_once() {
    let hub = hub(Settings { page: Some(3), ..Settings::default() }).await;
    hub.push(Spec::new(NAME).tags(["a", "b", "c", "d", "e"])).unwrap();
    let mut path = "tags/list".to_owned();
    let mut tags = Vec::new();
    for pages in 1.. {
        let page = exchange(&hub, "GET", NAME, &path).await;
        tags.extend(page.json()["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
        let Some(next) = page.header("link").strip_suffix(">; rel=\"next\"") else {
            assert_eq!(pages, 2);
            break;
        };
        path = next.strip_prefix(&format!("</v2/{NAME}/")).unwrap().to_owned();
    }
    assert_eq!(tags, ["a", "b", "c", "d", "e"]);
    assert_eq!(exchange(&hub, "GET", NAME, "tags/list?n=0").await.json()["tags"].as_array().unwrap().len(), 0);
    assert_eq!(exchange(&hub, "GET", NAME, "tags/list?n=-1").await.status, 400);
    hub.adjust(|settings| settings.page = None);
    assert_eq!(exchange(&hub, "GET", NAME, "tags/list?n=2").await.json()["tags"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn referrers_are_listed_or_found_by_the_fallback_tag() {
    let hub = hub(Settings::default()).await;
    let image = hub.push(Spec::new(NAME)).unwrap();
    let artifact = |artifact_type: &str| Artifact {
        repository: NAME.to_owned(),
        subject: image.digest().to_owned(),
        artifact_type: artifact_type.to_owned(),
        annotations: vec![("a".to_owned(), "b".to_owned())],
        content: "content".into(),
    };
    let sbom = hub.push_referrer(artifact("application/x-sbom"));
    hub.push_referrer(artifact("application/x-signature"));
    let path = format!("referrers/{}", image.digest());
    let all = exchange(&hub, "GET", NAME, &path).await;
    assert_eq!((all.status, all.header("content-type")), (200, Media::Oci.index()));
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    let some = exchange(&hub, "GET", NAME, &format!("{path}?artifactType=application/x-sbom")).await;
    assert_eq!(
        (some.header("oci-filters-applied"), some.json()["manifests"][0]["digest"].as_str()),
        ("artifactType", Some(sbom.digest.as_str()))
    );
    let fallback = format!("manifests/{}", image.digest().replace(':', "-"));
    assert_eq!(exchange(&hub, "GET", NAME, &fallback).await.status, 404);
    hub.adjust(|settings| settings.referrers = false);
    assert_eq!(exchange(&hub, "GET", NAME, &path).await.status, 404);
    assert_eq!(exchange(&hub, "GET", NAME, &fallback).await.body, all.body);
}

#[tokio::test]
async fn tags_move_and_things_vanish() {
    let hub = hub(Settings::default()).await;
    let first = hub.push(Spec::new(NAME).tags(["v1", "latest"])).unwrap();
    let second = hub.push(Spec::new(NAME).tags(["v2"]).seed(2)).unwrap();
    assert_ne!(first.digest(), second.digest());
    hub.retag(NAME, "latest", second.digest());
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.digest(), second.digest());
    hub.remove(NAME, "latest");
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 404);
    hub.remove(NAME, second.digest());
    assert_eq!(exchange(&hub, "GET", NAME, "manifests/v2").await.status, 404);
    hub.remove_repository(NAME);
    assert_eq!(exchange(&hub, "GET", NAME, "manifests/v1").await.status, 401);
}

#[tokio::test]
async fn shared_layers_are_shared_and_others_are_not() {
    let hub = hub(Settings::default()).await;
    let shared = Layer::Shared { seed: 9, size: 1000 };
    let one = hub.push(Spec::new("a/one").layers([500]).layer(shared.clone())).unwrap();
    let two = hub.push(Spec::new("a/two").layers([500]).seed(2).layer(shared)).unwrap();
    assert_eq!(one.platforms[0].layers[1], two.platforms[1].layers[1]);
    assert_eq!(one.blobs().len(), 5, "two configs, two layers, one shared");
    let again = hub.push(Spec::new("a/one").layers([500]).layer(Layer::Shared { seed: 9, size: 1000 })).unwrap();
    assert_eq!(again.digest(), one.digest(), "equal specs make equal bytes");
    // A blob is in the repositories that were pushed with it, and nowhere else.
    let own = &two.platforms[0].layers[0].digest;
    assert_eq!(exchange(&hub, "GET", "a/one", &format!("blobs/{own}")).await.status, 404);
    assert_eq!(hub.count(|logged| logged.kind == Kind::BlobGet && logged.status == 404), 1);
}

#[tokio::test]
async fn what_is_not_understood_is_refused() {
    let hub = hub(Settings { challenge: Challenge::Nobody, ..Settings::default() }).await;
    hub.push(Spec::new(NAME)).unwrap();
    let status = async |method: &str, path: &str| send(hub.registry_address(), method, path, &[]).await.status;
    assert_eq!(status("POST", "/v2/a/blobs/uploads/").await, 405);
    assert_eq!(status("DELETE", "/v2/a/manifests/latest").await, 405);
    assert_eq!(status("GET", "/v2/_catalog").await, 404);
    assert_eq!(status("GET", "/").await, 404);
    assert_eq!(status("GET", &format!("/v2/{NAME}/manifests/none")).await, 404);
    assert_eq!(status("GET", &format!("/v2/{NAME}/blobs/nonsense")).await, 404);
}
