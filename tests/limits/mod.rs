//! Quotas, the shared budget and bans, as clients and operators meet them: a weir process, a hub that counts, real sockets.

mod bans;
mod budget;
mod logins;
mod operators;
mod records;
mod reload;
mod repositories;
mod support;
mod throttles;
mod upstreams;

/// Loopback speaks for others: so one machine is many clients.
const PROXY: &str = "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";

/// One `[[throttle]]`.
fn throttle(name: &str, limit: u32, more: &str) -> String {
    format!("[[throttle]]\nname = \"{name}\"\nrequests_per_period = {limit}\nperiod_in_seconds = 3600\n{more}\n")
}
