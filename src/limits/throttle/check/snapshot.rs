//! What clients owe, in a form that outlives the process. Keeping it is the caller's.

use std::{net::IpAddr, time::SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Table, is_idle};
use crate::{
    client::ClientKey,
    limits::{
        throttle::{
            account::Account,
            rules::{Meter, Rules},
        },
        time::nanos,
    },
};

/// All accounts that owe something. Its size is bounded by the table's; a fresh client is not in it and needs not be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    clients: Vec<Entry<Owner>>,
    networks: Vec<Entry<IpNet>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Owner {
    Address(IpAddr),
    Principal(String),
}

/// (meter, due, window_end, count)
type Kept = (Meter, u64, u32, u32);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry<K> {
    of: K,
    accounts: Vec<Kept>,
}

impl Snapshot {
    /// The same accounts, everything due later by so many nanoseconds, or earlier when it is negative.
    pub fn shifted(mut self, by: i64) -> Snapshot {
        let of_clients = self.clients.iter_mut().map(|entry| &mut entry.accounts);
        for accounts in of_clients.chain(self.networks.iter_mut().map(|entry| &mut entry.accounts)) {
            accounts.iter_mut().for_each(|(_, due, ..)| *due = due.saturating_add_signed(by));
        }
        self
    }
}

impl Table {
    /// What must be kept. Locks one shard at a time.
    pub fn snapshot(&self, rules: &Rules, now: SystemTime) -> Snapshot {
        let now = nanos(now);
        let mut snapshot = Snapshot::default();
        for shard in self.clients.each().chain(self.principals.each()) {
            for (key, accounts) in shard.iter().filter(|(key, accounts)| !is_idle(rules.of(key), accounts, false, now))
            {
                let of = match key {
                    ClientKey::Address(address) => Owner::Address(*address),
                    ClientKey::Principal(name) => Owner::Principal(name.to_string()),
                };
                snapshot.clients.push(Entry { of, accounts: kept(accounts) });
            }
        }
        for shard in self.networks.each() {
            let owing = shard.iter().filter(|(network, accounts)| {
                !is_idle(rules.of(&ClientKey::Address(network.addr())), accounts, true, now)
            });
            snapshot.networks.extend(owing.map(|(of, accounts)| Entry { of: *of, accounts: kept(accounts) }));
        }
        snapshot
    }

    /// Puts accounts back, into a table that no request has used yet. What came back in the meantime is as if the process had never
    /// stopped; more than there are seats is dropped.
    pub fn restore(&self, snapshot: &Snapshot) {
        for entry in &snapshot.clients {
            let key = match &entry.of {
                Owner::Address(address) => ClientKey::Address(*address),
                Owner::Principal(name) => ClientKey::Principal(name.as_str().into()),
            };
            if let Some(accounts) = self.seats(&key).lock(&key).seat(&key, 0, |_, _| false) {
                put(accounts, &entry.accounts);
            }
        }
        for entry in &snapshot.networks {
            if let Some(accounts) = self.networks.lock(&entry.of).seat(&entry.of, 0, |_, _| false) {
                put(accounts, &entry.accounts);
            }
        }
    }
}

fn kept(accounts: &[Account; 8]) -> Vec<Kept> {
    let all = Meter::ALL.into_iter().zip(accounts);
    all.filter(|(_, account)| **account != Account::default())
        .map(|(meter, account)| (meter, account.due, account.window_end, account.count))
        .collect()
}

fn put(accounts: &mut [Account; 8], kept: &[Kept]) {
    for (meter, due, window_end, count) in kept {
        accounts[*meter as usize] = Account { due: *due, window_end: *window_end, count: *count };
    }
}
