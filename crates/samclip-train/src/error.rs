//! What can go wrong in training, with advice.

use std::path::PathBuf;

/// Errors of recipes, data, teachers, checkpoints and the loop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A recipe does not parse; `line` counts from 1.
    #[error("recipe line {line}: {message}: {}", path.display())]
    Recipe {
        /// The recipe file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// What is wrong.
        message: String,
        /// A key of nearly the same name.
        nearest: Option<String>,
    },
    /// A recipe parses, but says something that cannot be.
    #[error("recipe: {0}")]
    Invalid(String),
    /// A file could not be read or written.
    #[error("{source}: {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Weights or a checkpoint could not be read, written or matched.
    #[error(transparent)]
    Weights(#[from] samclip_weights::WeightsError),
    /// A model could not be built or loaded.
    #[error(transparent)]
    Model(#[from] samclip_models::ModelError),
    /// A data set could not be opened or read.
    #[error(transparent)]
    Data(#[from] samclip_data::DataError),
    /// A teacher could not be loaded or run.
    #[error("teacher: {message}: {}", path.display())]
    Teacher {
        /// The ONNX file.
        path: PathBuf,
        /// What the runtime said.
        message: String,
    },
    /// A checkpoint belongs to another recipe, or is incomplete.
    #[error("checkpoint: {message}: {}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
    /// A checkpoint or a model could not be written: the disk is full, for one.
    #[error("the checkpoint of step {step} was not written: {message}")]
    Save {
        /// The step, from 1.
        step: usize,
        /// What the system said, and the file.
        message: String,
    },
    /// The processes of a run do not fit together.
    #[error("{0}")]
    World(String),
    /// A loss or a gradient is not finite.
    #[error("step {step}: {term} is not finite ({value})")]
    NonFinite {
        /// The step, from 1.
        step: usize,
        /// Loss term or tensor.
        term: String,
        /// What was found.
        value: f32,
    },
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl TrainError {
    /// Advice for the user, where there is any.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Recipe { nearest, .. } => nearest.as_ref().map(|key| format!("did you mean `{key}`?")),
            Self::NonFinite { .. } => {
                Some("the last checkpoint is intact; lower the learning rate or the loss's weight".to_owned())
            }
            Self::Checkpoint { .. } => {
                Some("choose another --out directory, or pass --no-resume to start over".to_owned())
            }
            Self::Save { .. } => {
                Some("the checkpoint before it is intact; make room, then the same command continues".to_owned())
            }
            Self::Io { source, .. } if is_full(source) => {
                Some("the last checkpoint is intact; make room, then the same command continues".to_owned())
            }
            Self::World(_) => Some(
                "build with `--features mpi` and start with `mpirun -n N` or `srun --mpi=pmix` (docs/guides/scaling.md)"
                    .to_owned(),
            ),
            Self::Model(error) => error.hint(),
            Self::Weights(error) => error.hint(),
            Self::Data(error) => error.hint(),
            _ => None,
        }
    }

    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
