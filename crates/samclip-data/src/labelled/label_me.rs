//! LabelMe: a `.json` of shapes beside each photo. Polygons and rectangles count.
//!
//! Reference: the files of wkentaro/labelme (`imagePath`, `shapes`: `label`, `points`, `shape_type`).
//! `classes.txt` in the folder fixes the order of the classes; without it they are sorted by name.

use super::check::Finding;
use super::paint::{self, Instance};
use super::{BACKGROUND, VOID};
use crate::dataset::{check_index, open_image};
use crate::error::{list_files, read_lines, read_text};
use crate::{DataError, Dataset, Sample};
use samclip_image::Mask;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A folder of LabelMe files.
#[derive(Debug)]
pub struct LabelMe {
    files: Vec<(PathBuf, File)>,
    classes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    image_path: String,
    #[serde(default)]
    image_width: usize,
    #[serde(default)]
    image_height: usize,
    shapes: Vec<Shape>,
}

#[derive(Debug, Deserialize)]
struct Shape {
    label: String,
    points: Vec<[f64; 2]>,
    #[serde(default = "polygon")]
    shape_type: String,
}

fn polygon() -> String {
    "polygon".to_owned()
}

impl LabelMe {
    /// Reads every `.json` of the folder.
    ///
    /// # Errors
    /// A file that is not LabelMe's, more than 254 classes.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let mut files = Vec::new();
        for path in list_files(folder, &["json"])? {
            let file = serde_json::from_str(&read_text(&path)?);
            files.push((path.clone(), file.map_err(|e| DataError::format(&path, format!("LabelMe: {e}")))?));
        }
        let list = folder.join("classes.txt");
        let named = |name: &String| !is(&BACKGROUND, name) && !is(&VOID, name);
        let names: Vec<String> = match list.is_file() {
            true => read_lines(&list)?.into_iter().filter(named).collect(),
            false => {
                let labels = files.iter().flat_map(|(_, f): &(PathBuf, File)| f.shapes.iter().map(|s| s.label.clone()));
                labels.filter(named).collect::<BTreeSet<_>>().into_iter().collect()
            }
        };
        let classes = paint::class_list(names.into_iter(), folder)?;
        Ok(Self { files, classes })
    }

    /// The labels of photo `index`.
    pub(super) fn label_file(&self, index: usize) -> PathBuf {
        self.files[index].0.clone()
    }

    /// Everything that is wrong with the files.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut photos = BTreeSet::new();
        for (path, file) in &self.files {
            let mut add = |message: String| found.push(Finding { file: path.clone(), message });
            if !photos.insert(&file.image_path) {
                add(format!("photo {} has a second file", file.image_path));
            }
            for (i, shape) in file.shapes.iter().enumerate() {
                let (width, height) = (file.image_width.max(1), file.image_height.max(1));
                match self.instance(shape, height, width) {
                    Err(what) => add(format!("shape {i} ({}): {what}", shape.label)),
                    Ok(instance) if instance.mask.area() == 0 && file.image_width > 0 => {
                        add(format!("shape {i} ({}): an empty mask", shape.label));
                    }
                    Ok(_) => {}
                }
            }
        }
        found
    }

    fn instance(&self, shape: &Shape, height: usize, width: usize) -> Result<Instance, String> {
        let class = match is(&VOID, &shape.label) {
            true => None,
            false => {
                let at = self.classes.iter().position(|c| *c == shape.label);
                Some(at.ok_or_else(|| "a class that classes.txt does not list".to_owned())? as u8)
            }
        };
        Ok(Instance { class, mask: mask(shape, height, width)? })
    }
}

fn is(names: &[&str], label: &str) -> bool {
    names.contains(&label.to_lowercase().as_str())
}

fn mask(shape: &Shape, height: usize, width: usize) -> Result<Mask, String> {
    let outline: Vec<f64> = match (shape.shape_type.as_str(), shape.points.as_slice()) {
        ("polygon", points) => points.concat(),
        ("rectangle", [[x0, y0], [x1, y1]]) => vec![*x0, *y0, *x1, *y0, *x1, *y1, *x0, *y1],
        ("rectangle", points) => return Err(format!("a rectangle of {} points, expected two", points.len())),
        (other, _) => return Err(format!("a shape of type {other}, expected polygon or rectangle")),
    };
    paint::polygons(&[outline], height, width)
}

impl Dataset for LabelMe {
    fn name(&self) -> &str {
        "labelme"
    }
    fn len(&self) -> usize {
        self.files.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let (path, file) = &self.files[index];
        let photo = path.parent().unwrap_or(Path::new(".")).join(file.image_path.replace('\\', "/"));
        let image = open_image(&photo)?;
        let (width, height) = (image.width(), image.height());
        let stated = (file.image_width, file.image_height);
        if stated != (0, 0) && stated != (width, height) {
            return Err(DataError::SizeMismatch { mask: stated, image: (width, height), path: path.clone() });
        }
        let instance = |(i, shape): (usize, &Shape)| {
            let bad = |what| DataError::format(path, format!("shape {i} ({}): {what}", shape.label));
            self.instance(shape, height, width).map_err(bad)
        };
        let instances = file.shapes.iter().enumerate().map(instance).collect::<Result<_, _>>()?;
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(paint::sample(id, image, instances))
    }
    fn id(&self, index: usize) -> Option<String> {
        self.files.get(index).map(|(path, _)| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}
