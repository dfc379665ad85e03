//! Fixtures, tolerances and tiny configurations for tests.

pub mod miniature;
