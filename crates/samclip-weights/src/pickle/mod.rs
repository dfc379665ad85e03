//! The subset of Python's pickle that PyTorch checkpoints use, read as data.
//!
//! Reference: CPython `Lib/pickletools.py` (opcodes), torch `torch/_utils.py` (`_rebuild_tensor_v2`),
//! `torch/serialization.py` (`persistent_id`), `torch/csrc/jit/serialization/pickler.cpp` (TorchScript).
//! Parity: tests/torch.rs, against files written by PyTorch.
//!
//! Nothing is executed: a global is a name looked up in a fixed table ([`globals`]), a call is a `match` on
//! that table, and everything else is an error. Objects live in one arena addressed by index, so cycles and
//! shared references cost nothing, and dropping it cannot recurse. Work and memory are bounded by the
//! length of the pickle and by [`Limits`].

mod globals;
mod machine;
mod objects;

pub(crate) use globals::Dialect;
pub(crate) use machine::load;

use std::rc::Rc;

use crate::tensor::DType;

/// Bounds of one pickle; a state dict of SAM ViT-H needs a fiftieth of each.
pub(crate) struct Limits;

impl Limits {
    /// Bytes of the stream.
    pub const BYTES: usize = 64 << 20;
    /// Instructions.
    pub const OPCODES: usize = 1_000_000;
    /// Remembered objects.
    pub const MEMO: usize = 250_000;
    /// Values on the stack.
    pub const STACK: usize = 250_000;
    /// Open marks.
    pub const MARKS: usize = 1_000;
    /// Bytes of a global's module and name together.
    pub const GLOBAL: usize = 1_024;
    /// Tensors.
    pub const TENSORS: usize = 65_536;
    /// Items of a call's or a persistent id's tuple.
    pub const ARGUMENTS: usize = 16;
    /// Bytes of a storage's key.
    pub const KEY: usize = 256;
    /// Axes of a tensor (PyTorch's own limit).
    pub const RANK: usize = 64;
}

/// Index of an object in its [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(u32);

/// A reference to a record of the archive, by the persistent id of the pickle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Element type; `None` for an untyped storage, whose `numel` counts bytes.
    pub dtype: Option<DType>,
    /// Name of the record below `data/`.
    pub key: String,
    /// Elements.
    pub numel: usize,
}

/// A strided view of a storage, all in elements; nothing is checked against the storage yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub storage: Storage,
    pub dtype: DType,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// An object of the pickle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Str(Box<str>),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(globals::Global),
    Storage(Box<Storage>),
    Tensor(Box<View>),
    /// An instance of a TorchScript class: its name and attributes.
    Object {
        class: Rc<str>,
        state: Option<Id>,
    },
}

impl Node {
    /// A word for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Float => "a float",
            Self::Str(_) => "a string",
            Self::Bytes => "bytes",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Global(_) => "a global",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Object { .. } => "an object",
        }
    }
}

/// All objects of a pickle and the one it returns.
#[derive(Debug)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    /// What `STOP` found on the stack.
    pub root: Id,
}

impl Graph {
    /// The object.
    pub fn get(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The text of a string object.
    pub fn str(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Str(s) => Some(s),
            _ => None,
        }
    }
}
