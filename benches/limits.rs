//! What a check costs on the path of every request: six throttles and a network ceiling, and the header fields.

use std::{
    hint::black_box,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use criterion::Criterion;
use weir::{
    client::ClientKey,
    limits::{
        bans::BanList,
        headers,
        throttle::{Algorithm, Meter, Meters, Mode, Rules, Table, Throttle},
    },
};

fn rules(count: usize) -> Rules {
    let meters = ["registry_api", "pulls", "upstream", "bytes", "not_found", "auth"];
    let setting = |what: &&str| Throttle {
        name: format!("throttle_unauthenticated_{what}"),
        requests_per_period: 1_000_000_000,
        period_in_seconds: 3600,
        burst: None,
        algorithm: Algorithm::Gcra,
        mode: Mode::Enforce,
    };
    let settings: Vec<_> = meters.iter().take(count).map(setting).collect();
    Rules::new(&settings, &[], Rules::CEILING).expect("good settings")
}

fn check(criterion: &mut Criterion) {
    let take = Meter::RegistryApi.alone().and(Meter::Pulls);
    let look = Meter::Upstream.alone().and(Meter::Bytes).and(Meter::NotFound).and(Meter::Auth);
    let client = ClientKey::Address([10, 0, 0, 7].into());
    for count in [0, 1, 2, 6] {
        let (table, rules) = (Table::new(Table::MAX_CLIENTS), rules(count));
        criterion.bench_function(&format!("check/{count} throttles"), |bencher| {
            bencher.iter(|| table.check(&rules, black_box(&client), take, look, SystemTime::now()));
        });
    }
    let (table, rules) = (Table::new(Table::MAX_CLIENTS), rules(6));
    let mut number = 0_u32;
    criterion.bench_function("check/6 throttles, 50,000 clients in turn", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % 50_000;
            let client = ClientKey::Address(std::net::Ipv4Addr::from(0x0a00_0000 + number * 7).into());
            table.check(&rules, &client, take, look, SystemTime::now())
        });
    });
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let decision = table.check(&rules, &client, take, Meters::NONE, now);
    criterion.bench_function("headers/ietf", |bencher| {
        bencher.iter(|| headers::ietf(black_box(&decision)));
    });
    let book = BanList::default();
    criterion.bench_function("ban/find in an empty book", |bencher| {
        bencher.iter(|| book.find(black_box(&client), [10, 0, 0, 7].into(), now).is_some());
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    check(&mut criterion);
    criterion.final_summary();
}
