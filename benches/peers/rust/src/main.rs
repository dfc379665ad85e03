//! candle and rten on SAM's image encoder, as workers of `benches/compare.py`: `run NAME` on stdin is one run and one
//! line of JSON on stdout (`../worker.py` says which). `../rust_peers.py` writes the model file and starts this.

use std::io::BufRead;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::segment_anything::image_encoder::ImageEncoderViT;
use rten::{RunOptions, ThreadPool};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use serde_json::json;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, model, file, size, threads] = arguments.as_slice() else {
        bail!("expected ENGINE MODEL FILE SIZE THREADS, found {} arguments", arguments.len());
    };
    let (size, threads) = (size.parse()?, threads.parse()?);
    match engine.as_str() {
        "candle" => serve(candle(model, file, size)?),
        "rten" => serve(rten(file, size, threads)?),
        other => bail!("unknown engine: expected candle or rten, found {other}"),
    }
}

/// Values that look like a photo's after normalisation.
fn pixels(size: usize) -> Vec<f32> {
    (0..3 * size * size).map(|i| (i * 7919 % 1000) as f32 / 250.0 - 2.0).collect()
}

/// candle's own SAM; its threads are rayon's (RAYON_NUM_THREADS).
fn candle(model: &str, file: &str, size: usize) -> Result<impl Fn() -> Result<usize>> {
    let (dim, depth, heads, global) = match model {
        "sam_vit_b" => (768, 12, 12, [2, 5, 8, 11]),
        "sam_vit_l" => (1024, 24, 16, [5, 11, 17, 23]),
        "sam_vit_h" => (1280, 32, 16, [7, 15, 23, 31]),
        other => bail!("unknown model: {other}"),
    };
    let weights = VarBuilder::from_pth(file, DType::F32, &Device::Cpu)?;
    let net = ImageEncoderViT::new(size, 16, 3, dim, depth, heads, 256, true, true, true, 14, &global, weights)?;
    let x = Tensor::from_vec(pixels(size), (1, 3, size, size), &Device::Cpu)?;
    Ok(move || Ok(net.forward(&x)?.flatten_all()?.to_vec1::<f32>()?.len()))
}

fn rten(file: &str, size: usize, threads: usize) -> Result<impl Fn() -> Result<usize>> {
    let net = rten::Model::load_file(file)?;
    let pool = std::sync::Arc::new(ThreadPool::with_num_threads(threads));
    let x = NdTensor::from_data([1, 3, size, size], pixels(size));
    let (input, output) = (net.node_id("x")?, net.node_id("y")?);
    Ok(move || {
        let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
        let [y] = net.run_n([(input, x.view().into())].into(), [output], Some(options))?;
        let y: rten_tensor::Tensor<f32> = y.try_into()?;
        Ok(y.len())
    })
}

/// A line of /proc/self/status in units of 1024 bytes.
fn memory(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Seconds of all threads.
fn processor_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}

fn serve(run: impl Fn() -> Result<usize>) -> Result<()> {
    let (before, model) = (memory("VmHWM"), memory("VmRSS"));
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let name = line.trim().strip_prefix("run ").context("unknown command: expected `run NAME`")?;
        let (start, processor) = (Instant::now(), processor_time());
        let values = run()?;
        let (seconds, peak) = (start.elapsed().as_secs_f64(), memory("VmHWM"));
        let spent = processor_time().zip(processor).map(|(after, before)| after - before);
        let extra = peak.zip(model).map(|(peak, model)| peak.saturating_sub(model));
        println!(
            "{}",
            json!({
                "name": name, "seconds": seconds, "cpu_seconds": spent, "peak_rss_kb": peak.max(before),
                "peak_extra_kb": extra, "details": { "values": values },
            })
        );
    }
    Ok(())
}
