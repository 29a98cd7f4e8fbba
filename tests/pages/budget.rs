//! *Budget*: what is left and who spent it, which spends its filters find, and which upstreams fail.

use std::{path::Path, time::Instant};

use sha2::{Digest as _, Sha256};
use weir_conformance::hub::{Fault, Spec, What};

use super::harness::{Browser, Harness};
use crate::{deploy::PATIENCE, mirror::support::lookup};

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_page_tells_what_is_left_who_spent_it_and_when_it_comes_back() {
    let harness = Harness::start().await;
    harness.spend().await;
    let page = Browser::new(&harness).get("/budget").body;
    for words in [
        "docker.io as anonymous",
        "75</b> of 100 pulls left",
        "25 spent by this mirror",
        "bulk stops at 40 left",
        "10.5.0.3",
        // Of several identities each table has a name of its own.
        "aria-label=\"Who spent it, docker.io as anonymous\"",
        "aria-label=\"What comes back, docker.io as anonymous\"",
        "docker.io/library/image-8:latest",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let returns = page.split_once("aria-label=\"What comes back, docker.io as anonymous\"").unwrap().1;
    let returns = returns.split_once("</table>").unwrap().0;
    assert_eq!(returns.matches("<td").count(), 2, "one span in which pulls come back, and its pulls: {returns}");
    assert!(returns.contains("<div>25</div>"), "{returns}");
    let mut operator = Browser::new(&harness);
    let found = operator.get("/budget?client=10.5.0.3&image=image-7:").body;
    let rows = found.split_once("aria-label=\"Newest spends\"").unwrap().1;
    assert!(
        rows.contains("image-7:latest") && !rows.contains("image-8:latest") && !rows.contains("10.5.0.2"),
        "{rows}"
    );
    assert!(operator.get("/budget?class=bulk").body.contains("No spend fits."));
    assert!(operator.get("/budget?first=20").body.contains("25 spends of the last 25."));

    // What if upstream gave 20 pulls, to 25 that were made; and if nothing had had to be fetched twice.
    let page =
        operator.get("/budget?what_if=1&limit=20&bulk=0.4&standard=0&critical=0&client_standard=1&client_bulk=1");
    assert!(page.body.contains("20 of 25 would have been granted"), "{}", page.body);
    assert!(page.body.contains("5 for want of any pull") && page.body.contains("value=\"20\""), "{}", page.body);
    assert!(page.body.contains("5 pulls that had been granted would have been refused."), "{}", page.body);
    // What the budget refused is decided once more, too.
    harness.bench.hub.set_budget(0);
    harness.bench.hub.push(Spec::new("library/refused").single()).unwrap();
    let refused = lookup("library/refused", &[]);
    harness.bench.mirror.manifests.get(&refused, &"latest".parse().unwrap()).await.unwrap_err();
    let page = operator.get("/budget?what_if=1&limit=200").body;
    assert!(page.contains("25 granted, of which 0 had waited, and 1 refused."), "{page}");
    assert!(
        page.contains("26 of 26 would have been granted") && page.contains("1 pull that had been refused."),
        "{page}"
    );
    let page = operator.get("/budget?what_if=1&limit=20&bulk=2").body;
    assert!(page.contains("Write a fraction from 0 to 1") && page.contains("value=\"2\""), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_is_drawn_here_and_once_more_with_axes_by_uplot_as_its_makers_published_it() {
    let harness = Harness::start().await;
    harness.spend().await;
    let mut operator = Browser::new(&harness);
    let page = operator.until("/budget", "data-times=\"");
    let moments = page.attribute("<figure", "data-times").split(' ').count();
    assert!(moments > 0 && moments == page.attribute("<figure", "data-values").split(' ').count(), "{}", page.body);
    assert!(page.body.contains("<svg class=\"graph\"") && page.body.contains("<polyline"), "{}", page.body);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("style-src 'self'; img-src 'self'; script-src 'self'; form-action"), "{policy}");

    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/pages/assets/uplot");
    let notice = std::fs::read_to_string(directory.join("README.md")).unwrap();
    let file = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    for name in ["uPlot.iife.min.js", "uPlot.min.css", "LICENSE"] {
        let digest: String = Sha256::digest(file(name)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(notice.contains(&format!("| `{name}` | `{digest}` |")), "{name} has {digest}");
    }
    let script = operator.get(&page.attribute("<script", "src"));
    let stylesheet = operator.get(&page.attribute("<script", "src").replace(".js", ".css"));
    assert_eq!(script.body, format!("/*\n{}*/\n{}", file("LICENSE"), file("uPlot.iife.min.js")));
    assert_eq!(stylesheet.body, file("uPlot.min.css"));
    assert!(page.body.contains("<link rel=\"stylesheet\" href=\"/assets/uplot-"), "{}", page.body);
    for asset in [&script, &stylesheet] {
        assert_eq!(asset.header("cache-control"), "max-age=31536000, immutable", "{}", asset.head);
    }
    assert!(page.attribute("<script", "src").contains(&notice.split_once("uplot@").unwrap().1[..6]), "{notice}");
}

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
