//! What a run leaves beside its checkpoint: the log, TensorBoard's events, the loss curve.

use samclip_train::events::{EVENTS_FILE, masked_crc};
use samclip_train::plot::{CURVE_FILE, scatter, write_curve};
use samclip_train::run_log::{Line, RunLog, read};
use std::path::Path;

fn line(step: usize) -> Line {
    Line {
        step,
        steps: 9,
        losses: [("task/objective/term".to_owned(), step as f32 * 0.5)].into(),
        loss: 3.0 / step as f32,
        lr: 1e-3,
        grad_norm: 2.0,
        images_per_second: 7.0,
        seconds: step as f64,
        skipped: 0,
    }
}

/// The records of an event file, every checksum checked.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let (mut rest, mut out) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        assert_eq!(crc(8), masked_crc(&rest[..8]));
        assert_eq!(crc(12 + length), masked_crc(&rest[12..12 + length]));
        out.push(rest[12..12 + length].to_vec());
        rest = &rest[16 + length..];
    }
    out
}

#[test]
fn the_checksum_is_tensorflows() {
    // CRC-32C of "123456789" is 0xe3069283 (RFC 3720, B.4); masked as crc32c.h does
    let plain: u32 = 0xe306_9283;
    assert_eq!(masked_crc(b"123456789"), (plain >> 15 | plain << 17).wrapping_add(0xa282_ead8));
}

#[test]
fn a_continued_log_has_every_step_once_in_all_forms() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = RunLog::open(folder.path(), 0).unwrap();
    (1..=5).for_each(|step| log.write(&line(step)).unwrap());
    drop(log);
    let mut log = RunLog::open(folder.path(), 3).unwrap(); // the checkpoint is of step 3
    (4..=6).for_each(|step| log.write(&line(step)).unwrap());
    assert_eq!(log.lines().len(), 6);
    write_curve(folder.path(), "a run", log.lines()).unwrap();
    let steps: Vec<usize> = read(&folder.path().join("log.jsonl")).unwrap().iter().map(|l| l.step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);

    let records = records(&folder.path().join(EVENTS_FILE));
    assert_eq!(records.len(), 7);
    assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
    for (i, record) in records[1..].iter().enumerate() {
        // field 1 (double), then field 2 (varint): the step
        assert_eq!((record[0], &record[9..11]), (0x09, &[0x10, i as u8 + 1][..]));
        let tag = b"task/objective/term";
        let at = record.windows(tag.len()).position(|w| w == tag).unwrap() + tag.len();
        assert_eq!(record[at], 0x15); // field 2 of the value, four bytes
        assert_eq!(f32::from_le_bytes(record[at + 1..at + 5].try_into().unwrap()), (i + 1) as f32 * 0.5);
    }
    let svg = std::fs::read_to_string(folder.path().join(CURVE_FILE)).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("a run") && svg.matches("<polyline").count() >= 2);
}

#[test]
fn points_have_their_names() {
    let points = [("joint".to_owned(), 0.5, 0.7), ("kd <only>".to_owned(), 0.6, 0.3)];
    let svg = scatter("trade-off", ["classify", "box"], &points).unwrap();
    assert!(svg.contains("joint") && svg.contains("kd &lt;only&gt;") && svg.matches("<circle").count() == 2, "{svg}");
    let side = |name: &str| svg.split("<text").find(|t| t.contains(name)).is_some_and(|t| t.contains("text-anchor=\"end\""));
    assert!(side("kd &lt;only&gt;") && !side("joint"), "a name on the right ends at its point, inside the plot: {svg}");
    let same = scatter("trade-off", ["x", "y"], &[points[0].clone(), ("also".to_owned(), 0.5, 0.7), points[1].clone()]).unwrap();
    assert!(same.contains("joint, also") && same.matches("<circle").count() == 3, "one place, one label: {same}");
    assert!(scatter("none", ["x", "y"], &[]).unwrap().is_empty());
}
