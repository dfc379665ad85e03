//! Masks drawn over a photo, for people to look at.

use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};

use crate::{Image, Mask};

/// PASCAL VOC's colour for class `i` (modulo 256): 0 is black. The bits of `i` go to red, green,
/// blue in turn, from the highest down.
pub fn palette_color(i: usize) -> [u8; 3] {
    let mut color = [0u8; 3];
    let mut rest = i % 256;
    for bit in (0..8).rev() {
        for (c, value) in color.iter_mut().enumerate() {
            *value |= ((rest >> c & 1) as u8) << bit;
        }
        rest >>= 3;
    }
    color
}

/// `image` with every mask tinted in its colour, outlined, and labelled at its top. Later masks lie
/// on top. Masks of another size are an error of the caller and panic.
pub fn overlay(image: &Image, masks: &[(&Mask, [u8; 3], Option<&str>)]) -> Image {
    let mut out = image.clone();
    let line = (image.width().max(image.height()) / 500).clamp(1, 6);
    for (mask, color, _) in masks {
        assert_eq!(mask.size(), image.size(), "mask and image of one size");
        tint(&mut out, mask, *color);
        outline(&mut out, mask, *color, line);
    }
    for (mask, color, text) in masks {
        if let Some(text) = text
            && mask.area() > 0
        {
            label(&mut out, mask, *color, text, line);
        }
    }
    out
}

fn tint(out: &mut Image, mask: &Mask, color: [u8; 3]) {
    for (pixel, _) in out.data_mut().chunks_exact_mut(3).zip(&mask.data).filter(|(_, set)| **set) {
        for (value, tone) in pixel.iter_mut().zip(color) {
            *value = ((u16::from(*value) * 55 + u16::from(tone) * 45) / 100) as u8;
        }
    }
}

/// Paints foreground pixels that have background within `line` steps left, right, up or down.
fn outline(out: &mut Image, mask: &Mask, color: [u8; 3], line: usize) {
    let (h, w) = mask.size();
    for y in 0..h {
        for x in 0..w {
            let edge = || {
                let clear = |x: usize, y: usize| !mask.data[y * w + x];
                (1..=line).any(|d| {
                    (x >= d && clear(x - d, y))
                        || (x + d < w && clear(x + d, y))
                        || (y >= d && clear(x, y - d))
                        || (y + d < h && clear(x, y + d))
                })
            };
            if mask.data[y * w + x] && edge() {
                paint(out, x, y, color);
            }
        }
    }
}

/// The text on a plate of the mask's colour, at the first foreground pixel in reading order.
fn label(out: &mut Image, mask: &Mask, color: [u8; 3], text: &str, line: usize) {
    let size = line.max(1) + usize::from(out.width() > 350);
    let first = mask.data.iter().position(|&set| set).unwrap_or(0);
    let (plate_w, plate_h) = (text.chars().count() * 8 * size + 2 * size, 10 * size);
    let x0 = (first % mask.width).min(out.width().saturating_sub(plate_w));
    let y0 = (first / mask.width).min(out.height().saturating_sub(plate_h));
    for y in y0..(y0 + plate_h).min(out.height()) {
        for x in x0..(x0 + plate_w).min(out.width()) {
            paint(out, x, y, color);
        }
    }
    let brightness: u32 = color.iter().zip([299, 587, 114]).map(|(&v, k)| u32::from(v) * k).sum();
    let ink = if brightness > 140_000 { [0; 3] } else { [255; 3] };
    for (i, character) in text.chars().enumerate() {
        let glyph = glyph(character);
        for (row, bits) in glyph.iter().enumerate() {
            for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                let (x, y) = (x0 + (i * 8 + column + 1) * size, y0 + (row + 1) * size);
                for (dx, dy) in (0..size).flat_map(|dy| (0..size).map(move |dx| (dx, dy))) {
                    paint(out, x + dx, y + dy, ink);
                }
            }
        }
    }
}

fn glyph(character: char) -> [u8; 8] {
    let found = BASIC_FONTS.get(character).or_else(|| LATIN_FONTS.get(character));
    found.or_else(|| BASIC_FONTS.get('?')).unwrap_or([0x7e; 8])
}

fn paint(out: &mut Image, x: usize, y: usize, color: [u8; 3]) {
    if x < out.width() && y < out.height() {
        let i = (y * out.width() + x) * 3;
        out.data_mut()[i..i + 3].copy_from_slice(&color);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_palette_is_voc_s() {
        let voc = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]];
        assert_eq!(std::array::from_fn::<_, 5, _>(palette_color), voc);
        assert_eq!(palette_color(20), [0, 64, 128]);
        assert_eq!(palette_color(255), [224, 224, 192]);
    }

    #[test]
    fn only_masked_and_labelled_pixels_change() {
        let image = Image::new(60, 40, vec![100; 60 * 40 * 3]).unwrap();
        let mut mask = Mask::empty(60, 40);
        for y in 25..35 {
            mask.data[y * 60 + 30..y * 60 + 45].fill(true);
        }
        let drawn = overlay(&image, &[(&mask, [200, 0, 0], None)]);
        assert_eq!(drawn.pixel(0, 0), [100; 3]);
        assert_eq!(drawn.pixel(37, 30), [145, 55, 55]);
        assert_eq!(drawn.pixel(30, 25), [200, 0, 0]);
        let named = overlay(&image, &[(&mask, [200, 0, 0], Some("dög 犬"))]);
        assert_ne!(named, drawn);
        overlay(&image, &[(&Mask::empty(60, 40), [1, 2, 3], Some("nothing here"))]);
    }
}
