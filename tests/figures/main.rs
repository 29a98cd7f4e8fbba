//! Figures that take too long for a plain `cargo test`: `cargo test --test figures -- --nocapture --test-threads 1`.
//!
//! `WEIR_PROGRAM` names another program than that of this build. `WEIR_SOAK_MINUTES` (30) and `WEIR_SOAK_SEED` (1), `WEIR_VERIFY_RUNS`
//! (100), `WEIR_WRONG_PASSWORDS` (10,000), `WEIR_WARM_IMAGES` (500), `WEIR_CACHED_IMAGES` (100,000) and `WEIR_LAYER_MIB` (1024) are the sizes.

mod cached;
mod damage;
mod hostile;
mod layers;
#[path = "../simulation/random.rs"]
mod random;
mod siege;
mod soak;
mod support;
mod verify;
mod warm;
