//! The pages, forms and assets, as one table.

use actix_web::dev::{Path, ResourceDef};

/// From the `id` in a path to the page.
type PageAt = fn(&str) -> Page;

/// What a page asks by itself, again and again.
pub(super) const LIVE: &str = "/live";

/// The files of uPlot, which stand at an address of their own for each version, and so never change.
pub(super) const UPLOT_SCRIPT: &str = "/assets/uplot-1.6.32.js";
/// The stylesheet.
pub(super) const UPLOT_STYLESHEET: &str = "/assets/uplot-1.6.32.css";

/// Paths as actix's router reads them, and what is there. The first that matches counts.
pub(super) const PAGES: [(&str, PageAt); 46] = [
    ("/", |_| Page::Overview),
    (LIVE, |_| Page::Live),
    ("/budget", |_| Page::Budget),
    ("/images", |_| Page::Images),
    ("/image", |_| Page::Image),
    ("/image/pin", |_| Page::Pin),
    ("/image/unpin", |_| Page::Unpin),
    ("/image/refresh", |_| Page::Refresh),
    ("/image/remove", |_| Page::ConfirmPurge),
    ("/image/purge", |_| Page::Purge),
    ("/policy", |_| Page::Findings),
    ("/policy/csv", |_| Page::FindingsCsv),
    ("/warm", |_| Page::Warm),
    ("/warm/start", |_| Page::StartWarm),
    ("/warm/{id:[0-9]{1,19}}", |id| Page::OneWarm(id.to_owned())),
    ("/warm/{id:[0-9]{1,19}}/cancel", |id| Page::CancelWarm(id.to_owned())),
    ("/clients", |_| Page::Clients),
    ("/client", |_| Page::Client),
    ("/throttles", |_| Page::Throttles),
    ("/throttles/off", |_| Page::ConfirmOff),
    ("/throttles/mode", |_| Page::Switch),
    ("/blocked", |_| Page::Blocked),
    ("/blocked/add", |_| Page::Add),
    ("/blocked/{id:[A-Za-z0-9]{1,64}}", |id| Page::Ban(id.to_owned())),
    ("/blocked/{id:[A-Za-z0-9]{1,64}}/lift", |id| Page::Lift(id.to_owned())),
    ("/blocked/{id:[A-Za-z0-9]{1,64}}/end", |id| Page::MoveEnd(id.to_owned())),
    ("/blocked/{id:[A-Za-z0-9]{1,64}}/allow", |id| Page::Allow(id.to_owned())),
    ("/audit", |_| Page::Audit),
    ("/log", |_| Page::Log),
    ("/log/stream", |_| Page::LogStream),
    ("/settings", |_| Page::Settings),
    ("/unblock", |_| Page::Unblock),
    ("/unblock/{id:[A-Za-z0-9]{1,64}}", |id| Page::UnblockOne(id.to_owned())),
    ("/unblock/{id:[A-Za-z0-9]{1,64}}/lift", |id| Page::LiftOwn(id.to_owned())),
    ("/login", |_| Page::Login),
    ("/logout", |_| Page::Logout),
    ("/assets/weir.css", |_| Page::Stylesheet),
    ("/assets/weir.svg", |_| Page::Icon),
    ("/assets/proof_of_work.js", |_| Page::Script),
    ("/assets/log.js", |_| Page::LogScript),
    ("/assets/live.js", |_| Page::LiveScript),
    ("/assets/times.js", |_| Page::TimesScript),
    ("/assets/plot.js", |_| Page::PlotScript),
    (UPLOT_SCRIPT, |_| Page::UplotScript),
    (UPLOT_STYLESHEET, |_| Page::UplotStylesheet),
    ("/language", |_| Page::Language),
];

/// A page, a form or an asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    // By GET.
    Overview,
    Live,
    Budget,
    Images,
    Image,
    ConfirmPurge,
    Findings,
    FindingsCsv,
    Warm,
    OneWarm(String),
    Clients,
    Client,
    Throttles,
    ConfirmOff,
    Blocked,
    Ban(String),
    Audit,
    Log,
    LogStream,
    Settings,
    Unblock,
    UnblockOne(String),
    Stylesheet,
    Icon,
    Script,
    LogScript,
    LiveScript,
    TimesScript,
    PlotScript,
    UplotScript,
    UplotStylesheet,
    Language,
    // By both.
    Login,
    // By POST.
    Logout,
    Pin,
    Unpin,
    Refresh,
    Purge,
    StartWarm,
    CancelWarm(String),
    Switch,
    Add,
    Lift(String),
    MoveEnd(String),
    Allow(String),
    LiftOwn(String),
}

impl Page {
    /// What the router would find.
    pub(super) fn find(path: &str) -> Option<Page> {
        PAGES.iter().find_map(|(pattern, page)| {
            let mut path = Path::new(path);
            ResourceDef::new(*pattern).capture_match_info(&mut path).then(|| page(path.get("id").unwrap_or_default()))
        })
    }

    /// What is tried there by POST, as the audit says it; nothing where nothing can be.
    pub(super) fn attempt(&self) -> Option<String> {
        Some(match self {
            Page::Login => "log in".to_owned(),
            Page::Logout => "log out".to_owned(),
            Page::Pin => "pin an image".to_owned(),
            Page::Unpin => "unpin an image".to_owned(),
            Page::Refresh => "refresh an image".to_owned(),
            Page::Purge => "purge an image".to_owned(),
            Page::StartWarm => "begin a warm".to_owned(),
            Page::CancelWarm(id) => format!("cancel warm {id}"),
            Page::Switch => "switch a throttle".to_owned(),
            Page::Add => "ban".to_owned(),
            Page::Lift(id) | Page::LiftOwn(id) => format!("lift {id}"),
            Page::MoveEnd(id) => format!("move the end of {id}"),
            Page::Allow(id) => format!("allow the client of {id}"),
            _ => return None,
        })
    }

    /// What is the same for every viewer, and no page.
    pub(super) fn is_asset(&self) -> bool {
        matches!(
            self,
            Page::Stylesheet
                | Page::Icon
                | Page::Script
                | Page::LogScript
                | Page::LiveScript
                | Page::TimesScript
                | Page::PlotScript
                | Page::UplotScript
                | Page::UplotStylesheet
                | Page::Language
        )
    }

    /// What only operators see and do.
    pub(super) fn is_operators(&self) -> bool {
        matches!(
            self,
            Page::Overview
                | Page::Live
                | Page::Budget
                | Page::Images
                | Page::Image
                | Page::ConfirmPurge
                | Page::Pin
                | Page::Unpin
                | Page::Refresh
                | Page::Purge
                | Page::Findings
                | Page::FindingsCsv
                | Page::Warm
                | Page::OneWarm(_)
                | Page::StartWarm
                | Page::CancelWarm(_)
                | Page::Clients
                | Page::Client
                | Page::Throttles
                | Page::ConfirmOff
                | Page::Blocked
                | Page::Ban(_)
                | Page::Audit
                | Page::Log
                | Page::LogStream
                | Page::Settings
                | Page::Switch
                | Page::Add
                | Page::Lift(_)
                | Page::MoveEnd(_)
                | Page::Allow(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_its_path_and_by_no_other_spelling() {
        assert_eq!(Page::find("/"), Some(Page::Overview));
        assert_eq!(Page::find("/blocked/3f2a"), Some(Page::Ban("3f2a".into())));
        assert_eq!(Page::find("/unblock/3f2a/lift"), Some(Page::LiftOwn("3f2a".into())));
        for nowhere in [
            "",
            "//",
            "/blocked/",
            "/blocked//lift",
            "/Blocked",
            "/unblock/../audit",
            "/unblock/%2e",
            "/login/",
            "/assets/",
        ] {
            assert_eq!(Page::find(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn what_can_be_done_by_post_is_said_in_the_audit() {
        for path in [
            "/image/pin",
            "/image/unpin",
            "/image/refresh",
            "/image/purge",
            "/warm/start",
            "/warm/1/cancel",
            "/throttles/mode",
            "/blocked/add",
            "/blocked/1/lift",
            "/blocked/1/end",
            "/blocked/1/allow",
            "/unblock/1/lift",
            "/login",
            "/logout",
        ] {
            assert!(Page::find(path).unwrap().attempt().is_some(), "{path}");
        }
        for path in [
            "/",
            "/warm",
            "/warm/1",
            "/settings",
            "/throttles",
            "/blocked",
            "/blocked/1",
            "/audit",
            "/unblock",
            "/unblock/1",
            "/assets/weir.css",
        ] {
            assert_eq!(Page::find(path).unwrap().attempt(), None, "{path}");
        }
    }
}
