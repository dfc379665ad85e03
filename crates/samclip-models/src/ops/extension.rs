//! The operations as a backend extension: `Flex` runs the kernels, `Autodiff<Flex>` adds the
//! hand-written gradients. Other backends never come here ([`super`] asks the device first).

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, backend_extension};

use super::block::{self, BlockCache, BlockShape};
use super::flex::{self, Attention, Conv, Linear, Norm, Pointwise, SelfAttention, dense};
use samclip_kernels::Saved;

/// An optional tensor that the dispatch macro can route.
#[derive(ExtensionType)]
pub enum Maybe<B: Backend> {
    /// The tensor.
    Just(FloatTensor<B>),
    /// None.
    Nothing,
}

impl<B: Backend> Maybe<B> {
    pub(super) fn of(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Self::Nothing, Self::Just)
    }

    pub(super) fn option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Just(tensor) => Some(tensor),
            Self::Nothing => None,
        }
    }
}

/// Weights and biases of a pre-norm block, PyTorch's layouts.
#[derive(ExtensionType)]
#[allow(missing_docs)] // the fields are the layers' names
pub struct BlockTensors<B: Backend> {
    pub norm1_weight: FloatTensor<B>,
    pub norm1_bias: FloatTensor<B>,
    pub qkv_weight: FloatTensor<B>,
    pub qkv_bias: FloatTensor<B>,
    pub proj_weight: FloatTensor<B>,
    pub proj_bias: FloatTensor<B>,
    pub norm2_weight: FloatTensor<B>,
    pub norm2_bias: FloatTensor<B>,
    pub fc1_weight: FloatTensor<B>,
    pub fc1_bias: FloatTensor<B>,
    pub fc2_weight: FloatTensor<B>,
    pub fc2_bias: FloatTensor<B>,
}

/// See the functions of [`super`] for shapes and meaning.
#[backend_extension(Flex, Autodiff)]
pub trait KernelOps: Backend {
    /// [`super::linear`].
    fn sc_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
    ) -> FloatTensor<Self>;

    /// [`super::layer_norm`].
    fn sc_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;

    /// [`super::gelu`] and [`super::quick_gelu`].
    fn sc_pointwise(x: FloatTensor<Self>, op: Pointwise) -> FloatTensor<Self>;

    /// [`super::conv3x3`].
    fn sc_conv3x3(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        stride: usize,
    ) -> FloatTensor<Self>;

    /// [`super::attention`]; both relative terms or none.
    fn sc_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] rel_h: Maybe<Self>,
        #[extension_type] rel_w: Maybe<Self>,
        scale: f64,
        causal: bool,
    ) -> FloatTensor<Self>;

    /// [`super::self_attention`]; both relative tables or none.
    fn sc_self_attention(
        qkv: FloatTensor<Self>,
        #[extension_type] rows: Maybe<Self>,
        #[extension_type] cols: Maybe<Self>,
        heads: usize,
        scale: f64,
        causal: bool,
    ) -> FloatTensor<Self>;

    /// [`super::block`]; both relative tables or none.
    fn sc_block(
        x: FloatTensor<Self>,
        #[extension_type] weights: BlockTensors<Self>,
        #[extension_type] rows: Maybe<Self>,
        #[extension_type] cols: Maybe<Self>,
        shape: BlockShape,
        cache: BlockCache,
    ) -> FloatTensor<Self>;
}

impl KernelOps for Flex {
    fn sc_linear(x: FlexTensor, weight: FlexTensor, bias: Maybe<Flex>) -> FlexTensor {
        Linear::new(x, weight).forward(bias.option())
    }

    fn sc_layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, eps: f64) -> FlexTensor {
        Norm { x: dense(x), weight: dense(weight), eps }.forward(bias)
    }

    fn sc_pointwise(x: FlexTensor, op: Pointwise) -> FlexTensor {
        op.forward(x)
    }

    fn sc_conv3x3(x: FlexTensor, weight: FlexTensor, bias: Maybe<Flex>, stride: usize) -> FlexTensor {
        Conv::new(x, weight, stride).forward(bias.option())
    }

    fn sc_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        rel_h: Maybe<Flex>,
        rel_w: Maybe<Flex>,
        scale: f64,
        causal: bool,
    ) -> FlexTensor {
        let rel = rel_h.option().zip(rel_w.option()).map(|(h, w)| [h, w]);
        Attention::new([q, k, v], rel, scale, causal).forward().0
    }

    fn sc_self_attention(
        qkv: FlexTensor,
        rows: Maybe<Flex>,
        cols: Maybe<Flex>,
        heads: usize,
        scale: f64,
        causal: bool,
    ) -> FlexTensor {
        let rel = rows.option().zip(cols.option()).map(|(r, c)| [r, c]);
        SelfAttention::new(qkv, rel, heads, scale, causal).forward().0
    }

    fn sc_block(
        x: FlexTensor,
        weights: BlockTensors<Flex>,
        rows: Maybe<Flex>,
        cols: Maybe<Flex>,
        shape: BlockShape,
        cache: BlockCache,
    ) -> FlexTensor {
        block::forward(x, weights, [rows, cols], shape, &cache)
    }
}

/// Hands a gradient to its node, computing it only when there is one.
fn give(grads: &mut Gradients, node: Option<NodeId>, value: impl FnOnce() -> FlexTensor) {
    if let Some(id) = node {
        grads.register::<Flex>(id, value());
    }
}

/// An operation with its gradients; `State` is what the backward pass needs.
macro_rules! backward {
    ($name:ident, $state:ty, [$($n:literal),+], |$s:ident, $parents:ident, $grad:ident, $grads:ident| $body:block) => {
        #[derive(Debug)]
        struct $name;
        impl $name {
            fn gradients($s: $state, $parents: &[Option<NodeId>], $grad: FlexTensor, $grads: &mut Gradients) $body
        }
        $(impl Backward<Flex, $n> for $name {
            type State = $state;
            fn backward(self, ops: Ops<$state, $n>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<Flex>(&ops.node);
                let parents = ops.parents.map(|p| p.map(|n| n.id));
                Self::gradients(ops.state, &parents, grad, grads);
            }
        })+
    };
}

backward!(LinearOp, Linear, [2, 3], |s, parents, dy, grads| {
    let dy = dense(dy);
    give(grads, parents[0], || s.grad_x(&dy));
    give(grads, parents[1], || s.grad_weight(&dy));
    give(grads, parents.get(2).copied().flatten(), || flex::grad_bias(&dy));
});

backward!(NormOp, Norm, [3], |s, parents, dy, grads| {
    for (&node, grad) in parents.iter().zip(s.backward(dy)) {
        give(grads, node, || grad);
    }
});

backward!(PointwiseOp, (Pointwise, FlexTensor), [1], |s, parents, dy, grads| {
    give(grads, parents[0], || s.0.backward(&s.1, dy));
});

backward!(ConvOp, Conv, [2, 3], |s, parents, dy, grads| {
    let (dx, dw, db) = s.backward(dy, parents[0].is_some());
    if let Some(dx) = dx {
        give(grads, parents[0], || dx);
    }
    give(grads, parents[1], || dw);
    give(grads, parents.get(2).copied().flatten(), || db);
});

backward!(AttentionOp, (Attention, FlexTensor, Arc<Vec<f32>>), [3, 5], |s, parents, dy, grads| {
    let (qkv, rel) = s.0.backward(&s.1, &s.2, dy);
    for (&node, grad) in parents.iter().zip(qkv.into_iter().chain(rel.into_iter().flatten())) {
        give(grads, node, || grad);
    }
});

backward!(SelfAttentionOp, (SelfAttention, FlexTensor, Arc<Saved>), [1, 3], |s, parents, dy, grads| {
    let (dqkv, rel) = s.0.backward(&s.1, &s.2, dy);
    for (&node, grad) in parents.iter().zip([dqkv].into_iter().chain(rel.into_iter().flatten())) {
        give(grads, node, || grad);
    }
});

type Tracked<C> = FloatTensor<Autodiff<Flex, C>>;

/// Registers `output` with its gradients where a parent wants them.
macro_rules! finish {
    ($op:expr, $guards:expr, $state:expr, $output:expr) => {
        match $op.prepare::<C>($guards).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish($state, $output),
            OpsKind::UnTracked(prep) => prep.finish($output),
        }
    };
}

impl<C: CheckpointStrategy> KernelOps for Autodiff<Flex, C> {
    fn sc_linear(x: Tracked<C>, weight: Tracked<C>, bias: Maybe<Autodiff<Flex, C>>) -> Tracked<C> {
        let ((x, gx), (weight, gw)) = (x.into_parts(), weight.into_parts());
        let state = Linear::new(x, weight);
        match bias.option() {
            Some(bias) => {
                let (bias, gb) = bias.into_parts();
                let y = state.forward(Some(bias));
                finish!(LinearOp, [gx, gw, gb], state, y)
            }
            None => {
                let y = state.forward(None);
                finish!(LinearOp, [gx, gw], state, y)
            }
        }
    }

    fn sc_layer_norm(x: Tracked<C>, weight: Tracked<C>, bias: Tracked<C>, eps: f64) -> Tracked<C> {
        let ((x, gx), (weight, gw), (bias, gb)) = (x.into_parts(), weight.into_parts(), bias.into_parts());
        let state = Norm { x: dense(x), weight: dense(weight), eps };
        let y = state.forward(bias);
        finish!(NormOp, [gx, gw, gb], state, y)
    }

    fn sc_pointwise(x: Tracked<C>, op: Pointwise) -> Tracked<C> {
        let (x, guard) = x.into_parts();
        let x = dense(x);
        let y = op.forward(x.clone());
        finish!(PointwiseOp, [guard], (op, x), y)
    }

    fn sc_conv3x3(x: Tracked<C>, weight: Tracked<C>, bias: Maybe<Autodiff<Flex, C>>, stride: usize) -> Tracked<C> {
        let ((x, gx), (weight, gw)) = (x.into_parts(), weight.into_parts());
        let state = Conv::new(x, weight, stride);
        match bias.option() {
            Some(bias) => {
                let (bias, gb) = bias.into_parts();
                let y = state.forward(Some(bias));
                finish!(ConvOp, [gx, gw, gb], state, y)
            }
            None => {
                let y = state.forward(None);
                finish!(ConvOp, [gx, gw], state, y)
            }
        }
    }

    fn sc_attention(
        q: Tracked<C>,
        k: Tracked<C>,
        v: Tracked<C>,
        rel_h: Maybe<Autodiff<Flex, C>>,
        rel_w: Maybe<Autodiff<Flex, C>>,
        scale: f64,
        causal: bool,
    ) -> Tracked<C> {
        let ((q, gq), (k, gk), (v, gv)) = (q.into_parts(), k.into_parts(), v.into_parts());
        match rel_h.option().zip(rel_w.option()) {
            Some((h, w)) => {
                let ((h, gh), (w, gw)) = (h.into_parts(), w.into_parts());
                let state = Attention::new([q, k, v], Some([h, w]), scale, causal);
                let (y, lse) = state.forward();
                finish!(AttentionOp, [gq, gk, gv, gh, gw], (state, y.clone(), lse.into()), y)
            }
            None => {
                let state = Attention::new([q, k, v], None, scale, causal);
                let (y, lse) = state.forward();
                finish!(AttentionOp, [gq, gk, gv], (state, y.clone(), lse.into()), y)
            }
        }
    }

    fn sc_self_attention(
        qkv: Tracked<C>,
        rows: Maybe<Autodiff<Flex, C>>,
        cols: Maybe<Autodiff<Flex, C>>,
        heads: usize,
        scale: f64,
        causal: bool,
    ) -> Tracked<C> {
        let (qkv, guard) = qkv.into_parts();
        match rows.option().zip(cols.option()) {
            Some((r, c)) => {
                let ((r, gr), (c, gc)) = (r.into_parts(), c.into_parts());
                let state = SelfAttention::new(qkv, Some([r, c]), heads, scale, causal);
                let (y, saved) = state.forward();
                finish!(SelfAttentionOp, [guard, gr, gc], (state, y.clone(), saved.into()), y)
            }
            None => {
                let state = SelfAttention::new(qkv, None, heads, scale, causal);
                let (y, saved) = state.forward();
                finish!(SelfAttentionOp, [guard], (state, y.clone(), saved.into()), y)
            }
        }
    }

    /// Has no gradients: [`super::block`] does not come here.
    fn sc_block(
        _: Tracked<C>,
        _: BlockTensors<Autodiff<Flex, C>>,
        _: Maybe<Autodiff<Flex, C>>,
        _: Maybe<Autodiff<Flex, C>>,
        _: BlockShape,
        _: BlockCache,
    ) -> Tracked<C> {
        unreachable!("the fused block is for inference")
    }
}
