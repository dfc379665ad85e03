//! `samclip everything`: SAM's automatic mask generator with all of its parameters.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use samclip_predict::EverythingOptions;
use samclip_predict::verbs::everything_files;

use super::common::{ImageArgs, MaskOutputArgs, ModelArgs, Progress, finish};

const STANDARD: EverythingOptions = EverythingOptions::STANDARD;

/// Arguments of `samclip everything`: the reference's names and defaults.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    images: ImageArgs,
    /// Clicks along one side of the image
    #[arg(long, default_value_t = STANDARD.points_per_side, value_name = "N")]
    points_per_side: usize,
    /// Clicks decoded at once: memory, not results
    #[arg(long, default_value_t = STANDARD.points_per_batch, value_name = "N")]
    points_per_batch: usize,
    /// Drop masks whose predicted IoU is not above this
    #[arg(long, default_value_t = STANDARD.pred_iou_thresh, value_name = "IOU", allow_negative_numbers = true)]
    pred_iou_thresh: f32,
    /// Drop masks whose stability score is below this
    #[arg(long, default_value_t = STANDARD.stability_score_thresh, value_name = "SCORE")]
    stability_score_thresh: f32,
    /// Shift of the threshold for the stability score
    #[arg(long, default_value_t = STANDARD.stability_score_offset, value_name = "LOGIT")]
    stability_score_offset: f32,
    /// Boxes that overlap more than this are duplicates
    #[arg(long, default_value_t = STANDARD.box_nms_thresh, value_name = "IOU")]
    box_nms_thresh: f32,
    /// Layers of crops: layer i has 2^i crops a side
    #[arg(long, default_value_t = STANDARD.crop_n_layers, value_name = "N")]
    crop_n_layers: u32,
    /// Boxes of different crops that overlap more than this are duplicates
    #[arg(long, default_value_t = STANDARD.crop_nms_thresh, value_name = "IOU")]
    crop_nms_thresh: f32,
    /// Overlap of the first layer's crops, as a share of the short side
    #[arg(long, default_value_t = STANDARD.crop_overlap_ratio, value_name = "SHARE")]
    crop_overlap_ratio: f64,
    /// Layer i has points-per-side divided by this to the power of i
    #[arg(long, default_value_t = STANDARD.crop_n_points_downscale_factor, value_name = "N")]
    crop_n_points_downscale_factor: usize,
    /// Own clicks: a JSON file with one list of [x, y] in 0..1 for each layer
    #[arg(long, value_name = "FILE.json")]
    point_grids: Option<PathBuf>,
    /// Remove holes and islands smaller than this many pixels
    #[arg(long, default_value_t = STANDARD.min_mask_region_area, value_name = "PIXELS")]
    min_mask_region_area: usize,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    output: MaskOutputArgs,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let point_grids = match &args.point_grids {
        None => None,
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("cannot read: {}", path.display()))?;
            let grids = serde_json::from_slice(&text);
            Some(grids.with_context(|| format!("point grids do not parse: {}", path.display()))?)
        }
    };
    let options = EverythingOptions {
        points_per_side: args.points_per_side,
        points_per_batch: args.points_per_batch,
        pred_iou_thresh: args.pred_iou_thresh,
        stability_score_thresh: args.stability_score_thresh,
        stability_score_offset: args.stability_score_offset,
        box_nms_thresh: args.box_nms_thresh,
        crop_n_layers: args.crop_n_layers,
        crop_nms_thresh: args.crop_nms_thresh,
        crop_overlap_ratio: args.crop_overlap_ratio,
        crop_n_points_downscale_factor: args.crop_n_points_downscale_factor,
        point_grids,
        min_mask_region_area: args.min_mask_region_area,
    };
    options.validate()?;
    let inputs = args.images.inputs()?;
    let model = args.model.load()?;
    let mut progress = Progress::new(inputs.files.len(), args.output.json);
    let document = everything_files(&model, &inputs, &options, args.output.spec().as_ref(), &mut progress)?;
    drop(progress);
    finish(&document, args.output.json)
}
