//! Teacher caches: what a task's teachers say about every whole photo, as WebDataset shards.
//!
//! Answers belong to whole photos (`photo_side` in the recipe), so a run replays them exactly
//! for any crop. A shard appears when it is complete: the same command goes on where it
//! stopped, and `--shard i/n` splits the photos over machines that share the folder.

use crate::error::TrainError;
use crate::feed::{Run, runs};
use crate::inputs::{Inputs, Places, RunOptions};
use crate::photo_teacher::PhotoTeacher;
use crate::recipe::Recipe;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What to store, and where.
#[derive(Debug, Clone)]
pub struct TeachOptions {
    /// Name of the recipe's task.
    pub task: String,
    /// The data folder.
    pub data: PathBuf,
    /// The cache: a folder per teacher, side and outputs.
    pub out: PathBuf,
    /// This part of so many.
    pub part: (usize, usize),
    /// Photos in a shard.
    pub per_shard: usize,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taught {
    /// Photos stored by this call.
    pub photos: usize,
    /// Shards that were there already.
    pub kept: usize,
    /// Whether everything is done; otherwise it was asked to stop.
    pub complete: bool,
}

/// `manifest-i-of-n.json` beside the shards.
#[derive(Serialize)]
struct Manifest {
    format: &'static str,
    teacher_sha256: String,
    photo_side: usize,
    outputs: Vec<String>,
    datasets: Vec<(String, usize)>,
    part: [usize; 2],
    shards: Vec<Shard>,
}

#[derive(Serialize)]
struct Shard {
    file: String,
    photos: usize,
}

/// Stores the answers of a task's teachers.
pub fn teach(
    recipe: &Path,
    options: &TeachOptions,
    progress: &mut dyn FnMut(usize, usize),
    stop: &AtomicBool,
) -> Result<Taught, TrainError> {
    let (mut parsed, _) = Recipe::open(recipe)?;
    let names: Vec<String> = parsed.tasks.iter().map(|t| t.name.clone()).collect();
    parsed.tasks.retain(|t| t.name == options.task);
    if parsed.tasks.is_empty() {
        let message = format!("no task `{}`, the recipe has {}", options.task, names.join(", "));
        return Err(TrainError::Invalid(message));
    }
    let run = RunOptions::new(&options.data, &options.out);
    // only the task's teachers and photos are read
    parsed.model.init = "fresh".to_owned();
    let inputs = Inputs::open(&parsed, &Places::new(recipe, &run))?;
    let (datasets, teachers) = (&inputs.datasets[0], &inputs.teachers[0]);
    let mut answered = Taught { complete: true, ..Taught::default() };
    let runs = runs(teachers, datasets, Some(&options.out))?;
    let mine: Vec<(usize, usize)> = datasets
        .iter()
        .enumerate()
        .flat_map(|(source, d)| (0..d.len()).map(move |i| (source, i)))
        .enumerate()
        .filter(|(i, _)| i % options.part.1 == options.part.0)
        .map(|(_, at)| at)
        .collect();
    if runs.is_empty() {
        return Err(TrainError::Invalid(format!("task {}: no teacher", options.task)));
    }
    for (wanted, run) in &runs {
        let Run::Photo(teacher) = run else {
            let teacher = wanted[0].teacher.display();
            let message = format!("task {}: {teacher} sees crops; give its objective a `photo_side`", options.task);
            return Err(TrainError::Invalid(message));
        };
        let named = datasets.iter().map(|d| (d.name().to_owned(), d.len())).collect();
        one_teacher(teacher, &mine, named, options, &mut answered, progress, stop)?;
    }
    Ok(answered)
}

fn one_teacher(
    teacher: &PhotoTeacher,
    mine: &[(usize, usize)],
    datasets: Vec<(String, usize)>,
    options: &TeachOptions,
    taught: &mut Taught,
    progress: &mut dyn FnMut(usize, usize),
    stop: &AtomicBool,
) -> Result<(), TrainError> {
    let missing = || TrainError::Invalid("no folder for the answers".to_owned());
    let folder = teacher.folder().ok_or_else(missing)?;
    let (i, n) = options.part;
    let mut shards = Vec::new();
    for (k, photos) in mine.chunks(options.per_shard).enumerate() {
        let file = format!("answers-{i:03}-of-{n:03}-{k:05}.tar");
        let path = folder.join(&file);
        shards.push(Shard { file, photos: photos.len() });
        if path.exists() {
            taught.kept += 1;
        } else if !shard(teacher, &path, photos, stop)? {
            taught.complete = false;
            return Ok(());
        } else {
            taught.photos += photos.len();
        }
        progress((k * options.per_shard + photos.len()).min(mine.len()), mine.len());
    }
    let (teacher_sha256, photo_side, outputs) = teacher.about()?;
    let manifest = Manifest {
        format: "samclip-teacher-cache-1",
        teacher_sha256,
        photo_side,
        outputs: outputs.to_vec(),
        datasets,
        part: [i, n],
        shards,
    };
    let text = serde_json::to_string_pretty(&manifest).unwrap_or_default() + "\n";
    crate::export::write_atomic(&folder.join(format!("manifest-{i:03}-of-{n:03}.json")), text.as_bytes())
}

/// Writes a shard beside and renames it; false if it was asked to stop.
fn shard(
    teacher: &PhotoTeacher,
    path: &Path,
    photos: &[(usize, usize)],
    stop: &AtomicBool,
) -> Result<bool, TrainError> {
    let io = |e| TrainError::io(path)(e);
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".shard-").suffix(".tmp").tempfile_in(folder).map_err(io)?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    for &(source, index) in photos {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let (name, bytes) = match teacher.file(source, index) {
            Ok(found) => found,
            Err(TrainError::Data(error)) => {
                tracing::warn!("skipped a photo that could not be read: {error}");
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, &name, bytes.as_slice()).map_err(io)?;
    }
    let writer = tar.into_inner().map_err(io)?;
    let file = writer.into_inner().map_err(|e| io(e.into_error()))?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(true)
}
