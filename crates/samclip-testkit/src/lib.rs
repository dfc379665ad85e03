//! Fixtures, tolerances and tiny configurations for tests.
