//! The link by which a viewer chooses the language of the pages.

use actix_web::{HttpRequest, HttpResponse};

use super::{
    html,
    language::{COOKIE, Language},
    login,
};
use crate::admin::json::parameter;

/// Keeps the choice in the browser, and goes back to the page where it was made. It changes nothing at Weir.
pub(super) fn choose(request: &HttpRequest) -> HttpResponse {
    let query = request.query_string();
    let next = login::known(&parameter(query, "next").unwrap_or_default());
    let chosen = parameter(query, "to").and_then(|tag| Language::find(&tag));
    let cookie =
        |language: Language| format!("{COOKIE}={}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax", language.tag());
    html::see_other(&next, chosen.map(cookie))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn the_choice_leads_back_to_a_page_of_ours_alone() {
        let chosen = |query: &str| {
            let response = choose(&TestRequest::with_uri(&format!("/language?{query}")).to_http_request());
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            (header("location").unwrap(), header("set-cookie"))
        };
        let (next, cookie) = chosen("to=de&next=%2Fimages%3Fpattern%3Da%2520b%26sort%3Dsize");
        assert_eq!(next, "/images?pattern=a%20b&sort=size");
        assert!(cookie.unwrap().starts_with("weir-language=de; Path=/;"));
        assert_eq!(chosen("to=tlh&next=%2Faudit"), ("/audit".to_owned(), None));
        assert_eq!(chosen("to=de&next=%2F%2Fevil.example").0, "/");
        assert_eq!(chosen("to=de&next=%2Faudit%3Fa%0Ab").0, "/");
    }
}
