//! Recipes: the shipped ones parse, mistakes name their line and the nearest key.

use samclip_models::sam_clip::Pooling;
use samclip_train::guided::{is_guided, is_tower};
use samclip_train::recipe::Objective;
use samclip_train::{Recipe, RunOptions, TrainError, run, run_log};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn recipes(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            recipes(&path, found);
        } else if path.extension().is_some_and(|e| e == "toml") {
            found.push(path);
        }
    }
}

/// Every recipe of the repository but those of adapters and towers (`tests/clip_guided_recipes.rs`).
fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    recipes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes"), &mut found);
    found.retain(|path| !is_guided(path) && !is_tower(path));
    found.sort();
    found
}

/// The recipes of the shipped model.
fn shipped() -> Vec<PathBuf> {
    all().into_iter().filter(|p| p.to_string_lossy().contains("recipes/nano/")).collect()
}

/// The first recipe of the shipped model.
fn first() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/nano/1_masks.toml")
}

#[test]
fn all_recipes_parse_and_can_be_cut_down() {
    let paths = all();
    assert!(shipped().len() >= 2 && paths.len() >= 12, "{paths:?}");
    for path in paths {
        let (recipe, _) = Recipe::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let smoke = recipe.smoke().unwrap();
        assert!(smoke.steps <= 4 && smoke.tasks.iter().all(|t| t.batch <= 4));
    }
}

/// Every recipe whose data are not at hand runs through all its parts on painted shapes.
#[test]
fn synthetic_recipes_run_smoke() {
    let mut count = 0;
    for path in all() {
        let (recipe, _) = Recipe::open(&path).unwrap();
        if !recipe.smoke.synthetic {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let options = RunOptions {
            smoke: true,
            resume: true,
            seed: Some(9),
            ..RunOptions::new(folder.path().join("no data"), folder.path().join("run"))
        };
        let outcome = run(&path, &options, &mut (), &AtomicBool::new(false));
        let outcome = outcome.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(outcome.complete && outcome.step == recipe.smoke.steps, "{}", path.display());
        let log = run_log::read(&options.out.join("log.jsonl")).unwrap();
        for task in &recipe.tasks {
            for objective in &task.objectives {
                let term = format!("{}/{}/", task.name, objective.name());
                assert!(log.iter().all(|l| l.losses.keys().any(|k| k.starts_with(&term))), "{term}: {log:?}");
            }
        }
        let stored = std::fs::read_to_string(options.out.join("recipe.toml")).unwrap();
        assert!(stored.contains("\nseed = 9\n"));
        count += 1;
    }
    assert!(count >= 10, "{count}");
}

/// The paper's figures (arXiv:2310.15308 §4, appendix; spec 5.3), written down a second time.
#[test]
fn the_papers_recipes_hold_the_papers_settings() {
    let open = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/sam_clip").join(name);
        Recipe::open(&path).unwrap().0
    };
    let stages = ["1_head_probing.toml", "2_joint_distillation.toml", "3_resolution_adaptation.toml"].map(open);
    for (recipe, lr) in stages.iter().zip([8e-4, 4e-5, 8e-4]) {
        assert_eq!(recipe.optimizer.lr, lr);
        let clip = &recipe.tasks[0];
        assert_eq!((clip.batch, clip.side, clip.teacher_side), (2048, 224, Some(224)));
        let Objective::ClipDistill(o) = &clip.objectives[0] else { panic!("{:?}", clip.objectives) };
        assert!(o.weight == 1.0 && o.teacher.to_string_lossy().contains("ViT-L-14"));
    }
    let [one, two, three] = stages;
    assert_eq!((one.tasks[0].sides.as_slice(), three.tasks[0].sides.as_slice()), (&[224, 448][..], &[224, 448, 1024][..]));
    assert_eq!((one.model.trainable, three.model.trainable), (vec!["clip_head.*".to_owned()], vec!["clip_head.*".to_owned()]));
    let layers: Vec<&str> = one.model.copies.iter().map(|c| c.to.as_str()).collect();
    assert_eq!(layers, ["clip_head.blocks.0", "clip_head.blocks.1", "clip_head.blocks.2"]);
    assert!(one.model.copies.iter().all(|c| c.from == "image_encoder.blocks.11"));
    assert_eq!(two.stop_step.unwrap() * 20, two.steps * 16);
    assert!(two.optimizer.groups.iter().all(|g| g.lr_scale == 0.1) && two.optimizer.groups.len() == 2);
    let sam = &two.tasks[1];
    assert_eq!((sam.side, sam.batch), (1024, 32));
    let Objective::SamDistill(o) = &sam.objectives[0] else { panic!("{:?}", sam.objectives) };
    assert_eq!((o.weight, o.focal, o.dice, o.iou, o.neck), (10.0, 20.0, 1.0, 0.0, 0.0));
    assert_eq!(o.point_prompts + o.box_prompts, 32);
    for (name, lambda) in [("ablations/lambda_1.toml", 1.0), ("ablations/lambda_100.toml", 100.0)] {
        let other = open(name);
        let Objective::SamDistill(o) = &other.tasks[1].objectives[0] else { panic!("{name}") };
        assert_eq!((o.weight, other.steps, other.stop_step), (lambda, two.steps, two.stop_step));
    }
    assert!(open("ablations/random_head.toml").model.copies.is_empty());
    assert_eq!(open("ablations/average_pooling_1.toml").model.config().unwrap().clip_head.pooling, Pooling::Avg);
    assert_eq!(open("ablations/kd_only.toml").tasks.len(), 1);
}

fn error_of(from: &str, to: &str) -> TrainError {
    let text = std::fs::read_to_string(first()).unwrap();
    let changed = text.replacen(from, to, 1);
    assert_ne!(text, changed);
    Recipe::parse(&changed, Path::new("changed.toml")).unwrap_err()
}

#[test]
fn unknown_keys_name_their_line_and_the_nearest_key() {
    let text = std::fs::read_to_string(first()).unwrap();
    let line_of = |part: &str| text.lines().position(|l| l.starts_with(part)).unwrap() + 1;
    for (key, typo) in
        [("weight_decay", "weight_decai"), ("upsample", "upsampel"), ("trainable", "trainible")]
    {
        let error = error_of(&format!("{key} ="), &format!("{typo} ="));
        let TrainError::Recipe { line, nearest, message, .. } = &error else { panic!("{error}") };
        assert_eq!((*line, nearest.as_deref()), (line_of(key), Some(key)), "{message}");
        assert_eq!(error.hint().unwrap(), format!("did you mean `{key}`?"));
    }
    let error = error_of("kind = \"dense_text\"", "kind = \"dense_test\"");
    assert_eq!(error.hint().unwrap(), "did you mean `dense_text`?");
}

#[test]
fn impossible_values_are_refused() {
    for (from, to) in
        [("steps = ", "steps = 0 #"), ("side = ", "side = 100 #"), ("weight = 0.", "weight = -0."), ("[[task]]", "[[task]]\nteacher_dropping = 1.0"), ("img_size = ", "img_size = 100 #"),
            ("[[task.data]]", "[[task.data]]\nrepeat_threshold = 1.5")]
    {
        assert!(matches!(error_of(from, to), TrainError::Invalid(_)));
    }
}

/// Two photos in one picture have no caption that is true.
#[test]
fn cutmix_is_refused_where_captions_are_read() {
    let text = std::fs::read_to_string(first()).unwrap();
    let mixed = text.replacen("[task.augment]", "[task.augment]\ncutmix = { probability = 0.5, area = [0.1, 0.5] }", 1);
    let parse = |more: &str| Recipe::parse(&[&mixed, more].concat(), Path::new("mixed.toml"));
    assert!(parse("").unwrap().tasks[0].augment.cutmix.is_some());
    let captions = "\n[[task.objective]]\nkind = \"contrastive\"\nweight = 1.0\nlogit_scale = 100.0\nteacher = \"clip.safetensors\"\n";
    let error = parse(captions).unwrap_err().to_string();
    assert!(error.contains("augment.cutmix with contrastive"), "{error}");
}

#[test]
fn a_head_belongs_to_one_teacher() {
    let text = std::fs::read_to_string(first()).unwrap();
    assert!(text.contains("output = \"n60\""));
    let second = "\n[[task.objective]]\nkind = \"feature_distill\"\nweight = 1.0\nteacher = \"other.onnx\"\noutput = \"n60\"\nsmooth_l1 = 0.0\n";
    let parse = |more: &str| Recipe::parse(&[&text, second, more].concat(), Path::new("two.toml"));
    let error = parse("").unwrap_err().to_string();
    assert!(error.contains("two teachers share the head `n60`"), "{error}");
    let recipe = parse("head = \"second\"\n").unwrap();
    let labels: Vec<String> = recipe.tasks[0].objectives.iter().map(Objective::label).collect();
    assert_eq!(labels.iter().filter(|l| l.starts_with("feature_distill")).collect::<Vec<_>>(), ["feature_distill", "feature_distill second"]);
}
