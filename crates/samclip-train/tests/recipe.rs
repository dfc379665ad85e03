//! Recipes: the shipped ones parse, mistakes name their line and the nearest key.

use samclip_train::{Recipe, TrainError};
use std::path::{Path, PathBuf};

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/nano");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    paths
}

#[test]
fn shipped_recipes_parse_and_can_be_cut_down() {
    let paths = shipped();
    assert!(!paths.is_empty());
    for path in paths {
        let (recipe, _) = Recipe::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let smoke = recipe.smoke().unwrap();
        assert!(smoke.steps <= 4 && smoke.tasks.iter().all(|t| t.batch <= 4));
    }
}

fn error_of(from: &str, to: &str) -> TrainError {
    let text = std::fs::read_to_string(&shipped()[0]).unwrap();
    let changed = text.replacen(from, to, 1);
    assert_ne!(text, changed);
    Recipe::parse(&changed, Path::new("changed.toml")).unwrap_err()
}

#[test]
fn unknown_keys_name_their_line_and_the_nearest_key() {
    let text = std::fs::read_to_string(&shipped()[0]).unwrap();
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
        [("steps = ", "steps = 0 #"), ("side = ", "side = 100 #"), ("weight = 0.", "weight = -0.")]
    {
        assert!(matches!(error_of(from, to), TrainError::Invalid(_)));
    }
}
