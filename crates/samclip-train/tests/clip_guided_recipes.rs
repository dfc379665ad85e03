//! The recipes of CLIP-Guided SAM: every one parses, and each kind of the nano scale runs two steps.

use samclip_train::RunOptions;
use samclip_train::guided::{BasesSpec, GuidedRecipe, OpenBases, TOWER_FILE, is_guided, is_tower, run, run_tower};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/clip_guided")
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(below(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn every_recipe_parses_and_names_differ() {
    let mut names = Vec::new();
    for path in below(&root()).into_iter().filter(|path| !is_tower(path)) {
        assert!(is_guided(&path), "{}", path.display());
        let (recipe, _) = GuidedRecipe::open(&path).unwrap_or_else(|e| panic!("{e}"));
        assert!(!names.contains(&recipe.name), "{} is named twice", recipe.name);
        names.push(recipe.name);
    }
    assert!(names.len() >= 80, "{}", names.len());
    assert!(!is_guided(&root().join("../nano/1_masks.toml")));
}

/// The grids of the paper: what differs between the recipes of a table, and nothing else. A run of a table is
/// shorter than `voc_366`, so that all of them fit into hours.
#[test]
fn the_tables_vary_what_they_say() {
    let open = |name: &str| GuidedRecipe::open(&root().join("nano").join(name)).unwrap().0;
    let mut ours = open("voc_366.toml");
    ours.steps = 200;
    ours.optimizer.warmup_steps = 20;
    ours.optimizer.decay_steps = 180;
    let same = |name: &str, change: &dyn Fn(&mut GuidedRecipe)| {
        let mut expected = ours.clone();
        change(&mut expected);
        let mut found = open(name);
        found.name.clone_from(&expected.name);
        assert_eq!(found, expected, "{name}");
    };
    same("table6/tvs_seed1.toml", &|_| {});
    same("table6/ts_seed2.toml", &|r| {
        r.seed = 2;
        r.adapters.inject.vision = false;
    });
    same("table6/parallel_only_seed1.toml", &|r| {
        r.adapters.inject = samclip_models::clip_guided_sam::Inject::NONE;
        r.train.clip_blocks = 0;
    });
    same("table7/ks2_kc4.toml", &|r| {
        r.adapters.blocks = 2;
        r.train.clip_blocks = 4;
    });
    same("table8/frozen.toml", &|r| r.train.clip_blocks = 0);
    same("table8/dense_off.toml", &|r| r.prompts.dense = false);
    same("table9/bce_iou.toml", &|r| r.objective.losses.dice = 0.0);
    let trained = |path: &PathBuf| !path.ends_with("vanilla.toml") && !path.ends_with("modified.toml");
    let tables = ["2", "3", "3_92", "6", "7", "8", "9"].map(|table| below(&root().join(format!("nano/table{table}"))));
    for path in tables.iter().flatten().filter(|path| trained(path)) {
        let (mut found, _) = GuidedRecipe::open(path).unwrap();
        if path.parent().is_some_and(|folder| folder.ends_with("table3_92")) {
            assert_eq!(found.data.limit, 92, "{}", path.display());
            found.data.limit = ours.data.limit;
        }
        let mut optimizer = ours.optimizer.clone();
        optimizer.decay_steps += found.objective.clip_alone_steps;
        let rows = (found.steps, &found.data, &found.optimizer);
        assert_eq!(rows, (200 + found.objective.clip_alone_steps, &ours.data, &optimizer), "{}", path.display());
    }
}

fn options(data: &Path, out: &Path) -> RunOptions {
    RunOptions { smoke: true, ..RunOptions::new(data, out) }
}

/// Two steps of the tower's recipe, and an adapter's recipe takes what they leave as its base.
#[test]
fn a_tower_is_trained_and_taken_as_a_base() {
    let Some(data) = samclip_testkit::data() else { return };
    let out = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let outcome = run_tower(&root().join("nano/clip_nano.toml"), &options(&data, out.path()), &mut (), &stop).unwrap();
    assert!(outcome.complete && outcome.step == 2);
    let (recipe, _) = GuidedRecipe::open(&root().join("nano/table8/tower_surgery.toml")).unwrap();
    let spec = BasesSpec { clip: TOWER_FILE.to_owned(), ..recipe.bases.clone() };
    let config = recipe.config().unwrap();
    let bases = OpenBases::open(&spec, &config, out.path()).unwrap();
    config.on_bases(&bases.bases, 1, &Default::default()).unwrap();
    assert_eq!(bases.clip.name, "clip_guided_sam_nano_tower:clip_tower.safetensors");
}

#[test]
fn each_kind_runs_two_steps() {
    let Some(data) = samclip_testkit::data() else { return };
    for name in [
        "voc_366", "voc_366_mixed", "table2/su_sam_series", "table2/su_sam_lora", "table2/sam_ptx", "table2/decoder",
        "table3/modified", "table6/s_seed1", "table7/ks2_kc2", "table8/clip_alone_first", "table9/dice_iou",
    ] {
        let out = tempfile::tempdir().unwrap();
        let path = root().join("nano").join(format!("{name}.toml"));
        let outcome = run(&path, &options(&data, out.path()), &mut (), &AtomicBool::new(false)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(outcome.complete && outcome.step == 2, "{name}");
        assert!(out.path().join("adapter.safetensors").exists(), "{name}");
    }
}

/// A pattern of the optimizer that matches nothing would leave everything to AdamW.
#[test]
fn patterns_that_match_nothing_are_refused() {
    let Some(data) = samclip_testkit::data() else { return };
    let text = std::fs::read_to_string(root().join("nano/voc_366_manual_long.toml")).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("recipe.toml");
    for (right, key) in [("\"adapters.*\"", "optimizer.muon"), ("match = \"clip.*\"", "optimizer.group")] {
        let wrong = right.replace(".*", "x.*");
        std::fs::write(&path, text.replacen(right, &wrong, 1)).unwrap();
        let error = run(&path, &options(&data, &out.path().join(key)), &mut (), &AtomicBool::new(false)).unwrap_err();
        assert!(error.to_string().contains(&format!("{key}: `")), "{error}");
    }
}

/// A prompt and a caption belong to one photo.
#[test]
fn cutmix_is_refused() {
    let text = std::fs::read_to_string(root().join("nano/voc_366.toml")).unwrap();
    let mixed = text.replacen("\n[data.augment]\n", "\n[data.augment]\ncutmix = { probability = 0.5, area = [0.1, 0.5] }\n", 1);
    assert_ne!(text, mixed);
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("recipe.toml");
    std::fs::write(&path, mixed).unwrap();
    let error = GuidedRecipe::open(&path).unwrap_err().to_string();
    assert!(error.contains("data.augment.cutmix"), "{error}");
}
