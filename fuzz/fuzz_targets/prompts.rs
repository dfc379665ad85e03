//! Prompts of the command line: any text is a point, a box or a name, or an error; what is accepted
//! is sound and passes or fails the check against an image without a crash.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The file alone: the crate around it brings the engine.
#[path = "../../crates/samclip-predict/src/prompt.rs"]
#[allow(dead_code)]
mod prompt;

use prompt::{Prompt, group, parse_box, parse_point, parse_text};

fuzz_target!(|data: (u16, u16, &str, &str, &str)| {
    let (width, height, point, bbox, text) = data;
    let point = parse_point(point).ok();
    let bbox = parse_box(bbox).ok();
    let text = parse_text(text).ok();
    if let Some(point) = point {
        assert!(point.x.is_finite() && point.y.is_finite());
    }
    if let Some([x0, y0, x1, y1]) = bbox {
        assert!(x0 < x1 && y0 < y1);
    }
    let texts: Vec<String> = text.into_iter().collect();
    let points: Vec<_> = point.into_iter().collect();
    let boxes: Vec<_> = bbox.into_iter().collect();
    if let Ok(prompts) = group(&texts, &points, &boxes, None) {
        let inside = |prompt: &Prompt| prompt.validate(usize::from(width), usize::from(height)).is_ok();
        let _ = prompts.iter().filter(|prompt| inside(prompt)).count();
    }
});
