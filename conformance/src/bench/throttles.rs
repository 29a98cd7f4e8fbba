//! What six throttles cost: the same warm manifest from two Weirs in turn, one that judges every request by six and one that judges by none.

use std::{path::Path, sync::Arc, time::Duration};

use super::{median::median, wrk};
use crate::{
    client::{Client, Shape},
    hub::Hub,
    mirror::{
        Harness,
        process::{Process, Program, cpu},
    },
    report::Row,
};

/// Turns of each in a round: the two differ by less than the machine does from second to second, so that many short ones say more than
/// a few long ones.
const PAIRS: usize = 6;

/// Seconds of a turn.
const TURN: u32 = 1;

/// All that a client without a name can meet on the registry.
const METERS: [&str; 6] = ["registry_api", "pulls", "upstream", "bytes", "not_found", "auth"];

pub(super) async fn row(weir: &Path, hub: &Arc<Hub>, rounds: usize) -> Result<Row, String> {
    let upstream = hub.registry_address();
    let start = async |mode: &str| Process::start(Program::Weir(weir.to_owned()), upstream, &settings(mode)).await;
    let (without, with) = (start("off").await?, start("enforce").await?);
    let harness = Harness::new(hub.clone(), Client::new(without.address, ""), None, None);
    let image = harness.image("throttles", &[1000]).await?;
    for address in [without.address, with.address] {
        Client::new(address, "").pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    }
    let target = harness.client.manifest(&image.repository, &image.tag);
    let mut pairs = Vec::new();
    for round in 0..=rounds {
        for pair in 0..PAIRS {
            // Who begins changes each time, as what else the machine does may come in waves.
            let (none, six) = match pair % 2 {
                0 => {
                    let none = turn(&without, &target).await?;
                    (none, turn(&with, &target).await?)
                }
                _ => {
                    let six = turn(&with, &target).await?;
                    (turn(&without, &target).await?, six)
                }
            };
            // The first round warms what there is to warm.
            if round > 0 {
                pairs.push((none, six));
            }
        }
        println!("round {round} throttles: {} pairs of turns", pairs.len());
    }
    let of = |what: fn(&(Turn, Turn)) -> f64| median(&pairs.iter().map(what).collect::<Vec<_>>());
    let ratio = of(|(none, six)| six.rate / none.rate);
    let figure = format!(
        "{ratio:.2} of the rate without ({:.0} to {:.0} a second); CPU {:.1} to {:.1} µs a request",
        of(|(_, six)| six.rate),
        of(|(none, _)| none.rate),
        of(|(_, six)| six.cpu),
        of(|(none, _)| none.cpu)
    );
    let outcome = if ratio >= 0.9 { Ok(figure) } else { Err(figure) };
    Ok(Row::new("bench", "warm manifest GET, six throttles", "bar: >= 0.9 of without", outcome, Duration::ZERO))
}

/// What one Weir did in one turn.
struct Turn {
    /// Manifest GETs a second.
    rate: f64,
    /// Microseconds of Weir's CPU for each.
    cpu: f64,
}

async fn turn(weir: &Process, target: &str) -> Result<Turn, String> {
    let spent = || weir.pid().and_then(cpu).unwrap_or_default();
    let before = spent();
    let rate = wrk::rate(weir.address, target, TURN).await?;
    Ok(Turn { rate, cpu: (spent() - before).as_secs_f64() * 1e6 / (rate * f64::from(TURN)) })
}

/// Six that no benchmark reaches. The first one in a file replaces those that Weir has by default, also where all are off.
fn settings(mode: &str) -> String {
    let throttle = |meter| {
        format!(
            "[[throttle]]\nname = \"throttle_unauthenticated_{meter}\"\nrequests_per_period = 1000000000\n\
             period_in_seconds = 3600\nmode = \"{mode}\"\n"
        )
    };
    METERS.map(throttle).concat()
}
