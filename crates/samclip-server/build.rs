//! The page is built into the library: a new or changed file of it is a reason to build again.

fn main() {
    println!("cargo:rerun-if-changed=assets");
}
