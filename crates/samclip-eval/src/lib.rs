//! Metrics as pure functions, protocols as data, the evaluation loop.
