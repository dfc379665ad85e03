//! CLIP's text tower: a causal transformer read at the end-of-text token.
//!
//! Paper: CLIP (arXiv:2103.00020) §2.4. Reference: open_clip/model.py, `CLIP.encode_text`.
//! Parity: tests/parity_clip.rs, stage by stage, max |Δ| <= 1e-5.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};

use super::TextConfig;
use super::tokenizer::Tokenizer;
use super::transformer::{EPS, Transformer, TransformerConfig};
use crate::ModelError;
use crate::init::Init;
use crate::layers::{Activation, Embedding, LayerNorm};
use crate::ops;

/// Tokens to embeddings.
#[derive(Module, Debug)]
pub struct TextTower {
    /// [V, D].
    pub token_embedding: Embedding,
    /// [T, D].
    pub positional_embedding: Param<Tensor<2>>,
    /// The blocks.
    pub transformer: Transformer,
    /// Norm after the blocks.
    pub ln_final: LayerNorm,
    /// [D, E].
    pub text_projection: Param<Tensor<2>>,
}

impl TextTower {
    pub(super) fn new(config: &TextConfig, embed_dim: usize, act: Activation, init: &mut Init) -> Self {
        let &TextConfig { context_length, vocab_size, width, layers, heads } = config;
        Self {
            token_embedding: Embedding::new(vocab_size, width, 0.02, init),
            positional_embedding: init.normal([context_length, width], 0.01),
            transformer: Transformer::new(&TransformerConfig { width, layers, heads, act }, init),
            ln_final: LayerNorm::new(width, EPS, init),
            text_projection: init.normal([width, embed_dim], (width as f32).powf(-0.5)),
        }
    }

    /// `tokens` [B, T], T at most the context length -> [B, E], not normalised: the reference's
    /// `encode_text`. The row's largest id marks its end.
    ///
    /// # Errors
    /// When T exceeds the context length.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Result<Tensor<2>, ModelError> {
        let x = self.transformer.forward(self.embed(tokens.clone())?, true); // [B, T, D]
        let x = self.ln_final.forward(x);
        Ok(self.pool(x, tokens))
    }

    /// Token plus position embedding: [B, T] -> [B, T, D].
    ///
    /// # Errors
    /// When T exceeds the context length.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, ModelError> {
        let [batch, t] = tokens.dims();
        let positions = self.positional_embedding.val();
        let [context, dim] = positions.dims();
        if t == 0 || t > context {
            return Err(ModelError::Input(format!("{t} tokens: expected 1 to {context}")));
        }
        let x = self.token_embedding.weight.val().select(0, tokens.reshape([batch * t])); // [B·T, D]
        Ok(x.reshape([batch, t, dim]) + positions.narrow(0, 0, t).unsqueeze())
    }

    /// The end token's vector, projected. `x` [B, T, D] -> [B, E].
    pub fn pool(&self, x: Tensor<3>, tokens: Tensor<2, Int>) -> Tensor<2> {
        let [batch, _, dim] = x.dims();
        let end = tokens.argmax(1).reshape([batch, 1, 1]).expand([batch, 1, dim]); // [B, 1, D]
        let x = x.gather(1, end).squeeze_dim::<2>(1); //                              [B, D]
        ops::linear(x, self.text_projection.val().transpose(), None) // [B, E]
    }

    /// Embeds texts: [B, E], not normalised. Columns that are padding in every row are not computed:
    /// the causal mask keeps them out of the result.
    ///
    /// # Errors
    /// When there is no text, or one is empty after trimming.
    pub fn encode<S: AsRef<str>>(&self, texts: &[S]) -> Result<Tensor<2>, ModelError> {
        if texts.is_empty() || texts.iter().any(|text| text.as_ref().trim().is_empty()) {
            return Err(ModelError::EmptyText);
        }
        self.encode_unchecked(texts)
    }

    /// As [`Self::encode`], also for empty texts (CLIP Surgery's redundant feature is one).
    pub(super) fn encode_unchecked<S: AsRef<str>>(&self, texts: &[S]) -> Result<Tensor<2>, ModelError> {
        let [context, _] = self.positional_embedding.val().dims();
        let rows: Vec<Vec<u32>> =
            texts.iter().map(|text| Tokenizer::clip().tokenize_one(text.as_ref(), context)).collect();
        let used = |row: &Vec<u32>| row.iter().rposition(|id| *id != 0).map_or(0, |last| last + 1);
        let longest = rows.iter().map(used).max().unwrap_or(context);
        let ids: Vec<i64> = rows.iter().flat_map(|row| &row[..longest]).map(|id| i64::from(*id)).collect();
        let device = self.positional_embedding.val().device();
        self.forward(Tensor::from_data(TensorData::new(ids, [texts.len(), longest]), &device))
    }
}
