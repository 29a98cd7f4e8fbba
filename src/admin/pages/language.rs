//! The language of a page: the one that the viewer chose by the link at the foot of a page, else the first that the browser accepts.

use actix_web::{
    HttpRequest,
    http::header::{AcceptLanguage, Header, Preference, Quality},
};

use super::context;

/// A language that every text of the pages is written in. Sentences that the API, the command line and the log have too stay English.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Language {
    #[default]
    English,
    German,
}

/// The cookie that keeps the choice. It says nothing of the viewer but this.
pub(super) const COOKIE: &str = "weir-language";

tokio::task_local! {
    /// Of the request that this task answers: most of what writes a text knows no request.
    static CURRENT: Language;
}

impl Language {
    pub(super) const ALL: [Language; 2] = [Language::English, Language::German];

    /// As `lang` of HTML names it.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::German => "de",
        }
    }

    /// As its speakers call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Language::English => "English",
            Language::German => "Deutsch",
        }
    }

    pub(super) fn find(tag: &str) -> Option<Language> {
        Language::ALL.into_iter().find(|language| language.tag() == tag)
    }

    /// Of this request; English when it names none that there is.
    pub(super) fn of(request: &HttpRequest) -> Language {
        let chosen = context::cookie(request, COOKIE).and_then(Language::find);
        chosen.or_else(|| accepted(&AcceptLanguage::parse(request).ok()?)).unwrap_or_default()
    }

    /// Runs `task` with texts in this language.
    pub(super) async fn scope<F: Future>(self, task: F) -> F::Output {
        CURRENT.scope(self, task).await
    }
}

/// The language of the page that is made now.
pub(super) fn current() -> Language {
    CURRENT.try_with(|language| *language).unwrap_or_default()
}

/// The accepted one of the highest weight, the first of several; one of weight 0 is not wanted (RFC 9110, sections 12.4.2 and 12.5.4).
fn accepted(accepted: &AcceptLanguage) -> Option<Language> {
    let mut wanted: Vec<_> = accepted.iter().filter(|item| item.quality > Quality::ZERO).collect();
    wanted.sort_by_key(|item| std::cmp::Reverse(item.quality));
    wanted.into_iter().find_map(|item| match &item.item {
        Preference::Any => Some(Language::default()),
        Preference::Specific(tag) => Language::find(&tag.primary_language().to_ascii_lowercase()),
    })
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn the_choice_wins_over_what_the_browser_accepts_and_english_is_for_the_rest() {
        for (cookie, accept, language) in [
            (None, None, Language::English),
            (None, Some("de-AT, en;q=0.8"), Language::German),
            (None, Some("fr, de;q=0.5, en;q=0.9"), Language::English),
            (None, Some("DE;q=0.5, fr"), Language::German),
            (None, Some("de;q=0, *;q=0.1"), Language::English),
            (None, Some("fr"), Language::English),
            (None, Some(";;="), Language::English),
            (Some("weir-language=en"), Some("de"), Language::English),
            (Some("a=b; weir-language=de"), Some("en"), Language::German),
            (Some("weir-language=tlh"), Some("de"), Language::German),
        ] {
            let mut request = TestRequest::default();
            for (name, value) in [("cookie", cookie), ("accept-language", accept)] {
                if let Some(value) = value {
                    request = request.insert_header((name, value));
                }
            }
            assert_eq!(Language::of(&request.to_http_request()), language, "{cookie:?} {accept:?}");
        }
    }
}
