//! A whole pre-norm block as one kernel, for inference on the CPU.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::flex::{Flex, FlexTensor};
use samclip_kernels as kernels;
use samclip_kernels::{Norm, PackedLinear, RelTables, TokenGrid};

use super::extension::{BlockTensors, Maybe};
use super::flex::{dense, dims, precision, slice, tensor};
pub use samclip_kernels::Activation as BlockActivation;

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
pub struct BlockCache(Arc<Mutex<Option<Arc<Packed>>>>);

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
        if let Some(packed) = slot.as_ref().filter(same) {
            return packed.clone();
        }
        let packed = Arc::new(Packed::new(weights, shape));
        *slot = Some(packed.clone());
        packed
    }
}

impl Packed {
    fn new(weights: [FlexTensor; 12], shape: BlockShape) -> Self {
        let weights = weights.map(dense);
        let [n1w, n1b, qkv, qkv_b, proj, proj_b, n2w, n2b, fc1, fc1_b, fc2, fc2_b] = weights.each_ref();
        let norm = |w, b| Norm { weight: slice(w).to_vec(), bias: slice(b).to_vec(), eps: shape.eps as f32 };
        let linear = |w, b| PackedLinear::new(precision(), slice(w), dims(w)[1], slice(b));
        let block = kernels::Block {
            norm1: norm(n1w, n1b),
            qkv: linear(qkv, qkv_b),
            proj: linear(proj, proj_b),
            norm2: norm(n2w, n2b),
            fc1: linear(fc1, fc1_b),
            fc2: linear(fc2, fc2_b),
            activation: shape.activation,
            heads: shape.heads,
            window: shape.window,
            causal: shape.causal,
            precision: precision(),
        };
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
