//! What a run takes over from another run.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use samclip_testkit::runs::{Recipe, folder, shapes};
use samclip_train::{RunOptions, train};
use samclip_weights::{StateDict, TensorData, write_safetensors};

const GUIDE: &str = r#"
[[task.objective]]
kind = "feature_distill"
weight = 1.0
teacher = "tiny.safetensors"
output = "dense"
smooth_l1 = 0.0
"#;

/// Runs three steps in `folder/name` and gives the checkpoint's tensors.
fn run(folder: &Path, name: &str, init: &str, lr: f32) -> StateDict {
    let recipe = Recipe { init, lr, objectives: GUIDE.to_owned(), ..shapes(3, 3) };
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, recipe.text()).unwrap();
    let options = RunOptions::new(folder, folder.join(name));
    train::run(&path, &options, &mut (), &AtomicBool::new(false)).unwrap();
    StateDict::open(&folder.join(name).join("checkpoint.safetensors")).unwrap()
}

fn values(state: &StateDict, kind: &str) -> Vec<(String, Vec<f32>)> {
    let of_kind = state.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(kind)?.to_owned(), tensor.to_f32())));
    of_kind.collect()
}

#[test]
fn a_checkpoint_gives_the_next_stage_its_auxiliary_tensors_too() {
    let folder = folder();
    let folder = folder.path();
    let first = run(folder, "first", "fresh", 2e-3);
    let stays = 1e-30; // too small to change a value
    let second = run(folder, "second", "{runs}/first/checkpoint.safetensors", stays);
    let aux = values(&second, "value/aux.");
    assert_eq!(aux.len(), 2, "weight and bias of the guide's projection");
    assert!(values(&first, "value/") == values(&second, "value/"), "all of them, in f32");

    let third = run(folder, "third", "{runs}/first/model_f16.safetensors", stays);
    assert!(values(&third, "value/aux.") != aux, "a model has none");
}

#[test]
fn an_auxiliary_tensor_of_another_shape_is_refused() {
    let folder = folder();
    let folder = folder.path();
    let mut state = run(folder, "first", "fresh", 2e-3);
    let name = "value/aux.dense.bias";
    let bias = state.remove(name).unwrap().to_f32();
    state.insert(name, TensorData::from_f32(&[bias.len() - 1], &bias[1..]));
    write_safetensors(&folder.join("other.safetensors"), &state).unwrap();
    let recipe = Recipe { init: "other.safetensors", objectives: GUIDE.to_owned(), ..shapes(3, 3) };
    let path = recipe.write(folder);
    let options = RunOptions::new(folder, folder.join("second"));
    let error = train::run(&path, &options, &mut (), &AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("aux.dense.bias: expected [512], found [511]"), "{error}");
}
