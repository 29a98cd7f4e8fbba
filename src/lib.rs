//! Weir: a pull-through mirror for OCI registries that never wastes an upstream pull.

pub mod admin;
pub mod asker;
pub mod cli;
pub mod config;
pub mod http;
pub mod limits;
pub mod mirror;
pub mod oci;
pub mod route;
pub mod telemetry;
pub mod upstream;
