//! `[[warm]]`: lists that are warmed at an hour, as they are written and as times. Pure, but for the list that a file holds.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{job::Wanted, platforms};
use crate::{
    route::Routes,
    setting::{ConfigError, Span, as_span},
};

/// The longest time that a warm looks back for what clients pulled: a year. The record of pulls reaches no further in practice.
pub const LONGEST_AGO: Duration = Duration::from_secs(366 * 86_400);

const A_DAY: i64 = 86_400;
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// One `[[warm]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What it is called in the audit and in the ledger.
    pub name: String,
    /// Images, as docker pull takes them.
    #[serde(default)]
    pub images: Vec<String>,
    /// A file of more images, one a line; read at the start and when it changes.
    #[serde(default)]
    pub file: PathBuf,
    /// The images that pins name, and those that are cached of what they cover.
    #[serde(default)]
    pub pinned: bool,
    /// What clients pulled in so long before the hour, at most [`LONGEST_AGO`]; zero is nothing.
    #[serde(default, with = "as_span")]
    pub pulled_within: Duration,
    /// Platforms; none is all that an image has.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// The time of day: `02:00` in UTC, `02:00+01:00` an hour east of it.
    pub at: String,
    /// Weekdays, as that offset has them; none is every day.
    #[serde(default)]
    pub days: Vec<String>,
}

/// A list that is warmed at an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What it is called.
    pub name: String,
    /// The images that it names, and those that its file lists.
    pub images: Vec<Wanted>,
    /// And the images of pins.
    pub pinned: bool,
    /// And what clients pulled within this time; nothing when zero.
    pub pulled_within: Duration,
    /// Platforms; none is all that an image has.
    pub platforms: Vec<String>,
    time: TimeOfDay,
    /// By weekday, Monday first.
    days: [bool; 7],
}

/// Seconds after midnight, and east of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimeOfDay {
    seconds: i64,
    offset: i64,
}

impl Table {
    /// Everything that is wrong with these tables. The keys begin with `warm[N]`.
    pub fn validate(tables: &[Table], routes: &Routes) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (number, table) in tables.iter().enumerate() {
            let key = |name: &str| format!("warm[{number}].{name}");
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if table.name.is_empty() || table.name.len() > 64 || !table.name.bytes().all(is_letter) {
                let fix = "write 1 to 64 letters, digits, dashes, dots and underscores";
                errors.push(ConfigError::new(key("name"), &table.name, fix));
            }
            if tables.iter().take(number).any(|other| other.name == table.name) {
                let fix = "another [[warm]] has this name; give each its own";
                errors.push(ConfigError::new(key("name"), &table.name, fix));
            }
            let is_listed = !table.images.is_empty() || !table.file.as_os_str().is_empty();
            if !is_listed && !table.pinned && table.pulled_within.is_zero() {
                let fix = "it warms nothing; give it images, file, pinned = true or pulled_within";
                errors.push(ConfigError::without_value(key("images"), fix));
            }
            if table.pulled_within > LONGEST_AGO {
                let fix = r#"write a time of at most 366 days, such as "7d""#;
                errors.push(ConfigError::new(key("pulled_within"), Span(table.pulled_within).to_string(), fix));
            }
            for image in &table.images {
                if let Err(fix) = routes.image(image) {
                    errors.push(ConfigError::new(key("images"), image, fix));
                }
            }
            for platform in &table.platforms {
                if let Err(fix) = platforms::check(platform) {
                    errors.push(ConfigError::new(key("platforms"), platform, fix));
                }
            }
            if TimeOfDay::read(&table.at).is_none() {
                let fix = r#"write a time of day in UTC, "02:00", or with an offset, "02:00+01:00""#;
                errors.push(ConfigError::new(key("at"), &table.at, fix));
            }
            for day in table.days.iter().filter(|day| !WEEKDAYS.contains(&day.as_str())) {
                let fix = format!("write weekdays as {}; none is every day", WEEKDAYS.join(", "));
                errors.push(ConfigError::new(key("days"), day, fix));
            }
        }
        errors
    }

    /// What the table comes to, with the images that its file `listed`. `number` is its place among the tables.
    ///
    /// # Errors
    /// An image of the file that is none, and what [`Table::validate`] finds.
    pub fn schedule(&self, number: usize, listed: &[String], routes: &Routes) -> Result<Schedule, ConfigError> {
        let key = |name: &str| format!("warm[{number}].{name}");
        let mut images = Vec::new();
        for (from, text) in
            self.images.iter().map(|text| ("images", text)).chain(listed.iter().map(|text| ("file", text)))
        {
            let (place, reference) = routes.image(text).map_err(|fix| ConfigError::new(key(from), text, fix))?;
            images.push(Wanted { upstream: place.upstream, repository: place.repository, reference });
        }
        let invalid = || ConfigError::new(key("at"), &self.at, "this is no time of day");
        let time = TimeOfDay::read(&self.at).ok_or_else(invalid)?;
        let days = WEEKDAYS.map(|day| self.days.is_empty() || self.days.iter().any(|wanted| wanted == day));
        Ok(Schedule {
            name: self.name.clone(),
            images,
            pinned: self.pinned,
            pulled_within: self.pulled_within,
            platforms: self.platforms.clone(),
            time,
            days,
        })
    }
}

impl TimeOfDay {
    /// `02:00`, `02:00Z`, `02:00+01:00`.
    fn read(text: &str) -> Option<TimeOfDay> {
        let clock = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let digits = |text: &str| (text.len() == 2).then(|| text.parse::<u8>().ok()).flatten();
            let (hours, minutes) = (digits(hours)?, digits(minutes)?);
            (hours < 24 && minutes < 60).then_some(i64::from(hours) * 3600 + i64::from(minutes) * 60)
        };
        let text = text.strip_suffix('Z').unwrap_or(text);
        let (time, offset) = match text.find(['+', '-']) {
            None => (text, 0),
            Some(at) => {
                let sign = if text[at..].starts_with('-') { -1 } else { 1 };
                // No offset in use is wider than 14 h.
                (&text[..at], sign * clock(&text[at + 1..]).filter(|offset| *offset <= 14 * 3600)?)
            }
        };
        Some(TimeOfDay { seconds: clock(time)?, offset })
    }
}

impl Schedule {
    /// When it is due next after a moment.
    pub fn next_after(&self, now: SystemTime) -> SystemTime {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 2);
        let today = (seconds + self.time.offset).div_euclid(A_DAY);
        // The epoch was a Thursday.
        let is_day = |day: &i64| self.days[usize::try_from((day + 3).rem_euclid(7)).unwrap_or(0)];
        let at = |day: i64| day * A_DAY + self.time.seconds - self.time.offset;
        let next = (today..=today + 7).filter(is_day).map(at).find(|at| *at > seconds);
        let next = next.and_then(|next| u64::try_from(next).ok()).unwrap_or(u64::MAX / 2);
        UNIX_EPOCH.checked_add(Duration::from_secs(next)).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(at: &str, days: &[&str]) -> Table {
        Table {
            name: "night".into(),
            images: vec!["busybox".into()],
            file: PathBuf::new(),
            pinned: false,
            pulled_within: Duration::ZERO,
            platforms: Vec::new(),
            at: at.into(),
            days: days.iter().map(|day| (*day).to_owned()).collect(),
        }
    }

    fn routes() -> Routes {
        Routes::new(Some("docker.io"), ["docker.io"])
    }

    #[test]
    fn it_is_due_at_its_hour_on_its_days_in_its_offset() {
        // A Sunday.
        let now = "2026-11-29T01:30:00Z";
        for (at, days, due) in [
            ("02:00", &[][..], "2026-11-29T02:00:00Z"),
            ("01:30", &[], "2026-11-30T01:30:00Z"),
            ("02:00Z", &["mon", "fri"], "2026-11-30T02:00:00Z"),
            ("02:00", &["sat"], "2026-12-05T02:00:00Z"),
            ("01:00", &["sun"], "2026-12-06T01:00:00Z"),
            ("02:00+01:00", &[], "2026-11-30T01:00:00Z"),
            ("20:00-05:30", &["sat"], "2026-12-06T01:30:00Z"),
            ("20:30-05:30", &["sat"], "2026-11-29T02:00:00Z"),
        ] {
            let schedule = table(at, days).schedule(0, &[], &routes()).unwrap();
            let next = schedule.next_after(humantime::parse_rfc3339(now).unwrap());
            assert_eq!(humantime::format_rfc3339(next).to_string(), due, "{at} {days:?}");
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_key_its_value_and_the_fix() {
        for at in ["2:00", "24:00", "02:60", "02", "", "02:00+15:00", "02:00+", "02:00 CET", "ü:00"] {
            let errors = Table::validate(&[table(at, &[])], &routes());
            assert_eq!(errors.len(), 1, "{at}");
            assert!(
                errors[0].to_string().starts_with("warm[0].at = \"") && errors[0].fix.contains("02:00+01:00"),
                "{at}"
            );
        }
        let change = |change: fn(&mut Table)| {
            let mut table = table("02:00", &["mon"]);
            change(&mut table);
            Table::validate(&[table], &routes()).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(change(|_| {}), "");
        let pulled = |table: &mut Table| (table.images, table.pulled_within) = (Vec::new(), LONGEST_AGO);
        assert_eq!(change(pulled), "", "what clients pulled is a list, too");
        for (text, why) in [
            (change(|table| table.images.clear()), "warm[0].images: it warms nothing"),
            (
                change(|table| table.images.push("ghcr.io/a".into())),
                "warm[0].images = \"ghcr.io/a\": no configured upstream",
            ),
            (change(|table| table.platforms.push("linux".into())), "warm[0].platforms = \"linux\": "),
            (change(|table| table.days.push("monday".into())), "warm[0].days = \"monday\": write weekdays as mon"),
            (
                change(|table| table.pulled_within = LONGEST_AGO + Duration::from_secs(86_400)),
                "warm[0].pulled_within = \"1year 1day 18h\": write a time of at most 366 days",
            ),
            (change(|table| table.name = "a b".into()), "warm[0].name = \"a b\": write 1 to 64 letters"),
        ] {
            assert!(text.starts_with(why), "{text}");
        }
        let twice = Table::validate(&[table("02:00", &[]), table("02:00", &[])], &routes());
        assert!(twice[0].to_string().starts_with("warm[1].name = \"night\": another"), "{twice:?}");
        let listed = ["alpine:3".to_owned(), "ghcr.io/b".to_owned()];
        let error = table("02:00", &[]).schedule(2, &listed, &routes()).unwrap_err();
        assert!(error.to_string().starts_with("warm[2].file = \"ghcr.io/b\": no configured upstream"), "{error}");
    }
}
