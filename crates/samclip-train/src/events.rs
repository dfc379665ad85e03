//! The run log as TensorBoard event files: scalars in TFRecords.
//!
//! Format: TFRecord is length, masked CRC-32C of it, bytes, masked CRC-32C of them
//! (tensorflow/core/lib/io/record_writer.h); the bytes are an `Event` of
//! tensorflow/core/util/event.proto. Written by hand (four fields) because the crates for it
//! need `protoc` at build time or bring a second, old set of image decoders.
//! Proven in `tests/run_files.rs`, and read with TensorBoard's own loader (RESULTS.md).

use crate::error::TrainError;
use crate::run_log::Line;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name in the run directory; TensorBoard looks for `tfevents`.
pub const EVENTS_FILE: &str = "events.out.tfevents.samclip";

/// An open event file.
pub struct Events {
    path: PathBuf,
    file: File,
    /// Wall clock at zero seconds of training.
    start: f64,
}

impl Events {
    /// A file that holds `lines`, what the run log has kept, and takes more.
    pub fn open(run: &Path, lines: &[Line]) -> Result<Self, TrainError> {
        let path = run.join(EVENTS_FILE);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let start = now - lines.last().map_or(0.0, |l| l.seconds);
        let mut bytes = record(&[double(1, start), text(3, "brain.Event:2")].concat());
        lines.iter().for_each(|line| bytes.extend(record(&event(line, start))));
        crate::export::write_atomic(&path, &bytes)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(TrainError::io(&path))?;
        Ok(Self { path, file, start })
    }

    /// Appends a line.
    pub fn write(&mut self, line: &Line) -> Result<(), TrainError> {
        self.file.write_all(&record(&event(line, self.start))).map_err(TrainError::io(&self.path))
    }
}

/// `Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, simple_value = 2 } } }`.
fn event(line: &Line, start: f64) -> Vec<u8> {
    let rates = [
        ("loss", line.loss),
        ("lr", line.lr),
        ("grad_norm", line.grad_norm),
        ("images_per_second", line.images_per_second),
    ];
    let terms = line.losses.iter().map(|(name, value)| (name.as_str(), *value));
    let value = |(tag, value): (&str, f32)| message(1, &[text(1, tag), float(2, value)].concat());
    let summary: Vec<u8> = rates.into_iter().chain(terms).flat_map(value).collect();
    [double(1, start + line.seconds), integer(2, line.step as u64), message(5, &summary)].concat()
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(bytes);
    out.extend(masked_crc(bytes).to_le_bytes());
    out
}

/// TFRecord's masked CRC-32C.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// Field number and wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
fn key(field: u64, wire: u64) -> Vec<u8> {
    varint(field << 3 | wire)
}

fn integer(field: u64, value: u64) -> Vec<u8> {
    [key(field, 0), varint(value)].concat()
}

fn double(field: u64, value: f64) -> Vec<u8> {
    [key(field, 1), value.to_le_bytes().to_vec()].concat()
}

fn float(field: u64, value: f32) -> Vec<u8> {
    [key(field, 5), value.to_le_bytes().to_vec()].concat()
}

fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
    [key(field, 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn text(field: u64, value: &str) -> Vec<u8> {
    message(field, value.as_bytes())
}
