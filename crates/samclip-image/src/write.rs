//! PNG output. Files appear whole or not at all: a temporary file in the same folder is renamed
//! onto the target.

use std::io::Write;
use std::path::Path;

use crate::{Image, ImageError, LabelMap, Mask, palette_color};

/// Writes `bytes` to `path` atomically.
///
/// # Errors
/// [`ImageError::Write`]; the target is then as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let failed = |error: std::io::Error| ImageError::write(path, error);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".samclip-").suffix(".tmp");
    #[cfg(unix)]
    {
        // Temporary files are private by default; this one becomes an ordinary file (less umask).
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// An 8-bit RGB PNG.
///
/// # Errors
/// [`ImageError::Write`].
pub fn write_png_rgb(path: &Path, image: &Image) -> Result<(), ImageError> {
    write_png(path, (image.width(), image.height()), png::ColorType::Rgb, None, image.data())
}

/// An 8-bit grey PNG: foreground 255, background 0.
///
/// # Errors
/// [`ImageError::Write`].
pub fn write_png_mask(path: &Path, mask: &Mask) -> Result<(), ImageError> {
    let grey: Vec<u8> = mask.data.iter().map(|&set| if set { 255 } else { 0 }).collect();
    write_png(path, (mask.width, mask.height), png::ColorType::Grayscale, None, &grey)
}

/// An 8-bit palette PNG with PASCAL VOC's colours: index = class number.
///
/// # Errors
/// [`ImageError::Write`].
pub fn write_png_palette(path: &Path, labels: &LabelMap) -> Result<(), ImageError> {
    let palette: Vec<u8> = (0..256).flat_map(palette_color).collect();
    let size = (labels.width, labels.height);
    write_png(path, size, png::ColorType::Indexed, Some(palette), &labels.data)
}

fn write_png(
    path: &Path,
    size: (usize, usize),
    color: png::ColorType,
    palette: Option<Vec<u8>>,
    data: &[u8],
) -> Result<(), ImageError> {
    let bytes = encode_png(size, color, palette, png::Compression::Balanced, data);
    write_atomic(path, &bytes.map_err(|error| ImageError::write(path, error))?)
}

/// The bytes of an 8-bit grey PNG, compressed little: for answers that are sent at once.
///
/// # Panics
/// If there are not `width * height` values.
pub fn png_grey(width: usize, height: usize, grey: &[u8]) -> Vec<u8> {
    assert_eq!(grey.len(), width * height, "a value for every pixel");
    // writing to memory cannot fail otherwise
    encode_png((width, height), png::ColorType::Grayscale, None, png::Compression::Fast, grey).unwrap_or_default()
}

fn encode_png(
    (width, height): (usize, usize),
    color: png::ColorType,
    palette: Option<Vec<u8>>,
    compression: png::Compression,
    data: &[u8],
) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(compression);
    if let Some(palette) = palette {
        encoder.set_palette(palette);
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(data)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.png");
        let image = Image::new(3, 2, (0..18).collect()).unwrap();
        write_png_rgb(&path, &image).unwrap();
        assert_eq!(Image::open(&path, &Default::default()).unwrap(), image);

        let labels = LabelMap::new(3, 2, vec![0, 1, 20, 255, 3, 0]).unwrap();
        write_png_palette(&path, &labels).unwrap();
        assert_eq!(LabelMap::open(&path).unwrap(), labels);
        assert_eq!(Mask::open(&path).unwrap().data, [false, true, true, true, true, false]);
        let colors = Image::open(&path, &Default::default()).unwrap();
        assert_eq!(colors.pixel(2, 0), palette_color(20));

        let mask = Mask::new(3, 2, vec![true, false, true, false, false, true]).unwrap();
        write_png_mask(&path, &mask).unwrap();
        assert_eq!(Mask::open(&path).unwrap(), mask);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_clear_error() {
        let path = Path::new("/nonexistent-folder/mask.png");
        let error = write_png_mask(path, &Mask::empty(2, 2)).unwrap_err();
        assert!(error.to_string().ends_with("/nonexistent-folder/mask.png"), "{error}");
        assert!(error.hint().is_some());
    }
}
