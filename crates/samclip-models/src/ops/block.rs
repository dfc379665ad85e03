//! A whole pre-norm block as one kernel, for inference on the CPU.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::flex::{Flex, FlexTensor};
use burn::tensor::Tensor;
use samclip_kernels as kernels;
use samclip_kernels::{Norm, PackedLinear, RelTables, TokenGrid};

use super::BlockWeights;
use super::extension::{BlockTensors, Maybe};
use super::flex::{dense, dims, precision, slice, tensor};
use crate::ModelError;
pub use samclip_kernels::{Activation as BlockActivation, PackedBytes};

/// What a block does beside its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockShape {
    /// Attention heads.
    pub heads: usize,
    /// Window side in tokens; 0 is global attention.
    pub window: usize,
    /// Tokens see only what is before them.
    pub causal: bool,
    /// Of the MLP.
    pub activation: BlockActivation,
    /// Of both norms.
    pub eps: f64,
}

/// The packed weights of one block, made at its first use. They belong to the very tensors they
/// were made from: other tensors, another precision or another shape pack again.
#[derive(Clone, Default)]
pub struct BlockCache(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    packed: Option<Arc<Packed>>,
    /// Words for the next packing: qkv, proj, fc1, fc2.
    stored: Option<[PackedBytes; 4]>,
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockCache")
    }
}

struct Packed {
    block: kernels::Block,
    /// Kept, so that their addresses stay theirs.
    weights: [FlexTensor; 12],
    shape: BlockShape,
}

fn address(t: &FlexTensor) -> usize {
    t.as_slice::<f32>().map_or(0, |s| s.as_ptr() as usize)
}

impl BlockCache {
    fn get(&self, weights: [FlexTensor; 12], shape: BlockShape) -> Arc<Packed> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |packed: &&Arc<Packed>| {
            let addresses = packed.weights.iter().map(address).eq(weights.iter().map(address));
            addresses && packed.shape == shape && packed.block.precision == precision() && packed.block.fits(precision())
        };
        if let Some(packed) = slot.packed.as_ref().filter(same) {
            return packed.clone();
        }
        let packed = Arc::new(Packed::new(weights, shape, slot.stored.take()));
        slot.packed = Some(packed.clone());
        packed
    }
}

/// A block whose weights can be packed before their first use, or read packed from a file.
pub struct Packable {
    /// Names of the weights of qkv, proj, fc1, fc2.
    pub names: [String; 4],
    pub(crate) weights: BlockWeights,
    pub(crate) shape: BlockShape,
    pub(crate) cache: BlockCache,
}

impl Packable {
    /// [out, in] of the four weights.
    fn sizes(&self) -> [[usize; 2]; 4] {
        let w = &self.weights;
        [&w.qkv, &w.proj, &w.fc1, &w.fc2].map(|(weight, _)| weight.dims())
    }

    /// Packs the weights for the precision in use, or takes them from `stored`, which must be in the order that
    /// [`packed_layout`] names. Nothing happens where there is no kernel for whole blocks.
    ///
    /// # Errors
    /// Stored words of another length than the weight has; the name of the weight is told.
    pub fn pack(self, stored: Option<[PackedBytes; 4]>) -> Result<(), ModelError> {
        for (i, [n, k]) in self.sizes().into_iter().enumerate() {
            let (Some(stored), wanted) = (&stored, PackedLinear::packed_len(precision(), (n, k))) else { break };
            let found = (*stored[i]).as_ref().len();
            if found != wanted {
                return Err(ModelError::Input(format!("packed `{}` has {found} bytes, expected {wanted}", self.names[i])));
            }
        }
        self.cache.0.lock().unwrap_or_else(PoisonError::into_inner).stored = stored;
        let dim = self.weights.norm1.0.dims()[0];
        // No image at all: packing is what is left of the block.
        let nothing = Tensor::<3>::zeros([0, 1, dim], &self.weights.norm1.0.device());
        super::block(&nothing, || self.weights, || None, self.shape, &self.cache);
        Ok(())
    }

    /// The packed words of the four weights, after [`Packable::pack`] of the same block.
    pub fn words(&self) -> Option<[Vec<u8>; 4]> {
        let slot = self.cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        let block = &slot.packed.as_ref()?.block;
        Some([&block.qkv, &block.proj, &block.fc1, &block.fc2].map(|linear| linear.words().to_vec()))
    }
}

/// Names the order of packed words on this processor at the precision in use.
pub fn packed_layout() -> String {
    PackedLinear::layout(precision())
}

impl Packed {
    fn new(weights: [FlexTensor; 12], shape: BlockShape, stored: Option<[PackedBytes; 4]>) -> Self {
        let weights = weights.map(dense);
        let [n1w, n1b, qkv, qkv_b, proj, proj_b, n2w, n2b, fc1, fc1_b, fc2, fc2_b] = weights.each_ref();
        let norm = |w, b| Norm { weight: slice(w).to_vec(), bias: slice(b).to_vec(), eps: shape.eps as f32 };
        let linear = |i: usize, w, b| {
            let size = (dims(w)[0], dims(w)[1]);
            let stored = stored.as_ref().and_then(|s| PackedLinear::from_words(precision(), size, slice(b), &s[i]).ok());
            stored.unwrap_or_else(|| PackedLinear::new(precision(), slice(w), size.1, slice(b)))
        };
        let block = kernels::Block {
            norm1: norm(n1w, n1b),
            qkv: linear(0, qkv, qkv_b),
            proj: linear(1, proj, proj_b),
            norm2: norm(n2w, n2b),
            fc1: linear(2, fc1, fc1_b),
            fc2: linear(3, fc2, fc2_b),
            activation: shape.activation,
            heads: shape.heads,
            window: shape.window,
            causal: shape.causal,
            precision: precision(),
        };
        // The packed form is the copy to work with; pages of a mapped file come back for who reads them again.
        [qkv, proj, fc1, fc2].into_iter().for_each(|w| samclip_weights::unload(slice(w)));
        Self { block, weights, shape }
    }
}

/// `x` [B, h, w, D] or [B, N, D] through the block.
pub(super) fn forward(
    x: FlexTensor,
    weights: BlockTensors<Flex>,
    rel: [Maybe<Flex>; 2],
    shape: BlockShape,
    cache: &BlockCache,
) -> FlexTensor {
    let w = weights;
    let weights = [
        w.norm1_weight, w.norm1_bias, w.qkv_weight, w.qkv_bias, w.proj_weight, w.proj_bias, w.norm2_weight,
        w.norm2_bias, w.fc1_weight, w.fc1_bias, w.fc2_weight, w.fc2_bias,
    ];
    let packed = cache.get(weights, shape);
    let (size, x) = (dims(&x), dense(x));
    let mut y = slice(&x).to_vec();
    let tokens = match *size.as_slice() {
        [batch, h, w, _] => TokenGrid { batch, grid: (h, w) },
        [batch, n, _] => TokenGrid { batch, grid: (1, n) },
        _ => unreachable!("a block takes maps or sequences"),
    };
    let rel = rel.map(|r| r.option().map(dense));
    let tables = match &rel {
        [Some(rows), Some(cols)] => {
            let side = |t: &FlexTensor| dims(t)[0];
            Some(RelTables { rows: slice(rows), cols: slice(cols), grid: (side(rows), side(cols)) })
        }
        _ => None,
    };
    packed.block.forward(&mut y, tokens, tables);
    tensor(y, size)
}
