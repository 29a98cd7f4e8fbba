//! What the contract has and this version does not do yet, so that nobody relies on a fence that is not there.
//!
//! All tables are read and checked. A table that asks for something to be *enforced* which is not is a mistake and stops
//! the start; what only watches (a dry run) is taken, and [`notes`] says at start that it watches nothing yet.

use super::{Budget, Config, Limits, Mistake, Mode};

/// What would be relied on and does not exist.
pub(super) fn refusals(config: &Config) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let dry = |name: &str| config.limits.dry_run.iter().any(|entry| entry == "*" || entry == name);
    for (number, throttle) in config.throttle.iter().enumerate() {
        if throttle.mode == Mode::Enforce && !dry(&throttle.name) {
            mistakes.push(Mistake::new(
                format!("throttle[{number}].mode"),
                "enforce",
                r#"this version does not throttle yet and will not pretend to; write mode = "dry_run" or "off", or remove the table"#,
            ));
        }
    }
    for (number, class) in config.class.iter().enumerate() {
        mistakes.push(Mistake::new(
            format!("class[{number}].name"),
            class.name,
            "this version does not share the budget by class yet; remove the table",
        ));
    }
    if config.ban.mode == Mode::Enforce {
        mistakes.push(Mistake::new(
            "ban.mode",
            "enforce",
            r#"this version does not ban yet; write mode = "dry_run" or "off""#,
        ));
    }
    mistakes
}

/// What was configured and changes nothing yet; each is a sentence for the log at start.
pub fn notes(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |configured: bool, what: &str| {
        if configured {
            notes.push(format!("{what} is configured and has no effect in this version"));
        }
    };
    note(config.throttle.iter().any(|throttle| throttle.mode != Mode::Off), "[[throttle]]");
    note(config.limits != Limits::default(), "[limits]");
    note(config.budget != Budget::default(), "[budget]");
    notes
}
