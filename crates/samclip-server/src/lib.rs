//! Masks over HTTP: a thin layer over the verbs of samclip-predict.
//!
//! Reader's path of a request: [`serve`] (connections) -> [`routes`] (the table) -> [`ask`] (body, photo, plan,
//! embedding, verb) -> [`engine`] (who computes, and in which order) -> samclip-predict. No inference logic is here, and none is in the page.

pub mod access;
pub mod ask;
pub mod body;
pub mod engine;
pub mod error;
pub mod openapi;
pub mod page;
pub mod protocols;
pub mod routes;
pub mod serve;
pub mod settings;
pub mod store;
pub mod telemetry;
mod verbs;
pub mod wire;
pub mod worker;

pub use engine::Engine;
pub use error::{ApiError, Kind};
pub use serve::{app, run};
pub use settings::{FileSettings, Limits, Settings};
