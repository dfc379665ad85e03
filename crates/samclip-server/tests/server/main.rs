//! The server in one test program: linking the engine takes longer than the tests.

mod brush_rle;
mod common;
mod documented;
mod http;
mod malformed;
mod random;
mod tools;
