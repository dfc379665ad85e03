//! The tokenizer against open_clip's, id for id, on fixtures/clip/tokens.json.

mod clip_common;

use samclip_models::clip::tokenizer::{CONTEXT_LENGTH, END, START, Tokenizer};

#[derive(serde::Deserialize)]
struct Row {
    text: String,
    tokens: Vec<u32>,
}

fn rows() -> Vec<Row> {
    let json = std::fs::read_to_string(clip_common::path("tokens.json")).expect("fixture is readable");
    serde_json::from_str(&json).expect("fixture is valid")
}

#[test]
fn tokens_equal_open_clips() {
    let rows = rows();
    assert!(rows.len() >= 200);
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let mut wrong = Vec::new();
    for (row, actual) in rows.iter().zip(Tokenizer::clip().tokenize(&texts)) {
        let mut expected = row.tokens.clone();
        expected.resize(CONTEXT_LENGTH, 0);
        if actual[..] != expected[..] {
            wrong.push(format!("{:?}: {actual:?}, expected {expected:?}", row.text));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert!(rows.iter().any(|row| row.tokens.len() == CONTEXT_LENGTH && row.text.len() > 300), "has overlong texts");
    assert!(rows.iter().filter(|row| !row.text.is_ascii()).count() > 100, "has unicode");
}

#[test]
fn rows_start_and_end_where_they_should() {
    let tokenizer = Tokenizer::clip();
    assert_eq!(tokenizer.tokenize_one("", 4), [START, END, 0, 0]);
    assert_eq!(tokenizer.tokenize_one("a photo of a dog", 4), [START, 320, 1125, END]);
}

#[test]
fn decoding_gives_the_clean_text() {
    let tokenizer = Tokenizer::clip();
    for (text, clean) in [("A  Photo of\tcafé", "a photo of café "), ("中文 🐶", "中文 🐶 ")] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text)), clean);
    }
}

#[test]
fn a_broken_merges_file_is_an_error() {
    assert!(Tokenizer::from_merges(&b"not gzip"[..]).is_err());
}
