//! What lives here and no upstream can give again: repositories, the uploads into them, and the pins that hold their bytes.

mod damaged_record;
mod pins;
mod protection;
mod repositories;
mod uploads;

pub(crate) use self::{damaged_record::RecordRepair, pins::Pins};
pub use self::{
    damaged_record::{DamagedRecord, RecordKind},
    protection::{IsImmutable, Protection},
    repositories::{HostedUsage, Push, ReferrersPage, Repositories},
    uploads::{Upload, Uploads},
};
