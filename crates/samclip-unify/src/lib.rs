//! No code: one set of features for the dependencies of the engine.
//!
//! Cargo resolves features per selection of packages, so `cargo run`, `cargo test` and `-p crate`
//! would each build their own copy of burn (ten minutes on two cores). `samclip-models` depends on
//! this crate, whose manifest asks for the union.
