//! Hostile inputs: each ends in a clear error that names the file and the rule, exit code 2 and no partial file.

mod support;

use std::io::{Cursor, Write};
use std::path::Path;

use samclip_weights::{StateDict, TensorData, to_safetensors_bytes};
use samclip_testkit::tiny;
use support::{photo, samclip, stderr};

/// What is typed (`DIR` is the folder of the files, `W` the small model's weights) and what the error must say.
struct Case {
    what: &'static str,
    args: &'static str,
    says: &'static [&'static str],
}

const fn case(what: &'static str, args: &'static str, says: &'static [&'static str]) -> Case {
    Case { what, args, says }
}

const IMAGES: &[Case] = &[
    case("missing file", "segment absent.jpg W --point 5,5", &["cannot read", "absent.jpg"]),
    case("empty file", "segment empty.jpg W --point 5,5", &["empty", "empty.jpg"]),
    case("text as image", "segment text.jpg W --point 5,5", &["not an image", "text.jpg"]),
    case("truncated jpeg", "segment cut.jpg W --point 5,5", &["jpeg", "cut.jpg"]),
    case("truncated png", "segment cut.png W --point 5,5", &["png", "cut.png"]),
    case("bomb of 60000 x 60000", "segment bomb.png W --point 5,5", &["3600000000", "limit", "bomb.png"]),
    case("png without pixels", "segment zero.png W --point 0,0", &["zero.png"]),
    case("bmp of 2^31 pixels", "segment bomb.bmp W --point 5,5", &["bomb.bmp"]),
    case("gif", "segment anim.gif W --point 5,5", &["not an image", "anim.gif"]),
    case("limit of pixels", "segment cat.jpg W --point 5,5 --max-pixels 100", &["limit of 100", "cat.jpg"]),
    case("folder without images", "segment nothing W --point 5,5", &["folder holds no image", "nothing"]),
    case("pattern without match", "segment *.webp W --point 5,5", &["pattern matches no file", "*.webp"]),
];

const PROMPTS: &[Case] = &[
    case("nothing asked", "segment cat.jpg W", &["no prompt", "everything"]),
    case("box outside", "segment cat.jpg W --box 10,10,9000,50", &["box outside the image", "cat.jpg"]),
    case("negative box", "segment cat.jpg W --box -5,10,90,50", &["box outside the image", "cat.jpg"]),
    case("box without area", "segment cat.jpg W --box 10,10,10,50", &["box without area"]),
    case("box backwards", "segment cat.jpg W --box 50,50,10,10", &["box without area"]),
    case("box of three numbers", "segment cat.jpg W --box 1,2,3", &["box does not parse"]),
    case("box with NaN", "segment cat.jpg W --box nan,1,5,5", &["box does not parse"]),
    case("point outside", "segment cat.jpg W --point 5,9000", &["point outside the image", "cat.jpg"]),
    case("point of one number", "segment cat.jpg W --point 5", &["point does not parse"]),
    case("infinite point", "segment cat.jpg W --point inf,5", &["point does not parse"]),
    case("label 2", "segment cat.jpg W --point 5,5,2", &["point label does not parse"]),
    case("points with two boxes", "segment cat.jpg W --point 5,5 --box 1,1,9,9 --box 2,2,8,8", &["2 boxes"]),
    case("empty text", "segment cat.jpg W --text EMPTY", &["empty text"]),
    case("unknown name", "segment cat.jpg W --text dogg", &["unknown name `dogg`", "dog"]),
    case("unknown name to classify", "classify cat.jpg W --text zzzz", &["unknown name `zzzz`"]),
    case("mask of another size", "segment cat.jpg W --mask small.png", &["another size", "cat.jpg"]),
    case("mask that is missing", "segment cat.jpg W --mask absent.png", &["absent.png"]),
    case("threshold", "segment cat.jpg W --text dog --text-threshold 2", &["--text-threshold"]),
    case("no points", "everything cat.jpg W --points-per-side 0", &["--points-per-side"]),
    case("grids", "everything cat.jpg W --point-grids text.jpg", &["point grids do not parse", "text.jpg"]),
    case("empty class list", "label cat.jpg W --classes empty.jpg", &["class list is empty", "empty.jpg"]),
    case("background mode", "label cat.jpg W --classes names.txt --background maybe", &["background mode", "maybe"]),
];

const WEIGHTS: &[Case] = &[
    case("pickle that calls the shell", "segment cat.jpg --weights shell.pth --point 5,5", &["posix.system", "shell.pth"]),
    case("pickle that holds itself", "weights inspect recursive.pth", &["recursive.pth"]),
    case("memo bomb", "weights inspect memo.pth", &["memo", "memo.pth"]),
    case("old pickle", "weights inspect old.pth", &["old PyTorch format", "old.pth"]),
    case("overlapping tensors", "weights inspect overlap.safetensors", &["overlap.safetensors"]),
    case("offsets beyond the end", "weights inspect range.safetensors", &["range.safetensors"]),
    case("header of an exabyte", "weights inspect header.safetensors", &["header.safetensors"]),
    case("cut weights", "segment cat.jpg --weights cut.safetensors --point 5,5", &["cut.safetensors"]),
    case("missing tensor", "segment cat.jpg --weights missing.safetensors --point 5,5", &["missing", "mask_decoder.iou_token.weight", "missing.safetensors"]),
    case("extra tensor", "segment cat.jpg --weights extra.safetensors --point 5,5", &["clip_head.surplus", "extra.safetensors"]),
    case("mis-shaped tensor", "segment cat.jpg --weights shape.safetensors --point 5,5", &["mask_decoder.iou_token.weight", "[2, 32]", "shape.safetensors"]),
    case("NaN weights", "segment cat.jpg --weights nan.safetensors --point 5,5", &["non-finite", "mask_decoder.iou_token.weight", "nan.safetensors"]),
    case("another model's weights", "segment cat.jpg --model sam_vit_b --weights tiny.safetensors --point 5,5", &["sam_clip_nano", "sam_vit_b", "tiny.safetensors"]),
    case("no weights", "segment cat.jpg --model sam_vit_b --point 5,5", &["needs weights", "pull sam_vit_b"]),
    case("unknown model", "segment cat.jpg --model sam_vit_x --point 5,5", &["unknown model `sam_vit_x`"]),
    case("conversion into a file's inside", "weights convert tiny.safetensors --to text.jpg/x.safetensors --as sam_clip_nano", &["text.jpg/x.safetensors"]),
    case("check without inputs", "weights check tiny.safetensors --model sam_clip_nano --inputs tiny.safetensors --expected expected.safetensors", &["`pixels` is missing"]),
];

const OUTPUTS: &[Case] = &[
    case("folder in a file", "segment cat.jpg W --point 5,5 --out text.jpg/out", &["cannot create the output folder", "text.jpg/out"]),
    case("cache in a file", "segment cat.jpg W --point 5,5 --cache text.jpg/cache", &["cannot create the cache folder", "text.jpg/cache"]),
    case("unknown format", "segment cat.jpg W --point 5,5 --format gif", &["gif"]),
    case("no threads", "segment cat.jpg W --point 5,5 --threads 0", &["--threads"]),
    case("a device that is not there", "segment cat.jpg W --point 5,5 --device cuda", &["device cuda"]),
];

#[test]
fn hostile_inputs_end_in_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let before = files(dir.path());
    let cases: Vec<&Case> = [IMAGES, PROMPTS, WEIGHTS, OUTPUTS].concat_refs();
    assert!(cases.len() >= 40, "{}", cases.len());
    let mut failures = Vec::new();
    for case in &cases {
        let args: Vec<String> = case.args.split(' ').flat_map(words).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = samclip(dir.path(), &args);
        let said = stderr(&output);
        let mut wrong = Vec::new();
        if output.status.code() != Some(2) {
            wrong.push(format!("exit code {:?}", output.status.code()));
        }
        wrong.extend(case.says.iter().filter(|word| !said.to_lowercase().contains(&word.to_lowercase())).map(|word| format!("`{word}` is not said")));
        if said.contains("panicked") {
            wrong.push("panic".to_owned());
        }
        let left: Vec<String> = files(dir.path()).into_iter().filter(|file| !before.contains(file)).collect();
        if !left.is_empty() {
            wrong.push(format!("left behind {left:?}"));
        }
        if !wrong.is_empty() {
            failures.push(format!("{} (samclip {}): {}\n    {}", case.what, case.args, wrong.join(", "), said.trim()));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert!(!dir.path().join("marker").exists(), "nothing was executed");
}

#[test]
fn one_bad_image_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let args = ["segment", "cat.jpg", "cut.png", "coffee.jpg", "--weights", "tiny.safetensors", "--point", "5,5", "--json"];
    let output = samclip(dir.path(), &args);
    assert_eq!(output.status.code(), Some(2));
    let document = support::json(&output);
    assert_eq!(document["images"].as_array().unwrap().len(), 2);
    assert_eq!(document["errors"][0]["file"], "cut.png");
    assert!(stderr(&output).contains("cut.png"));
}

trait ConcatRefs<'a> {
    fn concat_refs(self) -> Vec<&'a Case>;
}

impl<'a, const N: usize> ConcatRefs<'a> for [&'a [Case]; N] {
    fn concat_refs(self) -> Vec<&'a Case> {
        self.into_iter().flatten().collect()
    }
}

fn words(word: &str) -> Vec<String> {
    match word {
        "W" => vec!["--weights".to_owned(), "tiny.safetensors".to_owned()],
        "EMPTY" => vec!["  ".to_owned()],
        word => vec![word.to_owned()],
    }
}

/// Every file and folder below the folder, except the output folder itself where it is empty.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_dir = path.is_dir();
        if is_dir {
            found.extend(files(&path));
        }
        let empty_out = is_dir && path.file_name().is_some_and(|name| name == "out");
        if !empty_out {
            found.push(path.display().to_string());
        }
    }
    found
}

fn prepare(dir: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    let cat = std::fs::read(photo("cat.jpg")).unwrap();
    write("cat.jpg", &cat);
    write("coffee.jpg", &std::fs::read(photo("coffee.jpg")).unwrap());
    write("cut.jpg", &cat[..cat.len() / 3]);
    write("empty.jpg", b"");
    write("text.jpg", b"this is no image\n");
    write("names.txt", b"cat\ndog\n");
    write("anim.gif", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;");
    write("bomb.png", &png(60_000, 60_000));
    write("zero.png", &png(0, 10));
    let small = samclip_image::Mask { width: 3, height: 2, data: vec![true; 6] };
    samclip_image::write_png_mask(&dir.join("small.png"), &small).unwrap();
    let big = samclip_image::Mask { width: 300, height: 200, data: (0..60_000).map(|i| i * i % 7 == 0).collect() };
    samclip_image::write_png_mask(&dir.join("whole.png"), &big).unwrap();
    let whole = std::fs::read(dir.join("whole.png")).unwrap();
    write("cut.png", &whole[..whole.len() / 2]);
    write("bomb.bmp", &bmp(65_536, 32_768));
    std::fs::create_dir(dir.join("nothing")).unwrap();
    prepare_weights(dir);
}

fn prepare_weights(dir: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    tiny::weights(dir);
    let changed = |change: &dyn Fn(&mut StateDict)| {
        let mut state = tiny::state();
        change(&mut state);
        to_safetensors_bytes(&state)
    };
    const TOKEN: &str = "mask_decoder.iou_token.weight";
    write("missing.safetensors", &changed(&|s| drop(s.remove(TOKEN))));
    write("extra.safetensors", &changed(&|s| drop(s.insert("clip_head.surplus", TensorData::from_f32(&[1], &[0.0])))));
    write("shape.safetensors", &changed(&|s| drop(s.insert(TOKEN, TensorData::from_f32(&[2, 32], &[0.0; 64])))));
    write("nan.safetensors", &changed(&|s| drop(s.insert(TOKEN, TensorData::from_f32(&[1, 32], &[f32::NAN; 32])))));
    let whole = changed(&|_| ());
    write("cut.safetensors", &whole[..whole.len() / 2]);
    let mut expected = StateDict::new();
    expected.insert("image_embedding", TensorData::from_f32(&[1], &[0.0]));
    write("expected.safetensors", &to_safetensors_bytes(&expected));
    let header = |json: &str, data: usize| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat();
    let tensor = |name: &str, from: usize, to: usize| format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#);
    write("overlap.safetensors", &header(&format!("{{{},{}}}", tensor("a", 0, 8), tensor("b", 4, 12)), 12));
    write("range.safetensors", &header(&format!("{{{}}}", tensor("a", 0, 8)), 4));
    write("header.safetensors", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    let command = format!("touch {}", dir.join("marker").display());
    let shell = [b"cposix\nsystem\n(X".as_slice(), &(command.len() as u32).to_le_bytes(), command.as_bytes(), b"tR."].concat();
    write("shell.pth", &archive(&shell));
    write("recursive.pth", &archive(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."));
    let mut memo = b"\x80\x02N".to_vec();
    (0..3_000_000u32).for_each(|i| memo.extend([b"r".as_slice(), &i.to_le_bytes()].concat()));
    memo.push(b'.');
    write("memo.pth", &archive(&memo));
    write("old.pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.");
}

/// A checkpoint archive with this pickle.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(pickle).unwrap();
    zip.finish().unwrap().into_inner()
}

/// A PNG that has a header and no data.
fn png(width: u32, height: u32) -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        [&(data.len() as u32).to_be_bytes()[..], &body, &crc32(&body).to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let data = [0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01];
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &data), chunk(b"IEND", b"")].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 * (c & 1)));
    !bytes.iter().fold(!0, step)
}

/// A BMP that has a header and no data.
fn bmp(width: i32, height: i32) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    bytes.extend([54u32 + 1000, 0, 54, 40].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    bytes
}
