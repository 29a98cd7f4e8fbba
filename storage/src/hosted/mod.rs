//! What lives here and no upstream can give again: repositories, the uploads into them, and the pins that hold their bytes.

mod pins;
mod protection;
mod repositories;
mod uploads;

pub(crate) use self::pins::Pins;
pub use self::{
    protection::{IsImmutable, Protection},
    repositories::{HostedUsage, Push, ReferrersPage, Repositories},
    uploads::{Upload, Uploads},
};
