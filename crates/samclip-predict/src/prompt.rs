//! Prompts in original image pixels: what a user says about one object, parsed and checked.
//!
//! The text forms are those of the command line: a point is `X,Y` or `X,Y,LABEL` (1 belongs to the object,
//! 0 does not), a box is `X0,Y0,X1,Y1`. Parsing and checking are pure functions; `fuzz/` runs them on arbitrary text.

use std::fmt;

use samclip_image::Mask;

/// A click. Coordinates are original image pixels; (0, 0) is the top left pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Column.
    pub x: f32,
    /// Row.
    pub y: f32,
    /// True: the object is here. False: the object is not here.
    pub positive: bool,
}

/// What is known about one object. One prompt has one answer (or three with `multimask`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompt {
    /// A name; clicks may stand beside it where the model has an adapter, the other fields are empty.
    pub text: Option<String>,
    /// Clicks on and beside the object.
    pub points: Vec<Point>,
    /// x0, y0, x1, y1.
    pub bbox: Option<[f32; 4]>,
    /// A rough mask of the image's size.
    pub mask: Option<Mask>,
}

impl Prompt {
    /// A name.
    pub fn text(name: impl Into<String>) -> Self {
        Self { text: Some(name.into()), ..Self::default() }
    }

    /// One positive click.
    pub fn point(x: f32, y: f32) -> Self {
        Self { points: vec![Point { x, y, positive: true }], ..Self::default() }
    }

    /// A box x0, y0, x1, y1.
    pub fn bbox(bbox: [f32; 4]) -> Self {
        Self { bbox: Some(bbox), ..Self::default() }
    }

    /// `text`, `point`, `points`, `box`, `mask`, or a sum such as `points+box`.
    pub fn kind(&self) -> String {
        let mut parts = Vec::new();
        if self.text.is_some() {
            parts.push("text");
        }
        match self.points.len() {
            0 => {}
            1 => parts.push("point"),
            _ => parts.push("points"),
        }
        if self.bbox.is_some() {
            parts.push("box");
        }
        if self.mask.is_some() {
            parts.push("mask");
        }
        parts.join("+")
    }

    /// Checks the prompt against an image of `width` x `height` pixels.
    ///
    /// # Errors
    /// Coordinates that are not finite or outside the image, a box without area, an empty text, a mask of
    /// another size, or a prompt that says nothing.
    pub fn validate(&self, width: usize, height: usize) -> Result<(), PromptError> {
        if let Some(text) = &self.text {
            parse_text(text)?;
        }
        for point in &self.points {
            check_point(point, width, height)?;
        }
        if let Some(bbox) = self.bbox {
            check_box(bbox, width, height)?;
        }
        if let Some(mask) = &self.mask
            && (mask.width, mask.height) != (width, height)
        {
            return Err(PromptError::MaskSize { expected: (width, height), found: (mask.width, mask.height) });
        }
        let says_nothing = self.text.is_none() && self.points.is_empty() && self.bbox.is_none() && self.mask.is_none();
        if says_nothing { Err(PromptError::Nothing) } else { Ok(()) }
    }
}

/// Groups what the command line gave into prompts.
///
/// One point, box, mask or text is one prompt; several points, a box and a mask together describe one object;
/// several boxes on their own, and every text, are one prompt each.
///
/// # Errors
/// Nothing given, or several boxes together with points or a mask (which of them is the object's?).
pub fn group(
    texts: &[String],
    points: &[Point],
    boxes: &[[f32; 4]],
    mask: Option<&Mask>,
) -> Result<Vec<Prompt>, PromptError> {
    let mut prompts: Vec<Prompt> = texts.iter().map(Prompt::text).collect();
    match boxes {
        [] | [_] if !points.is_empty() || mask.is_some() => {
            let bbox = boxes.first().copied();
            prompts.push(Prompt { text: None, points: points.to_vec(), bbox, mask: mask.cloned() });
        }
        _ if points.is_empty() && mask.is_none() => prompts.extend(boxes.iter().copied().map(Prompt::bbox)),
        _ => return Err(PromptError::SeveralBoxes { boxes: boxes.len() }),
    }
    if prompts.is_empty() { Err(PromptError::Nothing) } else { Ok(prompts) }
}

/// One name and clicks become one prompt: an adapted model takes them together.
pub fn name_with_clicks(mut prompts: Vec<Prompt>) -> Vec<Prompt> {
    if let [Prompt { text: Some(_), .. }, Prompt { text: None, points, bbox: None, mask: None }] = prompts.as_slice() {
        let points = points.clone();
        prompts.truncate(1);
        prompts[0].points = points;
    }
    prompts
}

/// Reads `X,Y` or `X,Y,LABEL`.
///
/// # Errors
/// Another number of fields, a field that is no finite number, a label other than 0 and 1.
pub fn parse_point(text: &str) -> Result<Point, PromptError> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let syntax = || PromptError::PointSyntax { found: shorten(text) };
    let positive = match fields.get(2) {
        None => true,
        Some(&"1") => true,
        Some(&"0") => false,
        Some(other) => return Err(PromptError::Label { found: shorten(other) }),
    };
    if fields.len() < 2 || fields.len() > 3 {
        return Err(syntax());
    }
    let [x, y] = [fields[0], fields[1]].map(number);
    Ok(Point { x: x.ok_or_else(syntax)?, y: y.ok_or_else(syntax)?, positive })
}

/// Reads `X0,Y0,X1,Y1`.
///
/// # Errors
/// Another number of fields, a field that is no finite number, a box without area.
pub fn parse_box(text: &str) -> Result<[f32; 4], PromptError> {
    let syntax = || PromptError::BoxSyntax { found: shorten(text) };
    let fields: Vec<f32> = text.split(',').map(|field| number(field.trim()).ok_or_else(syntax)).collect::<Result<_, _>>()?;
    let bbox: [f32; 4] = fields.try_into().map_err(|_| syntax())?;
    check_area(bbox)?;
    Ok(bbox)
}

/// Trims a name.
///
/// # Errors
/// Nothing is left, the name is longer than 1,000 characters, or it holds a control character.
pub fn parse_text(text: &str) -> Result<String, PromptError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(PromptError::EmptyText);
    }
    if trimmed.chars().count() > 1000 || trimmed.chars().any(char::is_control) {
        return Err(PromptError::BadText { found: shorten(trimmed) });
    }
    Ok(trimmed.to_owned())
}

fn number(text: &str) -> Option<f32> {
    text.parse::<f32>().ok().filter(|value| value.is_finite())
}

fn check_point(point: &Point, width: usize, height: usize) -> Result<(), PromptError> {
    let inside = (0.0..=width as f32).contains(&point.x) && (0.0..=height as f32).contains(&point.y);
    if inside { Ok(()) } else { Err(PromptError::PointOutside { x: point.x, y: point.y, width, height }) }
}

fn check_box(bbox: [f32; 4], width: usize, height: usize) -> Result<(), PromptError> {
    check_area(bbox)?;
    let inside = |value: f32, limit: usize| (0.0..=limit as f32).contains(&value);
    let [x0, y0, x1, y1] = bbox;
    if inside(x0, width) && inside(x1, width) && inside(y0, height) && inside(y1, height) {
        Ok(())
    } else {
        Err(PromptError::BoxOutside { bbox: Coordinates(bbox), width, height })
    }
}

fn check_area(bbox: [f32; 4]) -> Result<(), PromptError> {
    let [x0, y0, x1, y1] = bbox;
    let has_area = bbox.iter().all(|value| value.is_finite()) && x1 > x0 && y1 > y0;
    if has_area { Ok(()) } else { Err(PromptError::BoxArea { bbox: Coordinates(bbox) }) }
}

/// At most 60 characters of what the user wrote, control characters replaced, for a message.
fn shorten(text: &str) -> String {
    let clean: String = text.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().count() > 60 { format!("{clean}…") } else { clean }
}

/// Four numbers as the user writes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinates(pub [f32; 4]);

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x0, y0, x1, y1] = self.0;
        write!(f, "{x0},{y0},{x1},{y1}")
    }
}

/// What can be wrong with a prompt.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PromptError {
    /// No text, point, box or mask.
    #[error("no prompt: expected at least one text, point, box or mask")]
    Nothing,
    /// `--text ""`.
    #[error("empty text: expected a name")]
    EmptyText,
    /// Control characters or an endless text.
    #[error("text is not a name: expected at most 1000 printable characters, found `{found}`")]
    BadText {
        /// The beginning of the text.
        found: String,
    },
    /// A point that does not parse.
    #[error("point does not parse: expected X,Y or X,Y,LABEL with finite numbers, found `{found}`")]
    PointSyntax {
        /// What was written.
        found: String,
    },
    /// A label other than 0 and 1.
    #[error("point label does not parse: expected 1 (on the object) or 0 (not on it), found `{found}`")]
    Label {
        /// What was written.
        found: String,
    },
    /// A box that does not parse.
    #[error("box does not parse: expected X0,Y0,X1,Y1 with finite numbers, found `{found}`")]
    BoxSyntax {
        /// What was written.
        found: String,
    },
    /// A box whose right or bottom side is not beyond its left or top side.
    #[error("box without area: expected X0 < X1 and Y0 < Y1, found {bbox}")]
    BoxArea {
        /// The box.
        bbox: Coordinates,
    },
    /// A box that leaves the image.
    #[error("box outside the image: expected x in 0..{width} and y in 0..{height}, found {bbox}")]
    BoxOutside {
        /// The box.
        bbox: Coordinates,
        /// Width of the image.
        width: usize,
        /// Height of the image.
        height: usize,
    },
    /// A point beside the image.
    #[error("point outside the image: expected x in 0..{width} and y in 0..{height}, found {x},{y}")]
    PointOutside {
        /// Column.
        x: f32,
        /// Row.
        y: f32,
        /// Width of the image.
        width: usize,
        /// Height of the image.
        height: usize,
    },
    /// Several boxes with points or a mask.
    #[error("points or a mask with {boxes} boxes: expected at most one box, because together they describe one object")]
    SeveralBoxes {
        /// How many boxes were given.
        boxes: usize,
    },
    /// A mask prompt of another size.
    #[error("mask prompt has another size than the image: expected {}x{}, found {}x{}", expected.0, expected.1, found.0, found.1)]
    MaskSize {
        /// Width and height of the image.
        expected: (usize, usize),
        /// Width and height of the mask.
        found: (usize, usize),
    },
}

impl PromptError {
    /// Advice for the user.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Nothing => Some("for masks of everything use `samclip everything`".to_owned()),
            Self::SeveralBoxes { .. } => Some("call once per object, or give the boxes alone".to_owned()),
            Self::PointOutside { .. } | Self::BoxOutside { .. } => {
                Some("coordinates are pixels of the image after its EXIF orientation is applied".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn points_and_boxes_parse() {
        assert_eq!(parse_point("10,20").unwrap(), Point { x: 10.0, y: 20.0, positive: true });
        assert_eq!(parse_point(" 1.5 , 2e1 , 0 ").unwrap(), Point { x: 1.5, y: 20.0, positive: false });
        assert_eq!(parse_box("0,1,2,3.5").unwrap(), [0.0, 1.0, 2.0, 3.5]);
    }

    #[test]
    fn malformed_prompts_are_named() {
        for bad in ["", "1", "1,2,3,4", "a,b", "nan,1", "inf,1", "1,,1", "1;2"] {
            assert!(matches!(parse_point(bad), Err(PromptError::PointSyntax { .. } | PromptError::Label { .. })), "{bad}");
        }
        assert!(matches!(parse_point("1,2,2"), Err(PromptError::Label { .. })));
        for bad in ["", "1,2,3", "1,2,3,4,5", "1,2,x,4", "1,2,nan,4"] {
            assert!(matches!(parse_box(bad), Err(PromptError::BoxSyntax { .. })), "{bad}");
        }
        for flat in ["5,5,5,9", "5,5,9,5", "9,9,5,5"] {
            assert!(matches!(parse_box(flat), Err(PromptError::BoxArea { .. })), "{flat}");
        }
        assert_eq!(parse_text("  \t"), Err(PromptError::EmptyText));
        assert!(matches!(parse_text("a\u{7}b"), Err(PromptError::BadText { .. })));
    }

    #[test]
    fn grouping_follows_the_contract() {
        let points = [Point { x: 1.0, y: 1.0, positive: true }, Point { x: 2.0, y: 2.0, positive: false }];
        let boxes = [[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0]];
        let texts = ["dog".to_owned(), "cat".to_owned()];
        assert_eq!(group(&texts, &[], &[], None).unwrap().len(), 2);
        assert_eq!(group(&[], &points, &boxes[..1], None).unwrap().len(), 1);
        assert_eq!(group(&[], &[], &boxes, None).unwrap().len(), 2);
        assert_eq!(group(&texts, &points[..1], &[], None).unwrap().len(), 3);
        assert!(matches!(group(&[], &points, &boxes, None), Err(PromptError::SeveralBoxes { boxes: 2 })));
        assert!(matches!(group(&[], &[], &[], None), Err(PromptError::Nothing)));
        let mask = Mask { width: 2, height: 2, data: vec![true; 4] };
        assert_eq!(group(&[], &[], &boxes[..1], Some(&mask)).unwrap().len(), 1);
        assert_eq!(group(&[], &[], &[], Some(&mask)).unwrap()[0].kind(), "mask");
    }

    #[test]
    fn prompts_must_be_inside_the_image() {
        assert!(Prompt::point(0.0, 0.0).validate(4, 3).is_ok());
        assert!(Prompt::bbox([0.0, 0.0, 4.0, 3.0]).validate(4, 3).is_ok());
        assert!(matches!(Prompt::point(4.5, 1.0).validate(4, 3), Err(PromptError::PointOutside { .. })));
        assert!(matches!(Prompt::point(f32::NAN, 1.0).validate(4, 3), Err(PromptError::PointOutside { .. })));
        assert!(matches!(Prompt::bbox([1.0, 1.0, 4.0, 3.5]).validate(4, 3), Err(PromptError::BoxOutside { .. })));
        assert!(matches!(Prompt::bbox([1.0, 1.0, f32::NAN, 2.0]).validate(4, 3), Err(PromptError::BoxArea { .. })));
        assert!(matches!(Prompt::default().validate(4, 3), Err(PromptError::Nothing)));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_accepted_values_are_sound(text in ".{0,40}") {
            if let Ok(point) = parse_point(&text) {
                prop_assert!(point.x.is_finite() && point.y.is_finite());
            }
            if let Ok([x0, y0, x1, y1]) = parse_box(&text) {
                prop_assert!(x1 > x0 && y1 > y0);
            }
            if let Ok(name) = parse_text(&text) {
                prop_assert_eq!(name.trim(), name.as_str());
            }
        }

        #[test]
        fn what_is_written_is_read_back(x in -1e6f32..1e6, y in -1e6f32..1e6, positive in any::<bool>()) {
            let text = format!("{x},{y},{}", u8::from(positive));
            prop_assert_eq!(parse_point(&text).unwrap(), Point { x, y, positive });
        }
    }
}
