//! Modules to state dicts and back, strictly.
//!
//! A parameter's name is its path of field names. Two conventions make the paths equal the
//! reference's keys: an enum's variant adds no segment, and a field `_3` stands for index `3` of a
//! `torch.nn.Sequential`.

use std::any::Any;
use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{AllocationProperty, Bytes, DType, Tensor, TensorData};
use samclip_weights::{DType as StoredType, StateDict, TensorData as StoredTensor, check_strict_but};

use crate::ModelError;

/// Name and shape of each parameter, in the module's order.
pub fn named_shapes<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    let mut visitor = Visit { path: Path::default(), each: |name, shape: Vec<usize>, _| (name, shape), out: vec![] };
    module.visit(&mut visitor);
    visitor.out
}

/// Name, shape and f32 values of each parameter, in the module's order.
pub fn named_values<M: Module>(module: &M) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let each = |name, shape, values: &dyn Fn() -> Vec<f32>| (name, shape, values());
    let mut visitor = Visit { path: Path::default(), each, out: vec![] };
    module.visit(&mut visitor);
    visitor.out
}

/// Number of parameters, buffers included.
pub fn parameter_count<M: Module>(module: &M) -> usize {
    named_shapes(module).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// The module as a checkpoint in f32.
pub fn state_dict<M: Module>(module: &M) -> StateDict {
    let mut state = StateDict::new();
    for (name, shape, values) in named_values(module) {
        state.insert(name, StoredTensor::from_f32(&shape, &values));
    }
    state
}

/// Replaces every parameter by the checkpoint's, which must hold exactly the module's names and
/// shapes and finite values. A scalar of the checkpoint fills a parameter of shape `[1]`, which is
/// how a module here holds one (CLIP's `logit_scale`).
pub fn load<M: Module>(module: M, state: &StateDict) -> Result<M, ModelError> {
    load_with(module, state, &Shared::default(), |_| false, |_| false)
}

/// [`load`] that does not read the values of tensors `known` to be finite.
pub fn load_known<M: Module>(module: M, state: &StateDict, known: impl Fn(&str) -> bool) -> Result<M, ModelError> {
    load_with(module, state, &Shared::default(), |_| false, known)
}

/// [`load`], but parameters whose name `may_share` take the tensor that `shared` has under that name, if it has one
/// of the same shape. That it has the checkpoint's values is for the caller to know.
pub fn load_sharing<M: Module>(
    module: M,
    state: &StateDict,
    shared: &Shared,
    may_share: impl Fn(&str) -> bool,
) -> Result<M, ModelError> {
    load_with(module, state, shared, may_share, |_| false)
}

fn load_with<M: Module>(
    module: M,
    state: &StateDict,
    shared: &Shared,
    may_share: impl Fn(&str) -> bool,
    known: impl Fn(&str) -> bool,
) -> Result<M, ModelError> {
    let scalar = |name: &str| state.get(name).is_some_and(|stored| stored.shape().is_empty());
    let mut expected = named_shapes(&module);
    expected.iter_mut().filter(|(name, shape)| *shape == [1] && scalar(name)).for_each(|(_, shape)| shape.clear());
    check_strict_but(&expected, state, known)?;
    Ok(module.map(&mut Load { path: Path::default(), state, shared, may_share }))
}

/// Tensors by parameter name: those of the modules that they were taken from, not copies.
#[derive(Default)]
pub struct Shared(BTreeMap<String, Box<dyn Any + Send + Sync>>);

impl Shared {
    /// Adds a module's tensors, each under the names that `names` makes of its own. What is there already stays.
    pub fn add<M: Module>(&mut self, module: &M, names: impl Fn(&str) -> Vec<String>) {
        module.visit(&mut Share { path: Path::default(), names, shared: self });
    }

    fn get<const D: usize>(&self, name: &str, shape: [usize; D]) -> Option<Tensor<D>> {
        let tensor = self.0.get(name)?.downcast_ref::<Tensor<D>>()?;
        (tensor.dims() == shape).then(|| tensor.clone())
    }
}

struct Share<'a, N> {
    path: Path,
    names: N,
    shared: &'a mut Shared,
}

impl<N: Fn(&str) -> Vec<String>> ModuleVisitor for Share<'_, N> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        for name in (self.names)(&self.path.name()) {
            self.shared.0.entry(name).or_insert_with(|| Box::new(param.val()));
        }
    }
}

#[derive(Default)]
struct Path(Vec<Option<String>>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        let segment = match name.strip_prefix('_') {
            Some(index) if index.bytes().all(|b| b.is_ascii_digit()) => index,
            _ => name,
        };
        self.0.push((!container.starts_with("Enum")).then(|| segment.to_string()));
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn name(&self) -> String {
        self.0.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(".")
    }
}

struct Visit<T, F: FnMut(String, Vec<usize>, &dyn Fn() -> Vec<f32>) -> T> {
    path: Path,
    each: F,
    out: Vec<T>,
}

impl<T, F: FnMut(String, Vec<usize>, &dyn Fn() -> Vec<f32>) -> T> ModuleVisitor for Visit<T, F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let values = || tensor.clone().try_into_vec_as::<f32>().expect("parameters are f32");
        self.out.push((self.each)(self.path.name(), tensor.dims().to_vec(), &values));
    }
}

struct Load<'a, F> {
    path: Path,
    state: &'a StateDict,
    shared: &'a Shared,
    may_share: F,
}

impl<F: Fn(&str) -> bool> ModuleMapper for Load<'_, F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let stored = self.state.get(&name).expect("checked by `check_strict`");
        param.map(|old| {
            if let Some(tensor) = self.shared.get(&name, old.dims()).filter(|_| (self.may_share)(&name)) {
                return tensor;
            }
            let data = values(stored, old.dims());
            let grad = old.is_require_grad();
            Tensor::from_data(data, &old.device()).set_require_grad(grad)
        })
    }
}

/// A stored tensor in f32: the file's own bytes where they are f32 and lie as floats must, so that a mapped
/// checkpoint is read when it is needed and not before.
fn values<const D: usize>(stored: &StoredTensor, shape: [usize; D]) -> TensorData {
    let whole = stored.dtype() == StoredType::F32 && cfg!(target_endian = "little");
    if whole && stored.bytes().as_ptr().addr().is_multiple_of(align_of::<f32>()) {
        let bytes = Bytes::from_shared(stored.shared_bytes(), AllocationProperty::Other);
        return TensorData::from_bytes(bytes, shape, DType::F32);
    }
    TensorData::new(stored.to_f32(), shape)
}
