//! Checkpoint names of other libraries to the reference code's, by declarative tables ([`tables`]).
//!
//! Canonical names are Meta's for SAM, MobileSAM's for MobileSAM, OpenAI's for CLIP and our own for SAM-CLIP.
//! A tensor that no rule names is an error; one that is left out on purpose has a `Drop` rule with a reason.
//! Parity: tests/layouts.rs, bit-equal against transformers, segment-anything and open_clip.

mod pattern;
mod tables;

use std::collections::BTreeMap;

use crate::error::{Problem, Problems, Result, WeightsError};
use crate::state_dict::StateDict;
use crate::tensor::TensorData;

/// Who named the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// segment-anything.
    Meta,
    /// transformers `SamModel`.
    HfSam,
    /// MobileSAM: segment-anything with TinyViT.
    MobileSam,
    /// OpenAI's CLIP and open_clip, which agree.
    OpenAiClip,
    /// CLIP Surgery's modified tower (`attn.qkv`, `attn.proj`).
    ClipSurgery,
    /// transformers `CLIPModel`.
    HfClip,
    /// Ours: SAM's names and `clip_head`.
    SamClip,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Meta,
        Self::HfSam,
        Self::MobileSam,
        Self::OpenAiClip,
        Self::ClipSurgery,
        Self::HfClip,
        Self::SamClip,
    ];

    /// Name for messages and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta_sam",
            Self::HfSam => "hf_sam",
            Self::MobileSam => "mobile_sam",
            Self::OpenAiClip => "openai_clip",
            Self::ClipSurgery => "clip_surgery",
            Self::HfClip => "hf_clip",
            Self::SamClip => "samclip",
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One line of a key map. In patterns `#` is a number, `*` any run of segments (once, first or last).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The same tensor under another name.
    Rename(&'static str, &'static str),
    /// A second copy of a tensor; when both are there they must be bit-equal.
    Alias(&'static str, &'static str),
    /// A matrix stored the other way round.
    Transpose(&'static str, &'static str),
    /// Query, key and value joined along the first axis, in this order.
    Concat([&'static str; 3], &'static str),
    /// Not part of the model, with the reason.
    Drop(&'static str, &'static str),
}

/// The rules of a layout; the first one that matches a name applies.
#[derive(Debug, Clone, Copy)]
pub struct KeyMap {
    /// In order.
    pub rules: &'static [Rule],
}

/// The table of a layout.
pub fn key_map(layout: Layout) -> KeyMap {
    let rules = match layout {
        Layout::Meta => tables::META,
        Layout::HfSam => tables::HF_SAM,
        Layout::MobileSam => tables::MOBILE_SAM,
        Layout::OpenAiClip => tables::OPENAI_CLIP,
        Layout::ClipSurgery => tables::CLIP_SURGERY,
        Layout::HfClip => tables::HF_CLIP,
        Layout::SamClip => tables::SAM_CLIP,
    };
    KeyMap { rules }
}

/// Guesses the layout from names that only one library uses.
pub fn detect_layout(state: &StateDict) -> Option<Layout> {
    let prefix = wrapper(state);
    let has = |name: &str| state.get(&format!("{prefix}{name}")).is_some();
    Some(if state.has_prefix(&format!("{prefix}clip_head.")) {
        Layout::SamClip
    } else if has("image_encoder.patch_embed.seq.0.c.weight") {
        Layout::MobileSam
    } else if has("image_encoder.patch_embed.proj.weight") {
        Layout::Meta
    } else if has("vision_encoder.patch_embed.projection.weight") {
        Layout::HfSam
    } else if has("vision_model.embeddings.class_embedding") {
        Layout::HfClip
    } else if has("visual.class_embedding") {
        let surgery = |name: &str| name.starts_with("visual.") && name.ends_with(".attn.qkv.weight");
        let found = state.names().any(|name| name.strip_prefix(prefix).is_some_and(surgery));
        if found { Layout::ClipSurgery } else { Layout::OpenAiClip }
    } else {
        return None;
    })
}

/// [`detect_layout`], or an error that shows what was found.
pub fn require_layout(state: &StateDict) -> Result<Layout> {
    detect_layout(state).ok_or_else(|| {
        let first: Vec<&str> = state.names().take(4).collect();
        WeightsError::UnknownLayout { found: format!("{} tensors: {}, ...", state.len(), first.join(", ")) }
    })
}

/// A tensor that a `Drop` rule left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The tensor.
    pub name: String,
    /// Why it is not part of the model.
    pub reason: &'static str,
}

/// Renames a checkpoint to the reference code's names.
pub fn to_canonical(state: StateDict, layout: Layout) -> Result<StateDict> {
    to_canonical_report(state, layout).map(|(state, _)| state)
}

/// The same, with what was left out and why.
pub fn to_canonical_report(state: StateDict, layout: Layout) -> Result<(StateDict, Vec<Dropped>)> {
    let prefix = wrapper(&state);
    let mut mapping = Mapping { rules: key_map(layout).rules, ..Mapping::default() };
    mapping.out.metadata = state.metadata.clone();
    for (name, tensor) in state {
        mapping.add(name.strip_prefix(prefix).unwrap_or(&name), tensor)?;
    }
    mapping.finish()
}

/// `module.` when every name has it: `DistributedDataParallel` around the model.
fn wrapper(state: &StateDict) -> &'static str {
    let wrapped = !state.is_empty() && state.names().all(|name| name.starts_with("module."));
    if wrapped { "module." } else { "" }
}

/// A joined tensor's parts: name and value, in order of the rule.
type Parts = [(String, Option<TensorData>); 3];

#[derive(Default)]
struct Mapping {
    rules: &'static [Rule],
    out: StateDict,
    joins: BTreeMap<String, Parts>,
    dropped: Vec<Dropped>,
    problems: Vec<Problem>,
}

impl Mapping {
    fn add(&mut self, name: &str, tensor: TensorData) -> Result<()> {
        let fail = |reason: String| WeightsError::tensor(name, reason);
        for rule in self.rules {
            match *rule {
                Rule::Rename(from, to) | Rule::Alias(from, to) => {
                    let Some(to) = pattern::rewrite(from, to, name) else {
                        continue;
                    };
                    let alias = matches!(rule, Rule::Alias(..));
                    return self.put(name, to, tensor, alias);
                }
                Rule::Transpose(from, to) => {
                    let Some(to) = pattern::rewrite(from, to, name) else {
                        continue;
                    };
                    return self.put(name, to, tensor.transposed().map_err(fail)?, false);
                }
                Rule::Concat(from, to) => {
                    let Some((at, to)) =
                        from.iter().enumerate().find_map(|(i, f)| Some((i, pattern::rewrite(f, to, name)?)))
                    else {
                        continue;
                    };
                    let part = |f: &str| (pattern::rewrite(from[at], f, name).unwrap_or_default(), None);
                    let parts = self.joins.entry(to).or_insert_with(|| from.map(part));
                    parts[at].1 = Some(tensor);
                    return Ok(());
                }
                Rule::Drop(from, reason) => {
                    if pattern::rewrite(from, "", name).is_some() {
                        self.dropped.push(Dropped { name: name.to_owned(), reason });
                        return Ok(());
                    }
                }
            }
        }
        self.problems.push(Problem::NoRule { name: name.to_owned() });
        Ok(())
    }

    fn put(&mut self, from: &str, to: String, tensor: TensorData, alias: bool) -> Result<()> {
        match self.out.get(&to) {
            None => {}
            Some(other) if *other == tensor => return Ok(()),
            Some(_) if alias || self.is_alias_target(&to) => {
                return Err(WeightsError::tensor(
                    from,
                    format!("differs from its twin, which is also `{to}`"),
                ));
            }
            Some(_) => {
                return Err(WeightsError::tensor(
                    from,
                    format!("maps to `{to}`, and so does another tensor"),
                ));
            }
        }
        self.out.insert(to, tensor);
        Ok(())
    }

    fn is_alias_target(&self, name: &str) -> bool {
        self.rules.iter().any(|rule| matches!(rule, Rule::Alias(_, to) if *to == name))
    }

    fn finish(mut self) -> Result<(StateDict, Vec<Dropped>)> {
        for (to, parts) in std::mem::take(&mut self.joins) {
            let absent = parts.iter().filter(|(_, t)| t.is_none());
            let absent: Vec<Problem> =
                absent.map(|(name, _)| Problem::Missing { name: name.clone(), shape: Vec::new() }).collect();
            if !absent.is_empty() {
                self.problems.extend(absent);
                continue;
            }
            let tensors: Vec<&TensorData> = parts.iter().filter_map(|(_, t)| t.as_ref()).collect();
            let joined =
                TensorData::concatenated(&tensors).map_err(|e| WeightsError::tensor(&parts[0].0, e))?;
            self.put(&parts[0].0, to, joined, false)?;
        }
        match self.problems {
            problems if problems.is_empty() => Ok((self.out, self.dropped)),
            problems => Err(WeightsError::Mismatch(Problems(problems))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(names: &[(&str, f32)]) -> StateDict {
        names.iter().map(|&(n, v)| (n.to_owned(), TensorData::from_f32(&[1, 2], &[v, v]))).collect()
    }

    #[test]
    fn every_pattern_is_well_formed() {
        for layout in Layout::ALL {
            for rule in key_map(layout).rules {
                let (from, to): (Vec<&str>, &str) = match rule {
                    Rule::Rename(f, t) | Rule::Alias(f, t) | Rule::Transpose(f, t) => (vec![f], t),
                    Rule::Concat(f, t) => (f.to_vec(), t),
                    Rule::Drop(f, reason) => {
                        assert!(!reason.is_empty(), "{layout}: {f}");
                        continue;
                    }
                };
                for from in from {
                    for wild in ['#', '*'] {
                        assert_eq!(
                            from.matches(wild).count(),
                            to.matches(wild).count(),
                            "{layout}: {from} -> {to}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_missing_third_of_qkv_is_named() {
        let s = state(&[
            ("vision_model.encoder.layers.3.self_attn.q_proj.weight", 1.0),
            ("vision_model.encoder.layers.3.self_attn.v_proj.weight", 2.0),
        ]);
        let message = to_canonical(s, Layout::HfClip).unwrap_err().to_string();
        assert!(
            message.contains("missing `vision_model.encoder.layers.3.self_attn.k_proj.weight`"),
            "{message}"
        );
    }

    #[test]
    fn thirds_are_joined_in_order_whatever_the_name_order() {
        let p = "text_model.encoder.layers.0.self_attn";
        let s = state(&[
            (&format!("{p}.q_proj.bias"), 1.0),
            (&format!("{p}.k_proj.bias"), 2.0),
            (&format!("{p}.v_proj.bias"), 3.0),
        ]);
        let s = to_canonical(s, Layout::HfClip).unwrap();
        let joined = s.get("transformer.resblocks.0.attn.in_proj_bias").unwrap();
        assert_eq!(joined.to_f32(), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn twins_must_agree() {
        let names = [
            "shared_image_embedding.positional_embedding",
            "prompt_encoder.shared_embedding.positional_embedding",
        ];
        let to = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix";
        for one in names {
            assert!(to_canonical(state(&[(one, 1.0)]), Layout::HfSam).unwrap().get(to).is_some());
        }
        assert_eq!(to_canonical(state(&[(names[0], 1.0), (names[1], 1.0)]), Layout::HfSam).unwrap().len(), 1);
        let e = to_canonical(state(&[(names[0], 1.0), (names[1], 2.0)]), Layout::HfSam).unwrap_err();
        assert!(e.to_string().contains("twin"), "{e}");
    }

    #[test]
    fn drops_are_reported_and_unknown_names_refused() {
        let s = state(&[("visual.class_embedding", 0.0), ("context_length", 1.0)]);
        assert_eq!(detect_layout(&s), Some(Layout::OpenAiClip));
        let (s, dropped) = to_canonical_report(s, Layout::OpenAiClip).unwrap();
        assert_eq!((s.len(), dropped[0].name.as_str()), (1, "context_length"));
        let e = to_canonical(state(&[("vision_encoder.surprise", 0.0)]), Layout::HfSam).unwrap_err();
        assert!(e.to_string().contains("unexpected `vision_encoder.surprise`"), "{e}");
    }

    #[test]
    fn data_parallel_prefix() {
        let s = state(&[("module.image_encoder.patch_embed.proj.weight", 1.0)]);
        assert_eq!(detect_layout(&s), Some(Layout::Meta));
        assert!(
            to_canonical(s, Layout::Meta).unwrap().get("image_encoder.patch_embed.proj.weight").is_some()
        );
    }

    #[test]
    fn unknown_layout_shows_names() {
        let e = require_layout(&state(&[("foo.bar", 1.0)])).unwrap_err();
        assert!(e.to_string().contains("foo.bar") && e.hint().is_some());
    }
}
