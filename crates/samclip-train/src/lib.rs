//! Recipes, objectives, losses, teachers and the one training loop.
//!
//! Reader's path: [`recipe::Recipe`] -> [`train::Trainer`] -> [`feed::Feed`] ->
//! [`objectives::Step`] -> [`losses`] -> [`optim`] -> [`checkpoint`]. The crate prints
//! nothing and evaluates nothing: an [`train::Observer`] does.

pub mod checkpoint;
pub mod error;
pub mod events;
pub mod export;
pub mod feed;
pub mod glob;
pub mod guided;
mod inputs;
pub mod losses;
pub mod native;
pub mod objectives;
pub mod optim;
mod pace;
pub mod parameters;
pub mod photo_teacher;
pub mod plot;
pub mod precision;
pub mod probe;
pub mod recipe;
mod report;
pub mod run_log;
mod shard;
mod start;
pub mod teach;
pub mod teacher;
pub mod train;
pub mod vocabulary;
pub mod world;

pub use error::TrainError;
pub use recipe::Recipe;
pub use report::StepReport;
pub use train::{Observer, Outcome, RunOptions, run, run_in};
pub use world::World;
