//! *Overview*: the figures that an operator looks at first.

use super::harness::{Browser, Harness};

#[tokio::test(flavor = "multi_thread")]
async fn the_hit_ratio_is_shown_by_requests_and_by_bytes() {
    let harness = Harness::start().await;
    let mut operator = Browser::new(&harness);
    let page = operator.until("/", " by requests, 75.0 % by bytes").body;
    assert!(!page.contains("75.0 % by requests"), "{page}");
}
