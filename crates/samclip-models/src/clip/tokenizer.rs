//! CLIP's tokenizer: lower-cased byte-pair encoding with 49,408 tokens and a context of 77.
//!
//! Paper: CLIP (arXiv:2103.00020) §2.4; BPE: arXiv:1508.07909.
//! Reference: open_clip/tokenizer.py, `SimpleTokenizer` (clip/simple_tokenizer.py in OpenAI's code).
//! Parity: tests/tokenizer.rs, token for token on the strings of fixtures/clip/tokens.json.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use regex::Regex;

use super::fix_text;
use crate::error::ModelError;

/// Tokens of one text as the towers take it, start and end included.
pub const CONTEXT_LENGTH: usize = 77;
/// Size of the vocabulary.
pub const VOCAB_SIZE: usize = 49_408;
/// Id of the token that starts every text.
pub const START: u32 = 49_406;
/// Id of the token that ends every text: the largest id, so `argmax` finds its place.
pub const END: u32 = 49_407;

const MERGES: usize = 48_894;
static MERGES_GZ: &[u8] = include_bytes!("../../assets/bpe_simple_vocab_16e6.txt.gz");

/// Text to token ids.
pub struct Tokenizer {
    /// Pair of ids -> (rank, id of the merged token).
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Id of each byte's own token; `+ 256` at the end of a word.
    byte_ids: [u32; 256],
    /// The bytes of each token, with a space after the last of a word.
    bytes: Vec<Vec<u8>>,
    pattern: Regex,
}

impl Tokenizer {
    /// CLIP's tokenizer, built once from the embedded merges.
    pub fn clip() -> &'static Self {
        static CLIP: LazyLock<Tokenizer> =
            LazyLock::new(|| Tokenizer::from_merges(MERGES_GZ).expect("the embedded merges are valid"));
        &CLIP
    }

    /// Reads a gzipped merges file in CLIP's form: a heading line, then one pair a line.
    ///
    /// # Errors
    /// When the file ends early, is not gzip, or merges tokens that do not exist yet.
    pub fn from_merges(gzip: impl Read) -> Result<Self, ModelError> {
        let alphabet = byte_alphabet();
        let mut byte_ids = [0; 256];
        let mut ids: HashMap<String, u32> = HashMap::with_capacity(VOCAB_SIZE);
        let mut bytes = Vec::with_capacity(VOCAB_SIZE);
        for (end, extra) in [("", None), ("</w>", Some(b' '))] {
            for (byte, c) in &alphabet {
                if extra.is_none() {
                    byte_ids[usize::from(*byte)] = bytes.len() as u32;
                }
                ids.insert(format!("{c}{end}"), bytes.len() as u32);
                bytes.push(std::iter::once(*byte).chain(extra).collect());
            }
        }
        let pairs = read_pairs(gzip, &mut ids, &mut bytes)?;
        let merges = pairs
            .into_iter()
            .zip(0..)
            // a token that two merges produce has the id of the later one
            .map(|((left, right, merged), rank)| ((ids[&left], ids[&right]), (rank, ids[&merged])))
            .collect();
        bytes.extend([b"<start_of_text>".to_vec(), b"<end_of_text>".to_vec()]);
        let pattern = r"(?i)<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";
        let pattern = Regex::new(pattern).expect("a constant pattern is valid");
        Ok(Self { merges, byte_ids, bytes, pattern })
    }

    /// Token ids of a text, without start and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let text = clean(text);
        let mut tokens = Vec::new();
        for word in self.pattern.find_iter(&text) {
            match word.as_str() {
                "<start_of_text>" => tokens.push(START),
                "<end_of_text>" => tokens.push(END),
                word => self.encode_word(word.as_bytes(), &mut tokens),
            }
        }
        tokens
    }

    /// One row of [`CONTEXT_LENGTH`] ids a text: start, tokens, end, zeros. A text that is too long
    /// is cut and still ends with the end token.
    pub fn tokenize<S: AsRef<str>>(&self, texts: &[S]) -> Vec<[u32; CONTEXT_LENGTH]> {
        let row = |text: &S| {
            let mut row = [0; CONTEXT_LENGTH];
            row.copy_from_slice(&self.tokenize_one(text.as_ref(), CONTEXT_LENGTH));
            row
        };
        texts.iter().map(row).collect()
    }

    /// As [`Self::tokenize`], for a tower with another context length (at least 2).
    pub fn tokenize_one(&self, text: &str, context_length: usize) -> Vec<u32> {
        let mut row = vec![START];
        row.extend(self.encode(text));
        row.truncate(context_length - 1);
        row.push(END);
        row.resize(context_length, 0);
        row
    }

    /// The text of token ids; a space after each word. Unknown ids are skipped.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> =
            tokens.iter().filter_map(|id| self.bytes.get(*id as usize)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Merges the bytes of one word, the pair of lowest rank first.
    fn encode_word(&self, word: &[u8], tokens: &mut Vec<u32>) {
        let mut parts: Vec<u32> = word.iter().map(|b| self.byte_ids[usize::from(*b)]).collect();
        if let Some(last) = parts.last_mut() {
            *last += 256;
        }
        while let Some(&(rank, merged)) = parts
            .windows(2)
            .filter_map(|pair| self.merges.get(&(pair[0], pair[1])))
            .min_by_key(|(rank, _)| *rank)
        {
            let mut i = 0;
            while i + 1 < parts.len() {
                if self.merges.get(&(parts[i], parts[i + 1])).is_some_and(|m| m.0 == rank) {
                    parts[i] = merged;
                    parts.remove(i + 1);
                }
                i += 1;
            }
        }
        tokens.extend(parts);
    }
}

/// Clean, single spaces, lower case: `_clean_lower`.
fn clean(text: &str) -> String {
    let text = fix_text::clean(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Bytes in vocabulary order with the printable character that stands for each in the merges file.
fn byte_alphabet() -> Vec<(u8, char)> {
    let printable = |b: &u8| matches!(*b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let (mut alphabet, rest): (Vec<u8>, Vec<u8>) = (0..=255).partition(printable);
    let shown = alphabet.len();
    alphabet.extend(rest);
    let stand_in = |(i, b): (usize, u8)| {
        let c = if i < shown { char::from(b) } else { char::from_u32((256 + i - shown) as u32).unwrap_or(' ') };
        (b, c)
    };
    alphabet.into_iter().enumerate().map(stand_in).collect()
}

type Pair = (String, String, String);

/// The merges of the file as (left, right, merged), their tokens entered in `ids` and `bytes`.
fn read_pairs(
    gzip: impl Read,
    ids: &mut HashMap<String, u32>,
    bytes: &mut Vec<Vec<u8>>,
) -> Result<Vec<Pair>, ModelError> {
    let bad = |line: usize, what: &str| ModelError::Input(format!("bpe merges, line {line}: {what}"));
    let mut pairs = Vec::with_capacity(MERGES);
    for (line, text) in BufReader::new(GzDecoder::new(gzip)).lines().enumerate().skip(1).take(MERGES) {
        let text = text.map_err(|e| bad(line + 1, &e.to_string()))?;
        let mut sides = text.split_whitespace();
        let (Some(left), Some(right), None) = (sides.next(), sides.next(), sides.next()) else {
            return Err(bad(line + 1, "expected two tokens"));
        };
        let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) else {
            return Err(bad(line + 1, "a token that no earlier line makes"));
        };
        let joined = [bytes[*l as usize].as_slice(), &bytes[*r as usize]].concat();
        let merged = format!("{left}{right}");
        ids.insert(merged.clone(), bytes.len() as u32);
        bytes.push(joined);
        pairs.push((left.to_owned(), right.to_owned(), merged));
    }
    if pairs.len() < MERGES {
        return Err(bad(pairs.len() + 1, "the file ends early"));
    }
    Ok(pairs)
}
