//! Fixtures, tolerances and tiny configurations for tests.

pub mod miniature;
pub mod runs;
pub mod tiny;
