//! The `samclip` binary: typed arguments, one library call, one printer.
fn main() {}
