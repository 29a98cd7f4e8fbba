//! The language of the pages: as the browser accepts it, as the viewer chooses it, and what is in it.

use super::harness::{Browser, Harness};

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_are_in_the_language_that_the_browser_accepts_until_another_is_chosen() {
    let harness = Harness::start().await;
    let mut operator = Browser::new(&harness);
    let german = [("Accept-Language", "de-CH, en;q=0.5")];
    let english = operator.get("/clients?part=10.1.").body;
    assert!(
        english.contains("<html lang=\"en\">") && english.contains("No such client has asked lately."),
        "{english}"
    );
    let page = operator.send("GET", "/clients?part=10.1.", &german, "").body;
    assert!(
        page.contains("<html lang=\"de\">") && page.contains("Kein solcher Client hat kürzlich angefragt."),
        "{page}"
    );
    assert!(
        page.contains("<h1>Clients</h1>") && page.contains(">Drosseln</a>") && !page.contains("Throttles"),
        "{page}"
    );
    // The link of each leads to the other, at the same place.
    let link =
        |page: &str| page.split("href=\"/language?").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    assert_eq!(link(&english), "to=de&next=%2Fclients%3Fpart%3D10.1.");
    let chosen = operator.send("GET", &format!("/language?{}", link(&page)), &german, "");
    assert_eq!((chosen.status, chosen.header("location")), (303, "/clients?part=10.1."));
    let page = operator.send("GET", "/clients?part=10.1.", &german, "").body;
    assert!(page.contains("No such client has asked lately."), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_in_german_to_its_last_head() {
    let harness = Harness::start().await;
    harness.spend().await;
    let ban = harness.block("10.1.0.7", "shop/api");
    harness.pull("10.5.0.1", 15);
    harness.ask("10.5.0.1", 3);
    let mut operator = Browser::new(&harness);
    let one = format!("/blocked/{ban}");
    for (path, words, english) in [
        ("/", "Trefferquote", "Hit ratio"),
        ("/budget", "Neueste Ausgaben", "Newest spends"),
        ("/images", "Registrys", "Registries"),
        ("/warm", "Vorabruf beginnen", "Begin a warm"),
        ("/clients", "Abrufe beim Upstream", "Pulls upstream"),
        ("/client?client=10.5.0.1", "Letzte Anfragen", "Last requests"),
        ("/throttles/off?name=throttle_unauthenticated_pulls", "abschalten", "Switch "),
        ("/throttles", "Treffer seit dem Start", "Matches since"),
        ("/blocked", "Wegen Anfragen an", "Because of"),
        (&one, "Belege", "Evidence"),
        ("/audit", "sperrte", "Entries are"),
        ("/log", "Warnungen und Fehler", "warnings and errors"),
        ("/settings", "Geheimnisse sind verborgen", "Secrets"),
        ("/unblock", "gesperrter Clients", "blocked clients"),
        ("/login", "Passwort", "Password"),
        ("/nothing", "Unter dieser Adresse gibt es keine Seite.", "There is no page"),
    ] {
        let page = operator.send("GET", path, &[("Accept-Language", "de"), ("Accept", "text/html")], "").body;
        assert!(page.contains(words) && !page.contains(english), "{path}: {page}");
        assert!(page.contains("aria-label=\"Seiten\""), "{path}: {page}");
    }
}
