//! Pure accounting of who may do how much: no HTTP, no I/O, no async, no clock; time and chance are arguments.
//!
//! Every module here takes values and a time and gives back a decision or an event. Others carry them out: `http` answers, `mirror` waits and
//! spends, `admin` shows, and whoever called keeps what must survive a restart.
//!
//! [`Limits`] (`state.rs`) is the one value that they share; it reads like a header, and is the place to begin.

pub mod abuse;
pub mod allowlist;
pub mod audit;
pub mod bans;
pub mod budget;
pub mod class;
pub mod client;
pub mod config;
pub mod headers;
pub mod permit;
pub mod retries;
pub mod state;
mod target;
pub mod throttle;

pub use config::{Account, LimitsConfig, Settings};
pub use state::Limits;
pub use target::Target;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::client::ClientKey;

/// The network that an address is one of many in: its /24, or its /48 for IPv6. Who may hop within one shares its ceiling.
pub(crate) fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), 24).into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), 48).into()
        }
    }
}

/// The addresses that a client key stands for; `None` for a principal, who may come from anywhere.
pub(crate) fn addresses_of(key: &ClientKey) -> Option<IpNet> {
    match key {
        ClientKey::Principal(_) => None,
        ClientKey::Address(IpAddr::V4(address)) => Some(IpNet::from(IpAddr::V4(*address))),
        ClientKey::Address(IpAddr::V6(address)) => Some(Ipv6Net::new_assert(*address, 64).trunc().into()),
    }
}

/// Nanoseconds since 1970. A time before that is 1970, one after 2554 is 2554.
pub(crate) fn nanos(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Whole seconds, rounded up: a client that is told to wait must not come back too early.
pub(crate) fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
