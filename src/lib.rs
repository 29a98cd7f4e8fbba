//! Weir: a pull-through mirror for OCI registries that never wastes an upstream pull.
//!
//! This page is the map. It says where things are, what always holds and which test holds it, and tells one cold pull and
//! one warm HEAD from end to end. Settings, each with its default and its reason, are in `deploy.toml`.
//!
//! # Layout
//!
//! | where | what |
//! |---|---|
//! | `main.rs` | settings → values → servers, until a signal; wiring only |
//! | [`config`] | `deploy.toml` and the environment become each room's own `Settings` |
//! | [`cli`] | one file per command |
//! | [`http`] | what a registry client sees; with [`admin`] the only user of actix |
//! | [`admin`] | the second listener: health, metrics, JSON API, and pages for people, among them the one where they lift their own bans |
//! | [`route`] | a name, with or without a registry, to its one upstream or to none |
//! | [`client`] | who asks: client key, principal, class |
//! | [`limits`] | pure accounting: who a client is, what it may ask and spend, who is banned; time is an argument. [`limits::Limits`] is shared by all rooms |
//! | [`mirror`] | the decisions: from disk, or from upstream by way of disk |
//! | [`hosted`] | namespaces that live here: who may push what, uploads, mounts, deletes, referrers |
//! | [`upstream`] | a client of registries, and the ledger of what they count; the only user of reqwest |
//! | [`telemetry`] | logs and the metric registry |
//! | [`identity`] | the one place where a credential is verified, for registry clients, the admin API and the pages |
//! | [`random`] | random numbers for the whole program |
//! | [`oci`] | the vocabulary: names, references, digests, manifests, paging |
//! | `storage/` | crate `weir-storage`: blobs, manifests, tags, journals on one disk; knows no network |
//! | `conformance/` | crate `weir-conformance`: a Docker Hub on loopback, and the suites that any mirror and any registry can be held to |
//!
//! Dependencies run one way: `main → {http, admin, cli} → {mirror, hosted, limits} → {upstream, storage}`. `http` never names
//! `upstream` or `storage`, and those two never name each other; `tests/architecture.rs` keeps it so.
//!
//! # What always holds
//!
//! Each names the tests that fail when it is broken; `tests/architecture.rs` holds that they exist. Names that begin with
//! `suite::` are checks of the mirror suite, `weir-conformance mirror --self`.
//!
//! 1. A client never receives a complete body that does not match its digest. The last 64 KiB of an arriving blob wait
//!    for its verification. (`arriving::the_last_bytes_wait_for_the_digest`, `suite::broken::corrupt_last`)
//! 2. A file under `blobs/` is whole and verified; what is not is under `partial/`.
//!    (`arriving::a_corrupt_blob_fails_its_readers_and_leaves_nothing`,
//!    `crash::what_was_stored_survives_a_kill_and_what_was_not_is_resumed`)
//! 3. N concurrent requests for one cold object cost one upstream request. Success is shared by digest; a failure is
//!    shared only by those who asked the same thing of the same repository with the same credential; a refusal is nobody's
//!    but the refused one's. (`flight::tests::many_who_ask_share_one_piece_of_work_and_its_failure`,
//!    `mirror::a_source_that_is_refused_does_not_fail_another_that_waits_for_the_same_blob`)
//! 4. A client that is slow or leaves changes nothing for anyone else, nor for the cache.
//!    (`flight::tests::work_goes_on_when_all_who_asked_have_left`,
//!    `server::tests::a_client_that_never_reads_is_closed`, `server::tests::a_client_that_never_reads_delays_nobody`)
//! 5. Failure is never mistaken for absence, in either direction. (`arriving::a_failure_is_not_an_absence`,
//!    `mirror::a_tag_that_upstream_deleted_is_not_brought_back_by_an_outage`)
//! 6. Bytes are never rewritten: what upstream signed is what the client gets. (`small::a_manifest_keeps_its_bytes`,
//!    `http::tests::a_manifest_is_the_same_by_get_and_head_by_tag_and_digest_and_under_every_name`)
//! 7. A blob never expires; tags do. Space, not age, removes blobs, and never one that is being served.
//!    (`room::what_is_in_use_is_never_evicted`, `suite::tags::moved_back`)
//! 8. Losing the index loses nothing: blobs, manifests, tags, membership and journals are files and the truth; sled is an
//!    index that is rebuilt from them while answers come from computed paths. (`damage::losing_the_index_loses_nothing`)
//! 9. Nothing about a fresh cached pull touches the network. (`suite::warm::asks_nobody`)
//! 10. Every counted upstream request has a ledger entry: who, what, why, and what was left.
//!     (`ledger::tests::a_reservation_is_on_disk_before_it_is_given`, `suite::ledger::equals`)
//! 11. A credential goes to the origin it was configured for and to that origin's vetted token host, nowhere else.
//!     (`auth::a_foreign_realm_is_told_nothing_and_a_good_one_beside_it_is_used`,
//!     `transfers::a_redirect_is_followed_without_the_credential_and_with_the_range`)
//! 12. Every queue, body, cache and wait has a bound that is written in `deploy.toml`.
//!     (`config::tests::deploy_toml_names_every_key_there_is`)
//!
//! # One cold pull
//!
//! A thousand nodes are told to run `busybox:1.36`, and none of it is here. Each asks `HEAD /v2/library/busybox/manifests/1.36`.
//! `http::api::path` reads the path from the right and [`route`] finds the one upstream; `http::admit` says who is asking
//! and whether it may (ban, then throttle), and its permit travels in the response body until the last byte is sent. [`mirror`] finds no tag on disk and joins the
//! *flight* for this tag: the first one in leads it, on the background runtime, where it outlives whoever asked. The leader
//! looks at the disk again (another flight may just have landed) and sends one HEAD upstream, which Docker Hub does not
//! count. Its breaker, its pace, and a bearer token that is fetched once for all stand before that. The answer
//! names a digest, goes into a small file, and all thousand have their HEAD.
//!
//! Each then asks for the manifest by that digest. One flight again; its leader now needs something that is counted, so it
//! *reserves* a pull in the ledger, if the floors and shares of `limits::budget` leave it one, which is on disk before the request leaves, and commits it when the headers are in: who
//! asked, for what, why, how many shared it, and what upstream says is left. The bytes are checked against their digest,
//! stored, and given to all, and this repository has now *vouched* for it. To be named by a manifest is not to be vouched for:
//! each blob is served under a name only after upstream answered 200 for it under that name.
//!
//! The layers come next. The fill of a blob is keyed by its digest alone. The writer reserves its size on disk, after
//! eviction if need be, and for every piece that arrives appends, hashes, and publishes how much may be read; leader and
//! followers read the same open file, each at its own pace, from byte 0, with `sendfile`. When upstream breaks off, the fill
//! asks again with `Range` and nobody notices. The last 64 KiB are published when the whole has the digest it should;
//! otherwise every connection is cut and nothing is kept. Then `fdatasync`, and a rename into `blobs/`. A thousand nodes have
//! cost two manifest GETs, one GET per blob, and one token.
//!
//! # One push
//!
//! A name under `hosted.namespaces` lives here, and [`route`] says so by another variant than for a mirrored one, which is why nothing
//! can be written there. `POST …/blobs/uploads/` makes a session, a file that outlives the process, bound to the repository and to
//! who began it. Its bytes are hashed and written while they arrive; the closing PUT names the digest, and only when the bytes match,
//! are synced and renamed into `blobs/`, the repository's note that it holds them is written, and the directories of both are
//! synced, does 201 go out (`suite push`, which kills the process and cuts the power in the midst of it). What a
//! repository holds is pinned: eviction leaves it alone. A manifest comes after its blobs in the same way, then what it
//! refers to, then its tags.
//!
//! # One warm HEAD
//!
//! The thousand and first asks `HEAD /v2/library/busybox/manifests/1.36`. Path, route and admission are as before. The tag is in
//! memory with the time it was last confirmed, and `mirror::freshness`, which is a function from values to a verdict, says
//! *fresh*: media type, size and digest go out as headers, without an await and without a packet to anybody else.
//!
//! Five minutes later it would say *expired*: one flight asks upstream by HEAD, and finds the same digest, so that the answer
//! is the cached one and has cost nothing. If upstream says 429, or nothing within `revalidate_timeout`, the cached one it is as
//! well, with `Warning: 299` and its `Age`. Only what is neither here nor to be had is an error, and `http::api::error` is the
//! one table from what went wrong to the status, the code and the sentence that the client will print.

pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod hosted;
pub mod http;
pub mod identity;
pub mod limits;
pub mod mirror;
pub mod oci;
pub mod random;
pub mod route;
pub mod setting;
pub mod telemetry;
pub mod upstream;
