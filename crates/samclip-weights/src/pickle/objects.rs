//! Objects: containers, globals, the few calls that build tensors, references to storages.

use super::globals::{self, Global};
use super::machine::{Fault, Machine, Step};
use super::{Id, Limits, Node, Storage, View};

impl Machine<'_> {
    pub(super) fn get(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(super) fn append(&mut self, items: Vec<Id>) -> Step {
        let id = self.top()?;
        match &mut self.nodes[id.0 as usize] {
            Node::List(list) => list.extend(items),
            other => return Err(format!("append to {}", other.kind()).into()),
        }
        Ok(())
    }

    pub(super) fn set(&mut self, items: &[Id]) -> Step {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err("a key without a value".into());
        };
        let id = self.top()?;
        match &mut self.nodes[id.0 as usize] {
            Node::Dict(dict) => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            other => return Err(format!("set an item of {}", other.kind()).into()),
        }
        Ok(())
    }

    pub(super) fn global(&mut self) -> Step {
        let (module, name) = (self.line()?, self.line()?);
        self.push_global(&module, &name)
    }

    pub(super) fn stack_global(&mut self) -> Step {
        let ids = self.pop_many(2)?;
        let (Node::Str(module), Node::Str(name)) = (self.get(ids[0]), self.get(ids[1])) else {
            return Err("a global whose name is not a string".into());
        };
        if module.len() + name.len() > Limits::GLOBAL {
            return Err("a global with an overlong name".into());
        }
        let (module, name) = (module.to_string(), name.to_string());
        self.push_global(&module, &name)
    }

    fn push_global(&mut self, module: &str, name: &str) -> Step {
        let global = globals::find(self.dialect, module, name);
        let global = global.ok_or_else(|| Fault::Global(printable(&format!("{module}.{name}"))))?;
        self.push(Node::Global(global))
    }

    pub(super) fn new_object(&mut self) -> Step {
        let ids = self.pop_many(2)?;
        match (self.get(ids[0]), self.get(ids[1])) {
            (Node::Global(Global::Class(class)), Node::Tuple(args)) if args.is_empty() => {
                let class = class.clone();
                self.push(Node::Object { class, state: None })
            }
            _ => Err("an object of something that is not a TorchScript class".into()),
        }
    }

    pub(super) fn build(&mut self) -> Step {
        let value = self.pop()?;
        let id = self.top()?;
        match &mut self.nodes[id.0 as usize] {
            Node::Object { state, .. } => *state = Some(value),
            // Attributes of an `OrderedDict`: PyTorch hangs `_metadata` (module versions) there.
            Node::Dict(_) => {}
            other => return Err(format!("attributes on {}", other.kind()).into()),
        }
        Ok(())
    }

    pub(super) fn reduce(&mut self) -> Step {
        let ids = self.pop_many(2)?;
        let args = match self.get(ids[1]) {
            Node::Tuple(args) if args.len() <= Limits::ARGUMENTS => args.clone(),
            _ => return Err("a call whose arguments are not a short tuple".into()),
        };
        let Node::Global(global) = self.get(ids[0]) else {
            return Err(format!("a call of {}", self.get(ids[0]).kind()).into());
        };
        match (global.clone(), args.as_slice()) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::OrderedDict, &[pairs]) => self.ordered_dict(pairs),
            (Global::RebuildTensor, &[storage, offset, shape, strides])
            | (Global::RebuildTensorV2, &[storage, offset, shape, strides, ..]) => {
                self.view([storage, offset, shape, strides], None)
            }
            (Global::RebuildTensorV3, &[storage, offset, shape, strides, _, _, dtype, ..]) => {
                self.view([storage, offset, shape, strides], Some(dtype))
            }
            (Global::RebuildParameter, &[data, _, _]) if matches!(self.get(data), Node::Tensor(_)) => {
                self.stack.push(data);
                Ok(())
            }
            (Global::Size, &[items]) if matches!(self.get(items), Node::Tuple(_) | Node::List(_)) => {
                self.stack.push(items);
                Ok(())
            }
            (Global::JitList, &[value]) | (Global::JitTypeTag, &[value, _]) => {
                self.stack.push(value);
                Ok(())
            }
            (global, args) => Err(format!("a call of {global:?} with {} arguments", args.len()).into()),
        }
    }

    /// `OrderedDict([[key, value], ...])`, as Python 2 wrote it.
    fn ordered_dict(&mut self, pairs: Id) -> Step {
        let mut dict = Vec::new();
        for &pair in self.items(pairs)? {
            match self.items(pair)? {
                &[key, value] => dict.push((key, value)),
                _ => return Err("a pair that is not two items".into()),
            }
        }
        // The one call that copies a list: a memoised list could be copied at every instruction.
        self.copied += dict.len();
        if self.copied > Limits::OPCODES {
            return Err("too many dict items".into());
        }
        self.push(Node::Dict(dict))
    }

    fn items(&self, id: Id) -> Step<&[Id]> {
        match self.get(id) {
            Node::Tuple(items) | Node::List(items) => Ok(items),
            other => Err(format!("{}, expected a sequence", other.kind()).into()),
        }
    }

    fn size(&self, id: Id) -> Step<usize> {
        match self.get(id) {
            &Node::Int(v) => usize::try_from(v).map_err(|_| format!("{v}, expected a size").into()),
            other => Err(format!("{}, expected a size", other.kind()).into()),
        }
    }

    fn sizes(&self, id: Id) -> Step<Vec<usize>> {
        let items = self.items(id)?;
        if items.len() > Limits::RANK {
            return Err(format!("a tensor of {} axes", items.len()).into());
        }
        items.iter().map(|&id| self.size(id)).collect()
    }

    fn view(&mut self, [storage, offset, shape, strides]: [Id; 4], dtype: Option<Id>) -> Step {
        let Node::Storage(storage) = self.get(storage) else {
            return Err(format!("a tensor of {}, expected a storage", self.get(storage).kind()).into());
        };
        let mut storage = storage.clone();
        let dtype = match (storage.dtype, dtype.map(|id| self.get(id))) {
            (Some(dtype), None) => dtype,
            (None, Some(&Node::Global(Global::DType(dtype)))) => {
                storage.numel /= dtype.size();
                dtype
            }
            _ => return Err("a tensor without an element type".into()),
        };
        let (offset, shape, strides) = (self.size(offset)?, self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(format!("a tensor of {} axes and {} strides", shape.len(), strides.len()).into());
        }
        self.tensors += 1;
        if self.tensors > Limits::TENSORS {
            return Err(format!("more than {} tensors", Limits::TENSORS).into());
        }
        self.push(Node::Tensor(Box::new(View { storage: *storage, dtype, offset, shape, strides })))
    }

    /// `('storage', class, key, location, numel)`.
    pub(super) fn persistent(&mut self) -> Step {
        let id = self.pop()?;
        let &[tag, class, key, _location, numel, ..] = self.items(id)? else {
            return Err("a persistent id that is not a storage".into());
        };
        match (self.get(tag), self.get(class), self.get(key)) {
            (Node::Str(tag), Node::Global(Global::Storage(dtype)), Node::Str(key))
                if &**tag == "storage" && key.len() <= Limits::KEY =>
            {
                let storage = Storage { dtype: *dtype, key: key.to_string(), numel: self.size(numel)? };
                self.push(Node::Storage(Box::new(storage)))
            }
            _ => Err("a persistent id that is not a storage".into()),
        }
    }
}

/// Names from a hostile file go to a terminal: no control characters, no novels.
fn printable(s: &str) -> String {
    s.chars().take(120).map(|c| if c.is_control() { '?' } else { c }).collect()
}
