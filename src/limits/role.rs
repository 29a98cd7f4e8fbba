//! What an account may see and do on the admin listener.

use serde::{Deserialize, Serialize};

/// What an account is to the admin listener. To the registry it is nothing: `pull`, `push` and `delete` count there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees and does everything.
    Admin,
    /// Sees everything but the bytes of images, and changes nothing.
    Viewer,
    /// Reads `/metrics` alone: for a scraper, which keeps its password in a file.
    Metrics,
    /// Lifts its own bans.
    #[default]
    User,
}

/// What a request on the admin listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Health, which every client may ask for.
    Health,
    /// The metrics.
    Metrics,
    /// Something to see.
    Read,
    /// Something to change, or the bytes of images, which may be private.
    Change,
}

impl Role {
    /// Whether an account of this role may do it.
    pub fn may(self, access: Access) -> bool {
        match access {
            Access::Health => true,
            Access::Metrics => self != Role::User,
            Access::Read => matches!(self, Role::Admin | Role::Viewer),
            Access::Change => self == Role::Admin,
        }
    }

    /// Whether there is a page for it.
    pub fn has_pages(self) -> bool {
        self != Role::Metrics
    }

    /// Whether an account of this role may lift bans that are its own.
    pub fn lifts_own(self) -> bool {
        matches!(self, Role::Admin | Role::User)
    }

    /// As it is written in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Viewer => "viewer",
            Role::Metrics => "metrics",
            Role::User => "user",
        }
    }
}
