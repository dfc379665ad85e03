//! Samples per second of the loader on the development data.
//!
//! `cargo run --release -p samclip-data --example loader_speed -- DATA [SIDE] [WORKERS] [DATASET]`

use samclip_data::augment::{Augment, ColorJitter, Geometry};
use samclip_data::loader::{Loader, LoaderConfig, Mixing, Source};
use samclip_data::{DataError, Targets, open};
use samclip_image::Normalization;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), DataError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let data = Path::new(arguments.first().map_or("../shared/data", String::as_str));
    let number = |i: usize, default: usize| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (side, workers) = (number(1, 256), number(2, 1));
    for (name, split) in [("voc", "train_aug"), ("ccp", "train"), ("camvid", "train"), ("bsds_sa1b", "train"), ("imagenet_sample", "train")] {
        if arguments.get(3).is_some_and(|only| only != name) {
            continue;
        }
        let color = ColorJitter { brightness: 0.2, contrast: 0.2, saturation: 0.2 };
        let geometry = Geometry::RandomResizedCrop { scale: [0.4, 1.0], ratio: [0.75, 4.0 / 3.0] };
        let config = LoaderConfig {
            seed: 1,
            side,
            batch_size: 16,
            sides: vec![],
            view: None,
            augment: Augment { geometry, hflip: 0.5, color, ..Augment::SQUASH },
            mixing: Mixing::Concat,
            targets: Targets { max_masks: 16, ..Targets::default() },
            workers,
            prefetch: 2,
            max_skipped: 0,
        };
        let mut loader = Loader::new(vec![Source::new(open(data, name, split)?, 1.0)], config)?;
        let (start, batches) = (Instant::now(), 16);
        let mut masks = 0;
        for _ in 0..batches {
            let batch = loader.next_batch()?;
            masks += batch.items.iter().map(|i| i.masks.len()).sum::<usize>();
            std::hint::black_box(batch.pixels(&Normalization::SAM));
        }
        let seconds = start.elapsed().as_secs_f64();
        let samples = (batches * 16) as f64;
        println!("{name}: {:.0} samples/s, {:.1} masks each (side {side}, {workers} workers)", samples / seconds, masks as f64 / samples);
    }
    Ok(())
}
