//! Making, finding, lifting, listing and carrying over bans.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::*;
use crate::{
    client::ClientKey,
    limits::{address::key_address, penalty::PenaltyLevel},
};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    // 2026-11-21T12:00:00Z
    UNIX_EPOCH + Duration::from_secs(1_795_262_400)
}

fn new(client: &str) -> NewBan {
    NewBan {
        client: client.parse().unwrap(),
        duration: HOUR,
        level: PenaltyLevel::Client,
        rule: "admin".to_owned(),
        reason: "pulls all day".to_owned(),
        evidence: Vec::new(),
        repositories: vec!["library/nginx".to_owned(), "shop/api".to_owned()],
        strikes: 0,
        simulated: false,
    }
}

fn address(text: &str) -> (ClientKey, IpAddr) {
    let address: IpAddr = text.parse().unwrap();
    (ClientKey::Address(key_address(address)), address)
}

fn add(book: &mut BanList, client: &str, number: u64) -> String {
    match book.add_by("ops", None, new(client), true, number, now()) {
        Ok(BanEvent::Banned { record }) => record.id,
        other => panic!("{other:?}"),
    }
}

fn found(book: &BanList, client: &str, now: SystemTime) -> Option<String> {
    let (key, address) = address(client);
    book.find(&key, address, now).map(|ban| ban.0.id.clone())
}

#[test]
fn the_narrowest_network_decides_and_every_ban_ends() {
    let mut book = BanList::default();
    let wide = add(&mut book, "10.0.0.0/8", 1);
    let narrow = add(&mut book, "10.0.0.0/24", 2);
    let one = add(&mut book, "10.0.0.7", 3);
    let six = add(&mut book, "2001:db8:1:2::/64", 4);
    for (client, id) in [
        ("10.0.0.7", Some(&one)),
        ("::ffff:10.0.0.7", Some(&one)),
        ("10.0.0.8", Some(&narrow)),
        ("10.9.0.8", Some(&wide)),
        ("11.0.0.7", None),
        ("2001:db8:1:2:ffff::9", Some(&six)),
        ("2001:db8:1:3::9", None),
    ] {
        assert_eq!(found(&book, client, now()).as_ref(), id, "{client}");
        assert_eq!(found(&book, client, now() + HOUR), None);
    }
    assert_eq!(book.expire(now() + HOUR).len(), 4);
    assert_eq!(book.count(now()), (0, 0));
}

#[test]
fn a_rule_s_ban_of_an_address_is_not_of_the_principals_behind_it() {
    let mut book = BanList::default();
    book.add_automatic(new("10.0.0.7"), 1, now()).unwrap();
    let ci = ClientKey::Principal("ci".into());
    let here = "10.0.0.7".parse().unwrap();
    assert!(found(&book, "10.0.0.7", now()).is_some());
    assert!(book.find(&ci, here, now()).is_none());
    add(&mut book, "10.0.0.0/24", 2);
    assert!(book.find(&ci, here, now()).is_some());
    add(&mut book, "ci", 3);
    assert!(book.find(&ci, "192.0.2.1".parse().unwrap(), now()).is_some());
    assert!(book.find(&ClientKey::Principal("dev".into()), "192.0.2.1".parse().unwrap(), now()).is_none());
}

#[test]
fn what_is_wide_or_shuts_out_its_maker_must_be_meant() {
    let me = Some("10.0.0.9".parse().unwrap());
    for (client, refused) in [
        ("10.9.0.0/23", Some("wider")),
        ("10.9.0.0/24", None),
        ("2001:db8::/47", Some("wider")),
        ("2001:db8::/48", None),
        ("10.0.0.0/24", Some("you ask from")),
        ("10.0.0.9", Some("you ask from")),
        ("127.0.0.1", Some("itself")),
        ("0.0.0.0/0", Some("you ask from")),
        ("::1", Some("itself")),
        ("ci", None),
    ] {
        let mut book = BanList::default();
        let outcome = book.add_by("ops", me, new(client), false, 1, now()).map_err(|error| error.to_string());
        match refused {
            None => assert!(outcome.is_ok(), "{client} {outcome:?}"),
            Some(part) => assert!(outcome.clone().is_err_and(|error| error.contains(part)), "{client} {outcome:?}"),
        }
        assert!(BanList::default().add_by("ops", me, new(client), true, 1, now()).is_ok(), "{client}");
    }
    let mut book = BanList::default();
    for duration in [Duration::ZERO, MAX_DURATION + HOUR] {
        let ban = NewBan { duration, ..new("10.0.0.1") };
        assert_eq!(book.add_by("ops", None, ban, true, 1, now()), Err(BanError::Duration));
    }
    assert!(book.add_automatic(new("127.0.0.1"), 1, now()).is_err());
    assert!(book.add_automatic(new("10.0.0.0/16"), 1, now()).is_err());
}

#[test]
fn a_simulated_ban_stops_no_request() {
    let mut book = BanList::default();
    book.add_automatic(NewBan { simulated: true, ..new("10.0.0.7") }, 1, now()).unwrap();
    assert_eq!(found(&book, "10.0.0.7", now()), None);
    let (key, address) = address("10.0.0.7");
    assert!(book.find_simulated(&key, address, now()).is_some());
    assert_eq!(book.count(now()), (0, 1));
    // A real one beside it acts.
    add(&mut book, "10.0.0.7", 2);
    assert!(found(&book, "10.0.0.7", now()).is_some());
}

#[test]
fn a_ban_is_lifted_once_and_with_a_reason() {
    let mut book = BanList::default();
    let id = add(&mut book, "10.0.0.7", 0x3f2a);
    assert_eq!(id, "00003f2a");
    assert_eq!(book.lift(&id, "ops", "  ", now()), Err(BanError::Reason));
    let Ok(BanEvent::Lifted { record }) = book.lift(&id, "ops", "fixed their job", now()) else { panic!("not lifted") };
    assert_eq!(
        record.lifted.map(|lift| (lift.by, lift.reason)),
        Some(("ops".to_owned(), "fixed their job".to_owned()))
    );
    assert_eq!(found(&book, "10.0.0.7", now()), None);
    assert!(matches!(book.lift(&id, "ops", "again", now()), Err(BanError::Unknown(_))));
    assert!(book.get(&id).is_some_and(|record| record.lifted.is_some()));
    assert!(book.list(&BanFilter::default(), now()).is_empty());
    assert_eq!(book.list(&BanFilter { ended: true, ..BanFilter::default() }, now()).len(), 1);
}

#[test]
fn who_is_blocked_because_of_requests_to_my_namespace() {
    let mut book = BanList::default();
    add(&mut book, "10.0.0.7", 1);
    for (namespace, count) in
        [("library/", 1), ("library", 1), ("library/nginx", 1), ("libr", 0), ("shop/api/", 1), ("", 1), ("api", 0)]
    {
        let filter = BanFilter { namespace: Some(namespace.to_owned()), ..BanFilter::default() };
        assert_eq!(book.list(&filter, now()).len(), count, "{namespace}");
    }
    for (client, count) in [("10.0.0.7", 1), ("10.0.0.8", 0), ("ci", 0)] {
        let filter = BanFilter { client: Some(client.parse().unwrap()), ..BanFilter::default() };
        assert_eq!(book.list(&filter, now()).len(), count, "{client}");
    }
}

#[test]
fn a_second_ban_of_a_rule_replaces_the_first() {
    let mut book = BanList::default();
    book.add_automatic(new("10.0.0.7"), 1, now()).unwrap();
    book.add_automatic(NewBan { duration: 4 * HOUR, ..new("10.0.0.7") }, 2, now()).unwrap();
    assert_eq!(book.count(now()), (1, 0));
    assert_eq!(found(&book, "10.0.0.7", now() + 2 * HOUR).as_deref(), Some("00000002"));
    // An operator's stands beside it: lifting one does not lift the other.
    add(&mut book, "10.0.0.7", 3);
    assert_eq!(book.count(now()), (2, 0));
}

#[test]
fn the_end_of_a_ban_is_moved_both_ways_and_stays_so_after_a_restart() {
    let mut book = BanList::default();
    let id = add(&mut book, "10.0.0.7", 1);
    let made = BanEvent::Banned { record: book.get(&id).unwrap().clone() };
    let until = book.get(&id).unwrap().until;
    for (duration, reason, refused) in [
        (Duration::ZERO, "why", BanError::Duration),
        (MAX_DURATION + HOUR, "why", BanError::Duration),
        (HOUR, " ", BanError::Reason),
    ] {
        assert_eq!(book.move_end(&id, duration, reason, now()).unwrap_err(), refused);
    }
    assert_eq!(book.get(&id).unwrap().until, until, "what is refused changes nothing");
    let longer = book.move_end(&id, 9 * HOUR, "again", now()).unwrap();
    assert!(matches!(&longer, BanEvent::EndMoved { before, .. } if *before == until), "{longer:?}");
    assert_eq!(found(&book, "10.0.0.7", now() + 8 * HOUR).as_deref(), Some(&*id));
    let shorter = book.move_end(&id, Duration::from_secs(60), "mended", now()).unwrap();
    assert_eq!(found(&book, "10.0.0.7", now() + HOUR / 2), None);

    // Read again by a process that begins after the first end, and before the second one.
    let mut restored = BanList::default();
    let later = now() + 4 * HOUR;
    restored.replay(&made, later);
    assert_eq!(found(&restored, "10.0.0.7", later), None);
    restored.replay(&longer, later);
    assert_eq!(found(&restored, "10.0.0.7", later).as_deref(), Some(&*id));
    restored.replay(&shorter, later);
    assert_eq!(found(&restored, "10.0.0.7", later), None);
    assert!(restored.move_end(&id, HOUR, "late", later).is_err(), "what has ended does not begin again");
}

#[test]
fn export_and_restore_keep_everything_and_import_says_so() {
    let mut book = BanList::default();
    let evidence = Evidence {
        at: now(),
        method: "GET".to_owned(),
        repository: "shop/api".to_owned(),
        reference: "2.3.1".to_owned(),
        status: 404,
    };
    let ban = NewBan { evidence: vec![evidence; 30], repositories: vec!["a".to_owned(); 90], ..new("10.0.0.7") };
    book.add_automatic(ban, 1, now()).unwrap();
    let lifted = add(&mut book, "ci", 2);
    book.lift(&lifted, "ops", "done", now()).unwrap();
    assert_eq!(book.get("00000001").map(|it| (it.evidence.len(), it.repositories.len())), Some((20, 50)));
    let json = book.export();
    let restore = |at| BanList::of(serde_json::from_slice(&json).unwrap(), at);
    let restored = restore(now());
    assert_eq!(restored.get("00000001"), book.get("00000001"));
    assert_eq!(restored.get(&lifted), book.get(&lifted));
    assert_eq!(found(&restored, "10.0.0.7", now()).as_deref(), Some("00000001"));
    assert_eq!(restore(now() + HOUR).count(now()), (0, 0));

    let mut other = BanList::default();
    add(&mut other, "192.0.2.1", 1);
    let events = other.import(&json, "ops", None, false, 1, now()).unwrap();
    // Only what is in force is taken over, under an id of its own.
    assert!(
        matches!(&events[..], [BanEvent::Banned { record }] if record.origin == Origin::Imported && record.id == "00000002")
    );
    assert!(other.import(b"{}", "ops", None, true, 1, now()).is_err());
    let wide = String::from_utf8(json).unwrap().replace("10.0.0.7", "10.0.0.0/8");
    assert!(matches!(other.import(wide.as_bytes(), "ops", None, false, 1, now()), Err(BanError::Wide(_))));

    let value: serde_json::Value = serde_json::from_slice(&book.export()).unwrap();
    let record = &value[1];
    assert_eq!((&record["client"], &record["until"]), (&"10.0.0.7".into(), &"2026-11-21T13:00:00Z".into()));
    assert_eq!((&record["rung"], &record["origin"]), (&4.into(), &"auto".into()));
}

#[test]
fn the_first_80_characters_say_who_and_until_when() {
    let mut book = BanList::default();
    let long = "x".repeat(255);
    for (client, key, says) in [
        ("10.0.0.7", address("10.0.0.7").0, "10.0.0.7 blocked until 13:00Z (rule admin, id "),
        ("10.0.0.0/8", address("10.1.2.3").0, "10.1.2.3 blocked until 13:00Z (rule admin, id "),
        (
            "ffff:ffff:ffff:ffff::/64",
            address("ffff:ffff:ffff:ffff::1").0,
            "ffff:ffff:ffff:ffff::/64 blocked until 13:00Z (rule admin, id ",
        ),
        (&long, ClientKey::Principal(long.as_str().into()), "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… blocked until 13:00Z"),
    ] {
        let id = add(&mut book, client, 9);
        let text = sentence(book.get(&id).unwrap(), &key, "https://mirror.example/", now());
        assert!(text.starts_with(says), "{text}");
        assert!(text.ends_with(&format!("id {id}): pulls all day; https://mirror.example/unblock/{id}")), "{text}");
        // The worst case: a level whose sentence is longer, and a day.
        let record = BanRecord { level: PenaltyLevel::Misses, ..book.get(&id).unwrap().clone() };
        let text = sentence(&record, &key, "", now() - 48 * HOUR);
        assert!(text.chars().take(80).collect::<String>().contains("until 2026-11-21"), "{text}");
        assert!(text.ends_with("ask the operator of this mirror to lift it"), "{text}");
        assert!(text.contains(" blocked from uncached content until "), "{text}");
        // A rule's reason is for the operator.
        for silent in [
            BanRecord { origin: Origin::Auto, ..record.clone() },
            BanRecord { reason: " ".to_owned(), ..record.clone() },
        ] {
            let text = sentence(&silent, &key, "", now());
            assert!(text.ends_with(&format!("id {id}): ask the operator of this mirror to lift it")), "{text}");
        }
    }
}

#[test]
fn the_book_is_bounded() {
    let mut book = BanList::default();
    for number in 0..MAX_BANS as u32 {
        let client = std::net::Ipv4Addr::from(0x0b00_0000 + number).to_string();
        book.add_automatic(new(&client), number.into(), now()).unwrap();
    }
    assert_eq!(book.add_automatic(new("10.0.0.7"), 1, now()), Err(BanError::Full));
    // Who is in it already may be banned anew.
    assert!(book.add_automatic(new("11.0.0.7"), 1, now()).is_ok());
    assert_eq!(book.expire(now() + HOUR).len(), MAX_BANS);
    for number in 0..50 {
        let id = add(&mut book, "10.0.0.7", number);
        book.lift(&id, "ops", "test", now()).unwrap();
    }
    assert_eq!(book.list(&BanFilter { ended: true, ..BanFilter::default() }, now()).len(), MAX_ENDED);
}

#[test]
fn a_ban_of_one_ipv6_address_is_of_its_client() {
    let mut book = BanList::default();
    let id = add(&mut book, "2001:db8:1:2::5", 1);
    assert_eq!(book.get(&id).unwrap().client.to_string(), "2001:db8:1:2::/64");
    assert!(found(&book, "2001:db8:1:2::9", now()).is_some());
    assert!(found(&book, "2001:db8:1:3::5", now()).is_none());
}

#[test]
fn a_time_is_shown_rounded_up() {
    use crate::limits::time::until;
    let at = |seconds| now() + Duration::from_secs(seconds);
    assert_eq!(until(at(0), now()), "12:00Z");
    assert_eq!(until(at(29), now()), "12:01Z");
    assert_eq!(until(at(0) + Duration::from_millis(1), now()), "12:01Z");
    assert_eq!(until(at(24 * 3600 - 1), now()), "2026-11-22 12:00Z");
}

#[test]
fn lifting_one_ban_leaves_all_others_in_force() {
    let mut book = BanList::default();
    let (one, other) = (add(&mut book, "10.0.0.7", 1), add(&mut book, "10.0.0.8", 2));
    let (six, seven) = (add(&mut book, "2001:db8:1::/64", 3), add(&mut book, "2001:db8:2::/64", 4));
    // A rule's ban of the same client.
    book.add_automatic(new("10.0.0.8"), 5, now()).unwrap();
    for id in [one, six, other] {
        book.lift(&id, "ops", "test", now()).unwrap();
    }
    assert_eq!(found(&book, "10.0.0.7", now()), None);
    assert_eq!(found(&book, "10.0.0.8", now()).as_deref(), Some("00000005"));
    assert_eq!(found(&book, "2001:db8:2::9", now()), Some(seven));
    book.lift("00000005", "ops", "test", now()).unwrap();
    assert_eq!(found(&book, "10.0.0.8", now()), None);
}

#[test]
fn of_two_bans_of_one_client_the_stricter_acts() {
    let mild = || NewBan { level: PenaltyLevel::Misses, ..new("10.0.0.7") };
    let mut book = BanList::default();
    book.add_automatic(mild(), 1, now()).unwrap();
    let strict = add(&mut book, "10.0.0.7", 2);
    assert_eq!(found(&book, "10.0.0.7", now()), Some(strict));
    let mut book = BanList::default();
    let strict = add(&mut book, "10.0.0.7", 1);
    book.add_automatic(mild(), 2, now()).unwrap();
    assert_eq!(found(&book, "10.0.0.7", now()), Some(strict));
}

#[test]
fn an_imported_ban_acts_until_its_own_end_and_the_book_stays_bounded() {
    let mut book = BanList::default();
    add(&mut book, "10.0.0.7", 1);
    let json = book.export();
    let mut other = BanList::default();
    other.import(&json, "ops", None, false, 1, now()).unwrap();
    assert!(found(&other, "10.0.0.7", now() + HOUR - Duration::from_secs(1)).is_some());
    assert_eq!(found(&other, "10.0.0.7", now() + HOUR), None);
    for number in 1..MAX_BANS as u32 - 1 {
        add(&mut other, &std::net::Ipv4Addr::from(0x0b00_0000 + number).to_string(), number.into());
    }
    assert!(other.import(&json, "ops", None, false, 1, now()).is_ok(), "the last place");
    assert_eq!(other.import(&json, "ops", None, false, 1, now()), Err(BanError::Full));
}

/// After a compaction the journal may hold an entry that its first line has already.
#[test]
fn entries_that_are_replayed_twice_do_nothing_twice() {
    let mut book = BanList::default();
    let banned = book.add_automatic(new("10.0.0.7"), 1, now()).unwrap();
    let again = book.add_automatic(NewBan { duration: 4 * HOUR, ..new("10.0.0.7") }, 2, now()).unwrap();
    let beside = book.add_by("ops", None, new("10.0.0.7"), true, 3, now()).unwrap();
    let lifted = book.lift("00000003", "ops", "test", now()).unwrap();
    let events = [banned, again, beside, lifted];
    let mut replayed = BanList::default();
    for event in events.iter().chain(&events) {
        replayed.replay(event, now());
    }
    assert_eq!(replayed.count(now()), (1, 0));
    assert_eq!(found(&replayed, "10.0.0.7", now() + 2 * HOUR).as_deref(), Some("00000002"));
    let all = BanFilter { ended: true, ..BanFilter::default() };
    assert_eq!(replayed.list(&all, now()), book.list(&all, now()));
    // A ban whose end is not in the journal, because it came by itself.
    let mut later = BanList::default();
    events.iter().for_each(|event| later.replay(event, now() + 5 * HOUR));
    assert_eq!((later.count(now() + 5 * HOUR), later.expire(now() + 5 * HOUR)), ((0, 0), Vec::new()));
}

#[test]
fn two_imported_bans_of_one_client_are_both_replayed() {
    let mut book = BanList::default();
    add(&mut book, "10.0.0.7", 1);
    let json = book.export();
    let mut replayed = BanList::default();
    for number in [1, 2] {
        for event in book.import(&json, "ops", None, false, number, now()).unwrap() {
            replayed.replay(&event, now());
        }
    }
    assert_eq!(replayed.count(now()), (2, 0));
}

#[test]
fn a_client_is_found_by_the_ban_of_its_network() {
    let mut book = BanList::default();
    add(&mut book, "10.0.0.0/24", 1);
    add(&mut book, "2001:db8:1::/48", 2);
    for (client, count) in [("10.0.0.7", 1), ("10.0.1.7", 0), ("2001:db8:1:2::/64", 1), ("2001:db8:2:2::/64", 0)] {
        let filter = BanFilter { client: Some(client.parse().unwrap()), ..BanFilter::default() };
        assert_eq!(book.list(&filter, now()).len(), count, "{client}");
    }
    for client in ["2001:db8:1:2::9", "2001:db8:1:ffff::9"] {
        assert!(found(&book, client, now()).is_some(), "{client}");
    }
}

#[test]
fn what_is_no_address_and_no_name_of_an_account_is_refused() {
    let long = "x".repeat(256);
    for text in ["", "10.0.0.0/33", "a/b", "2001:db8::g", "a:b", "a\nb", &long] {
        assert!(text.parse::<crate::limits::Target>().is_err(), "{text:?}");
    }
    assert!(long[1..].parse::<crate::limits::Target>().is_ok());
}

#[test]
fn its_owner_may_lift_what_a_rule_banned_below_level_4_and_nothing_else() {
    for (level, by_rule, operators) in [
        (PenaltyLevel::Misses, true, false),
        (PenaltyLevel::MissesBanned, true, false),
        (PenaltyLevel::Client, false, false),
    ] {
        let mut book = BanList::default();
        let ban = || NewBan { level, ..new("10.0.0.7") };
        book.add_automatic(ban(), 1, now()).unwrap();
        book.add_by("ops", None, ban(), true, 2, now()).unwrap();
        let is_own = |id: &str| book.get(id).unwrap().self_service;
        assert_eq!((is_own("00000001"), is_own("00000002")), (by_rule, operators), "{level:?}");
    }
}
