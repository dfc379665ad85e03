//! A browser, a server and hands to drive the page with: clicks at pixels of the photo, keys, files.

mod browser;
mod server;

pub use browser::{Browser, Hand, skip_without_browser};
pub use server::{Server, command_line, photo, scratch};
