//! *Budget*: which spends its filters find, and which upstreams fail.

use std::time::Instant;

use weir_conformance::hub::{Fault, Spec, What};

use super::harness::{Browser, Harness};
use crate::{deploy::PATIENCE, mirror::support::lookup};

#[tokio::test(flavor = "multi_thread")]
async fn spends_are_found_by_client_image_and_class_and_no_others() {
    let harness = Harness::start().await;
    harness.spend().await;
    let mut operator = Browser::new(&harness);
    // Above the list of spends the page names all clients.
    let mut list =
        |query: &str| operator.get(&format!("/budget?{query}")).body.split_once("id=\"spends\"").unwrap().1.to_owned();
    let clients =
        |list: &str| (0..4).filter(|number| list.contains(&format!("client=10.5.0.{number}\""))).collect::<Vec<_>>();
    assert_eq!(clients(&list("")), [0, 1, 2, 3]);
    let one = list("client=10.5.0.2");
    assert_eq!(clients(&one), [2]);
    assert!(one.contains("value=\"10.5.0.2\"") && one.contains(" spends of the last "), "{one}");
    assert!(list("client=10.6.").contains("No spend fits."));
    let image = list("image=library/image-3");
    assert!(image.contains("library/image-3") && !image.contains("library/image-4"), "{image}");
    assert!(list("class=bulk").contains("No spend fits."));
    let late = list("within=0s");
    assert!(late.contains("No spend fits.") && late.contains("value=\"0s\""), "{late}");
    assert_eq!(clients(&list("within=1h")), [0, 1, 2, 3]);
    let wrong = list("within=soon&client=10.5.0.2");
    assert!(wrong.contains("Write a duration") && wrong.contains("value=\"soon\""), "{wrong}");
    assert_eq!(clients(&wrong), [2], "the rest of the filter goes on");
    assert_eq!(clients(&list("class=standard&client=10.5.0.1")), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_named_until_it_has_answered_again() {
    let harness = Harness::start().await;
    let (hub, mirror) = (&harness.bench.hub, &harness.bench.mirror);
    let mut operator = Browser::new(&harness);
    let pull = async |name: &str| {
        hub.push(Spec::new(name)).unwrap();
        mirror.manifests.get(&lookup(name, &[]), &"latest".parse().unwrap()).await
    };
    let mut pages = || (operator.get("/budget").body, operator.get("/").body);
    hub.fault(Fault::always(What::Abuse(Some(5))));
    pull("library/limited").await.unwrap_err();
    let (budget, overview) = pages();
    assert!(budget.contains("The next request to it is sent at") && budget.contains(", in "), "{budget}");
    assert!(overview.contains("asked again in "), "{overview}");

    // The time that upstream asked for is over, and no request has shown yet whether it answers.
    hub.clear_faults();
    let begun = Instant::now();
    loop {
        let is_over = mirror.breakers()[0].1.is_none();
        let (budget, overview) = pages();
        assert!(
            budget.contains("<b>docker.io</b> fails (") && overview.contains(">fails</span>"),
            "{budget}{overview}"
        );
        if is_over {
            assert!(budget.contains("The next request to it shows whether it still does."), "{budget}");
            assert!(overview.contains("asked again with the next request"), "{overview}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{budget}");
    }
    pull("library/answered").await.unwrap();
    let (budget, overview) = pages();
    assert!(!budget.contains(" fails (") && !overview.contains(">fails</span>"), "{budget}{overview}");
}
