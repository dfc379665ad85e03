//! The binary and what it says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use samclip_image::{Image, LabelMap, write_png_palette, write_png_rgb};

/// The repository.
#[allow(dead_code, reason = "not every test file reads its files")]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A photo of the repository.
#[allow(dead_code, reason = "not every test file reads photos")]
pub fn photo(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

/// Runs the binary in a folder.
#[allow(dead_code, reason = "not every test file starts it this way")]
pub fn samclip(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_samclip")).args(args).current_dir(folder).output().expect("the binary starts")
}

/// What the binary said on stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON document on stdout.
#[allow(dead_code, reason = "not every test file reads JSON")]
pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

/// Six photos of a red cat or a blue dog on grey, as a mask folder.
#[allow(dead_code, reason = "not every test file trains adapters")]
pub fn labels(root: &Path) {
    for part in ["images", "masks"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    std::fs::write(root.join("classes.txt"), "background\ncat\ndog\n").unwrap();
    let (w, h) = (80usize, 60usize);
    for index in 0..6usize {
        let class = 1 + (index % 2) as u8;
        let inside = |i: usize| (10 + 4 * index..50).contains(&(i % w)) && (10..45).contains(&(i / w));
        let colour = if class == 1 { [210, 60, 40] } else { [30, 60, 220] };
        let pixels = (0..w * h).flat_map(|i| if inside(i) { colour } else { [120; 3] }).collect();
        write_png_rgb(&root.join(format!("images/{index}.png")), &Image::new(w, h, pixels).unwrap()).unwrap();
        let data = (0..w * h).map(|i| if inside(i) { class } else { 0 }).collect();
        let map = LabelMap { width: w, height: h, data };
        write_png_palette(&root.join(format!("masks/{index}.png")), &map).unwrap();
    }
}
