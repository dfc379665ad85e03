//! Metrics as pure functions, protocols as data, the evaluation loop, reports.
//!
//! A protocol is a TOML file under `protocols/`; [`protocol::Protocol`] is its type. The loop sees
//! roles (`samclip_predict::roles`), never concrete models. Metrics do not know where masks come from.

pub mod baselines;
pub mod boxes;
mod error;
pub mod metrics;
pub mod protocol;
pub mod report;
pub mod run;

pub use error::EvalError;
pub use protocol::Protocol;
pub use report::Report;
pub use run::{Subject, evaluate};
