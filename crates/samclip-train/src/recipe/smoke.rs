//! `--smoke`: the same run, cut down to seconds.
//!
//! A recipe whose data are too large or not at hand says `synthetic = true`: sides, widths and
//! batches shrink, every block, pattern, task, objective and group stays.

use super::{Objective, Recipe};
use crate::error::TrainError;
use samclip_models::sam::Stem;
use samclip_models::sam_clip::SamClipConfig;

/// Number of painted photos.
const PHOTOS: &str = "16";
/// Side of the smallest input of a synthetic run; the next larger one is 32 more, and so on.
const SIDE: usize = 64;

impl Recipe {
    /// The same run, cut down to seconds.
    ///
    /// # Errors
    /// A variant that does not exist.
    pub fn smoke(mut self) -> Result<Self, TrainError> {
        (self.steps, self.stop_step) = (self.smoke.steps, None);
        self.optimizer.warmup_steps = self.optimizer.warmup_steps.min(1);
        self.optimizer.decay_steps = self.optimizer.decay_steps.min(self.steps.saturating_sub(1));
        self.log.every_steps = 1;
        for task in &mut self.tasks {
            task.batch = self.smoke.batch;
            (task.from_step, task.until_step) = (0, None);
        }
        if self.smoke.synthetic {
            self.synthetic()?;
        }
        Ok(self)
    }

    fn synthetic(&mut self) -> Result<(), TrainError> {
        self.model.sizes = Some(shrunk(self.model.config()?));
        self.model.img_size = None;
        self.model.text_table = None;
        let of_task = self.tasks.iter().flat_map(|t| t.sides.iter().chain([&t.side]).copied());
        let mut sides: Vec<usize> = of_task.collect();
        sides.sort_unstable();
        sides.dedup();
        let small = |side: &mut usize| *side = SIDE + 32 * sides.iter().position(|s| s == side).unwrap_or(0);
        for task in &mut self.tasks {
            small(&mut task.side);
            task.sides.iter_mut().for_each(small);
            task.teacher_side = task.teacher_side.map(|_| SIDE);
            for data in &mut task.data {
                (data.dataset, data.split) = ("shapes".to_owned(), PHOTOS.to_owned());
            }
            for objective in &mut task.objectives {
                match objective {
                    Objective::ClipDistill(o) => o.photo_side = o.photo_side.map(|_| SIDE),
                    Objective::SamDistill(o) => {
                        (o.point_prompts, o.box_prompts) = (o.point_prompts.min(2), o.box_prompts.min(2));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The same blocks, so that every name and pattern stays, with the smallest widths.
fn shrunk(mut config: SamClipConfig) -> SamClipConfig {
    let encoder = &mut config.sam.image_encoder;
    (encoder.img_size, encoder.embed_dim, encoder.num_heads, encoder.mlp_ratio) = (SIDE, 16, 2, 1);
    (encoder.out_chans, encoder.window_size, encoder.stem) = (16, 2, Stem::Patch);
    let decoder = &mut config.sam.mask_decoder;
    (decoder.transformer_dim, decoder.num_heads, decoder.mlp_dim, decoder.iou_head_hidden_dim) = (16, 2, 16, 16);
    (config.clip_head.mlp_dim, config.clip_head.embed_dim) = (16, 8);
    config
}
