//! *Budget*: which spends its filters find.

use super::harness::{Browser, Harness};

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
    assert_eq!(clients(&list("class=standard&client=10.5.0.1")), [1]);
}
