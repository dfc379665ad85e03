//! A protocol as data: which photos, which prompts, which figures, which floors.
//!
//! Complete TOML: no inheritance, every key is required unless it says otherwise, unknown keys
//! are errors with their line.

use crate::EvalError;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A protocol over the photos of a semantic dataset: a box and a click for each object, the
/// name of each present class, and classification over all class names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// The protocol's name, as reports cite it.
    pub name: String,
    /// One sentence: what is measured on what.
    pub title: String,
    /// Dataset, as `samclip_data::open` names it.
    pub dataset: String,
    /// Its split.
    pub split: String,
    /// What an object is.
    pub objects: Objects,
    /// The text-only part.
    pub text: Text,
    /// Floors that a model must reach; empty for none.
    #[serde(default)]
    pub floors: Floors,
}

/// Objects are the connected components of the class masks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// Neighbours of a pixel: 4 or 8.
    pub connectivity: u8,
    /// Components below this part of the image are left out.
    pub min_fraction: f64,
}

/// Text only: the mask for the class's name, on the photos that have the class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Which names the model is told at once.
    pub ask: Ask,
    /// How the name becomes a mask.
    pub mode: TextMode,
    /// Probability above which a token belongs to the name.
    pub threshold: f32,
    /// A click at the deepest point of the class goes with the name: the manual mode of a model with
    /// an adapter. Text alone where absent.
    #[serde(default)]
    pub click: bool,
    /// The classes (dataset's spelling) whose mean is the headline; they need enough photos.
    pub mean_over: Vec<String>,
}

/// Which names the model is told at once. Telling it the present classes only would give
/// the answer away, so that is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// One name at a time, as `segment --text NAME` does.
    Alone,
    /// All names of the dataset; they compete for the pixels.
    ClassList,
}

/// How a name becomes a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextMode {
    /// The CLIP head's map prompts the mask decoder.
    BothHeads,
    /// The CLIP head's map alone.
    ClipHead,
}

/// The least that the headline figures must reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Floors {
    /// Mean IoU of box prompts.
    pub r#box: Option<f64>,
    /// Mean IoU of one click.
    pub click: Option<f64>,
    /// Mean class IoU of text over `text.mean_over`.
    pub text: Option<f64>,
    /// Share of photos whose best class is present.
    pub classify: Option<f64>,
}

impl Protocol {
    /// Reads and checks a protocol file.
    ///
    /// # Errors
    /// An unreadable file, an unknown or missing key, a value out of range.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let io = |reason| EvalError::Io { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(io)?;
        Self::parse(&text).map_err(|message| EvalError::Protocol { message, path: path.to_owned() })
    }

    /// Parses and checks the text of a protocol; the error says where.
    ///
    /// # Errors
    /// See [`Protocol::open`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let protocol: Self = parse_toml(text)?;
        if !(0.0..1.0).contains(&protocol.objects.min_fraction) {
            return Err(format!("`objects.min_fraction` must lie in [0, 1), found {}", protocol.objects.min_fraction));
        }
        if ![4, 8].contains(&protocol.objects.connectivity) {
            return Err(format!("`objects.connectivity` must be 4 or 8, found {}", protocol.objects.connectivity));
        }
        if !(0.0..=1.0).contains(&protocol.text.threshold) {
            return Err(format!("`text.threshold` must lie in [0, 1], found {}", protocol.text.threshold));
        }
        if protocol.text.mean_over.is_empty() {
            return Err("`text.mean_over` must name at least one class".into());
        }
        Ok(protocol)
    }
}

/// Typed TOML; the error names the line and, for a key that does not exist, the nearest one that does.
pub(crate) fn parse_toml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map(|s| text[..s.start].matches('\n').count() + 1);
        let at = line.map_or(String::new(), |l| format!("line {l}: "));
        format!("{at}{}{}", e.message(), nearest_key(e.message()))
    })
}

/// ", did you mean `x`?" for serde's "unknown field `y`, expected one of `x`, `z`".
fn nearest_key(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let wrong = quoted.next().filter(|_| message.starts_with("unknown"));
    let best = wrong.and_then(|wrong| quoted.map(|key| (strsim::damerau_levenshtein(wrong, key), key)).min());
    best.filter(|(far, _)| *far <= 3).map_or(String::new(), |(_, key)| format!(", did you mean `{key}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NANO: &str = include_str!("../../../protocols/voc_subset_nano.toml");

    #[test]
    fn the_nano_protocol_parses() {
        let protocol = Protocol::parse(NANO).unwrap();
        assert_eq!((protocol.name.as_str(), protocol.split.as_str()), ("voc_subset_nano", "val"));
        assert_eq!(protocol.text.mean_over, ["dog", "cat", "cow", "horse", "sheep"]);
        let Floors { r#box, click, text, classify } = protocol.floors;
        assert_eq!([r#box, click, text, classify], [Some(0.62), Some(0.42), Some(0.45), Some(0.45)]);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let wrong = NANO.replace("min_fraction", "minimum");
        let message = Protocol::parse(&wrong).unwrap_err();
        let line = wrong.lines().position(|l| l.contains("minimum")).unwrap() + 1;
        assert!(message.contains(&format!("line {line}")) && message.contains("minimum"), "{message}");
        assert!(Protocol::parse(&NANO.replace("split", "# split")).unwrap_err().contains("split"));
        assert!(Protocol::parse(&NANO.replace("0.01", "1.5")).unwrap_err().contains("min_fraction"));
        assert!(Protocol::parse(&NANO.replace("connectivity = 4", "connectivity = 6")).unwrap_err().contains("4 or 8"));
        assert!(Protocol::parse(&NANO.replace("\"both_heads\"", "\"magic\"")).unwrap_err().contains("magic"));
    }
}
