//! What Weir needs and how it is, for `/readyz?verbose` and those who look there first.

use super::sources::Sources;
use crate::upstream::CredentialState;

/// One thing that Weir needs.
#[derive(Clone, Debug)]
pub struct Check {
    /// `disk`, `index`, `upstream docker.io`, `accounts docker.io`.
    pub name: String,
    /// What is wrong with it, in words for the operator.
    pub problem: Option<String>,
}

/// Looks at all of it. One small file is written, at most once a second; no request is sent. Names no account: anybody may ask.
pub(super) async fn checks(sources: &Sources) -> Vec<Check> {
    let store = &sources.store;
    let index =
        (!store.index.is_ready()).then(|| "it is being rebuilt from the files; answers do not wait for it".to_owned());
    let mut checks = vec![
        Check { name: "disk".to_owned(), problem: store.probe.problem().await },
        Check { name: "index".to_owned(), problem: index },
    ];
    for upstream in sources.upstreams() {
        let name = &upstream.settings().name;
        let problem = upstream.breaker().map(|(until, why)| match until {
            Some(until) => format!("not asked until {}: {why}", humantime::format_rfc3339_seconds(until)),
            None => format!("failed, and the next request shows whether it still does: {why}"),
        });
        checks.push(Check { name: format!("upstream {name}"), problem });
        let credentials = upstream.credentials();
        if !credentials.is_empty() {
            let all = credentials.len();
            let problems = [
                (CredentialState::Refused, "refused by the registry"),
                (CredentialState::Unreadable, "without a credential that can be read"),
            ]
            .into_iter()
            .map(|(state, what)| (credentials.iter().filter(|(_, now)| *now == state).count(), what))
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} of {all} {what}"))
            .collect::<Vec<_>>()
            .join(", ");
            let problem = (!problems.is_empty()).then(|| format!("{problems}; the log names them"));
            checks.push(Check { name: format!("accounts {name}"), problem });
        }
    }
    checks
}
