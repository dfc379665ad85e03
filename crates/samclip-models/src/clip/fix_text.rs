//! Text cleaning before tokenisation: what `ftfy.fix_text` and `html.unescape` do to a caption.
//!
//! Reference: open_clip/tokenizer.py, `basic_clean` (ftfy 6, Python's `html`).
//! Parity: tests/tokenizer.rs, on the strings of fixtures/clip/tokens.json.
//!
//! Deviation: ftfy decides by a table of unlikely neighbours ("badness") whether text is mojibake;
//! here a shorter rule does ([`redecode`]). Only UTF-8 read as Windows-1252 or Latin-1 is repaired,
//! not other code pages, nor sequences that have lost a byte.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization;

/// `html.unescape(html.unescape(ftfy.fix_text(text)))`.
pub(super) fn clean(text: &str) -> String {
    let plain = |c: char| matches!(c, ' '..='~' | '\n' | '\t') && c != '&';
    if text.chars().all(plain) {
        return text.to_owned();
    }
    unescape_html(&unescape_html(&fix_text(text)))
}

/// `ftfy.fix_text` with its default options: line by line, each to its fixed point.
fn fix_text(text: &str) -> String {
    let mut unescape = true;
    text.split_inclusive('\n')
        .map(|line| {
            unescape &= !line.contains('<');
            fix_line(line, unescape)
        })
        .collect()
}

fn fix_line(line: &str, unescape: bool) -> String {
    let mut text = line.to_owned();
    loop {
        let before = text.clone();
        if unescape && !text.contains('<') {
            text = unescape_strict(&text);
        }
        text = fix_encoding(text);
        text = text.chars().flat_map(simplify).collect();
        text = ANSI.replace_all(&fix_line_breaks(&text), "").into_owned();
        text.retain(|c| !is_unwanted_control(c));
        text = text.nfc().collect();
        if text == before {
            return text;
        }
    }
}

static ANSI: LazyLock<Regex> = LazyLock::new(|| regex(r"\x1b\[((?:\d|;)*)([a-zA-Z])"));
static STRICT_ENTITY: LazyLock<Regex> = LazyLock::new(|| regex(r"&#?[0-9A-Za-z]{1,24};"));
static ENTITY: LazyLock<Regex> =
    LazyLock::new(|| regex(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\x0c <&#;]{1,32};?)"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern is valid")
}

/// Characters replaced one by one: C1 controls, Latin ligatures, full and half width, quotes.
fn simplify(c: char) -> Vec<char> {
    match c {
        '\u{80}'..='\u{9f}' => vec![windows_1252(c as u8)],
        'Ĳ' | 'ĳ' | 'Ǳ'..='ǳ' | 'Ǆ'..='ǌ' | 'ﬀ'..='ﬄ' | 'ﬆ' | '\u{3000}' => c.nfkc().collect(),
        'ﬅ' => vec!['ſ', 't'],
        'ŉ' => vec!['\'', 'n'],
        '\u{ff01}'..='\u{ffef}' => c.nfkc().collect(),
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => vec!['\''],
        '\u{201c}'..='\u{201f}' => vec!['"'],
        _ => vec![c],
    }
}

fn fix_line_breaks(text: &str) -> String {
    text.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n")
}

fn is_unwanted_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

// --- mojibake -------------------------------------------------------------------------------

/// UTF-8 that was read as Windows-1252 or Latin-1, once or several times.
fn fix_encoding(mut text: String) -> String {
    while !text.is_ascii() {
        let fixed = redecode(&text);
        if fixed == text {
            break;
        }
        text = fixed;
    }
    text
}

/// The text with its mojibake read again as UTF-8, if it looks like it has any: a sequence of three
/// or four bytes, two of any kind, or one that starts as Latin, Greek or Cyrillic text does.
fn redecode(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (mut fixed, mut sequences, mut sure) = (String::new(), 0, false);
    let mut i = 0;
    while i < chars.len() {
        if let Some((c, len)) = sequence(&chars[i..]) {
            fixed.push(c);
            sequences += 1;
            sure |= len > 2 || matches!(chars[i], 'Â'..='Å' | 'Î' | 'Ð');
            i += len;
        } else {
            fixed.push(chars[i]);
            i += 1;
        }
    }
    if sure || sequences > 1 { fixed } else { text.to_owned() }
}

/// The character that the first bytes of `chars` spell in UTF-8, and how many they are.
fn sequence(chars: &[char]) -> Option<(char, usize)> {
    let len = match to_windows_1252(*chars.first()?)? {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let bytes: Option<Vec<u8>> = chars.get(..len)?.iter().map(|c| to_windows_1252(*c)).collect();
    Some((std::str::from_utf8(&bytes?).ok()?.chars().next()?, len))
}

/// Bytes 0x80..=0x9F of Windows-1252; unassigned ones stay themselves.
const WINDOWS_1252_HIGH: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

fn windows_1252(byte: u8) -> char {
    match byte {
        0x80..=0x9f => WINDOWS_1252_HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

/// The byte of a character in Windows-1252, or in Latin-1 for its control characters.
fn to_windows_1252(c: char) -> Option<u8> {
    match WINDOWS_1252_HIGH.iter().position(|high| *high == c) {
        Some(i) => u8::try_from(0x80 + i).ok(),
        None => u8::try_from(u32::from(c)).ok(),
    }
}

// --- HTML -----------------------------------------------------------------------------------

/// Python's `html.unescape`: HTML5 references, the semicolon optional where HTML allows it.
fn unescape_html(text: &str) -> String {
    ENTITY.replace_all(text, |m: &Captures| unescape_one(&m[0])).into_owned()
}

fn unescape_one(reference: &str) -> String {
    match reference.strip_prefix("&#") {
        Some(number) => numeric(number.trim_end_matches(';')),
        None => htmlize::unescape(reference).into_owned(),
    }
}

/// ftfy's form: only with a semicolon, and names of lower-case letters also in capitals.
fn unescape_strict(text: &str) -> String {
    let one = |m: &Captures| {
        let reference = &m[0];
        let known = |reference: &str| {
            let value = unescape_one(reference);
            // what still ends in a semicolon was not a reference, or only its beginning was one
            (value == ";" || !value.ends_with(';')).then_some(value)
        };
        if reference.starts_with("&#") {
            return known(reference).unwrap_or_else(|| reference.to_owned());
        }
        if let Some(value) = known(reference) {
            return value;
        }
        let upper = reference.to_ascii_uppercase() == reference && unescape_one(reference) == reference;
        let lower = upper.then(|| known(&reference.to_ascii_lowercase())).flatten();
        lower.map_or_else(|| reference.to_owned(), |value| value.to_uppercase())
    };
    STRICT_ENTITY.replace_all(text, one).into_owned()
}

/// A character reference by number, with HTML5's replacements; invalid ones vanish.
fn numeric(number: &str) -> String {
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => number.parse(),
    };
    match code {
        Ok(0xd) => "\r".to_owned(),
        Ok(code @ 0x80..=0x9f) => windows_1252(code as u8).to_string(),
        Ok(0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef) => String::new(),
        Ok(code) if code & 0xfffe == 0xfffe && code <= 0x10_ffff => String::new(),
        Ok(code) if code != 0 => char::from_u32(code).unwrap_or('\u{fffd}').to_string(),
        _ => '\u{fffd}'.to_string(),
    }
}
