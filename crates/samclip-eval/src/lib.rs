//! Metrics as pure functions, protocols as data, the evaluation loop, reports.
//!
//! Reader's path: a TOML file -> [`AnyProtocol`] -> [`tasks::Case`] (with data) -> [`driver`] (photo by photo, an
//! [`outcome::Record`] each) -> [`summary::Summary`] -> [`folder`] -> [`results_page`].
//!
//! A protocol is a TOML file under `protocols/`; [`protocol::Protocol`] is its type. The loop sees
//! roles (`samclip_predict::roles`), never concrete models. Metrics do not know where masks come from.

pub mod answers;
pub mod baselines;
pub mod benchmark;
pub mod boxes;
pub mod cost;
pub mod driver;
mod error;
pub mod folder;
pub mod metrics;
mod npy;
pub mod outcome;
pub mod pictures;
pub mod plots;
pub mod probing;
pub mod protocol;
pub mod records;
pub mod report;
pub mod results_page;
pub mod run;
pub mod summary;
pub mod tally;
pub mod tasks;

pub use benchmark::{AnyProtocol, Benchmark};
pub use error::EvalError;
pub use protocol::Protocol;
pub use report::Report;
pub use run::{Subject, evaluate};
