//! From the class names of the datasets to the names of the text table.
//!
//! The table is the B/32 vocabulary (LVIS, COCO, Objects365, OpenImages; `text/names.txt`). A
//! class without a counterpart is listed with [`None`]: it has no text and its pixels take no
//! part in losses on text. Several classes may share a name; a training objective must treat
//! them as one. `tests/names.rs` checks every name against the table.

use crate::error::read_lines;
use crate::{DataError, Dataset};
use std::path::Path;

/// (class, name in the text table, further names that mean the same).
pub type Entry = (&'static str, Option<&'static str>, &'static [&'static str]);

/// The text names of every class of a dataset, in the order of its label values.
///
/// `text` is the folder of the text table; only ImageNet's 1,000 classes need it
/// (`imagenet1k_to_name.tsv`).
///
/// # Errors
/// A dataset without a map, a class that its map does not list, or an unreadable file.
pub fn name_map(dataset: &dyn Dataset, text: &Path) -> Result<Vec<Option<String>>, DataError> {
    if dataset.name() == "imagenet1k" {
        let names = imagenet1k(&text.join("imagenet1k_to_name.tsv"))?;
        if names.len() != dataset.class_names().len() {
            let (expected, found) = (dataset.class_names().len(), names.len());
            let message = format!("imagenet1k has {expected} classes but the map lists {found}");
            return Err(DataError::Config(message));
        }
        return Ok(names);
    }
    let classes = dataset.class_names();
    let Some(table) = table(dataset.name()) else {
        let message = format!("dataset `{}` has no map to the names of the text table", dataset.name());
        return if classes.is_empty() { Ok(Vec::new()) } else { Err(DataError::Config(message)) };
    };
    let find = |class: &String| match table.iter().find(|e| e.0 == class) {
        Some(entry) => Ok(entry.1.map(str::to_owned)),
        None if dataset.name() == "imagenet_folders" => Ok(Some(class.replace('_', " ").to_lowercase())),
        None => Err(DataError::Config(format!("class `{class}` of `{}` is not in the map of names", dataset.name()))),
    };
    classes.iter().map(find).collect()
}

/// The map of a dataset: `voc`, `ccp`, `camvid`, or `imagenet_folders` (the 200 detection
/// synsets; only the folders whose name is not already the table's with `_` for a space).
pub fn table(dataset: &str) -> Option<&'static [Entry]> {
    match dataset {
        "voc" | "voc_aug" => Some(VOC),
        "ccp" => Some(CCP),
        "camvid" => Some(CAMVID),
        "imagenet_folders" => Some(IMAGENET_FOLDERS),
        _ => None,
    }
}

/// The third column of `imagenet1k_to_name.tsv`, none where it is empty.
///
/// # Errors
/// A missing file, or a line whose index is not its position.
pub fn imagenet1k(path: &Path) -> Result<Vec<Option<String>>, DataError> {
    let mut names = Vec::new();
    for line in read_lines(path)?.into_iter().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[0] != names.len().to_string() || !(2..=3).contains(&fields.len()) {
            let message = format!("expected `{}<tab>class<tab>name`, found `{line}`", names.len());
            return Err(DataError::format(path, message));
        }
        names.push(fields.get(2).filter(|n| !n.is_empty()).map(|n| (*n).to_owned()));
    }
    Ok(names)
}

/// PASCAL VOC. `background` is the absence of a name.
pub const VOC: &[Entry] = &[
    ("background", None, &[]),
    ("aeroplane", Some("airplane"), &["jet plane"]),
    ("bicycle", Some("bicycle"), &[]),
    ("bird", Some("bird"), &[]),
    ("boat", Some("boat"), &["ship", "watercraft"]),
    ("bottle", Some("bottle"), &[]),
    ("bus", Some("bus"), &["bus (vehicle)"]),
    ("car", Some("car"), &["car (automobile)"]),
    ("cat", Some("cat"), &["kitten"]),
    ("chair", Some("chair"), &[]),
    ("cow", Some("cow"), &["cattle"]),
    ("diningtable", Some("dining table"), &["table"]),
    ("dog", Some("dog"), &["puppy"]),
    ("horse", Some("horse"), &["pony"]),
    ("motorbike", Some("motorcycle"), &[]),
    ("person", Some("person"), &["man", "woman", "boy", "girl"]),
    ("pottedplant", Some("potted plant"), &["houseplant"]),
    ("sheep", Some("sheep"), &["lamb (animal)"]),
    ("sofa", Some("sofa"), &["couch"]),
    ("train", Some("train"), &["train (railroad vehicle)"]),
    ("tvmonitor", Some("tv"), &["television set", "television", "monitor/tv", "computer monitor"]),
];

/// Clothing Co-Parsing. `null` is the absence of a name; `skin`, `accessories` and `bodysuit`
/// have no counterpart.
pub const CCP: &[Entry] = &[
    ("null", None, &[]),
    ("accessories", None, &[]),
    ("bag", Some("handbag"), &["handbag/satchel"]),
    ("belt", Some("belt"), &[]),
    ("blazer", Some("blazer"), &[]),
    ("blouse", Some("blouse"), &[]),
    ("bodysuit", None, &[]),
    ("boots", Some("boots"), &["boot"]),
    ("bra", Some("brassiere"), &[]),
    ("bracelet", Some("bracelet"), &[]),
    ("cape", Some("cape"), &[]),
    ("cardigan", Some("cardigan"), &[]),
    ("clogs", Some("other shoes"), &["footwear"]),
    ("coat", Some("coat"), &[]),
    ("dress", Some("dress"), &[]),
    ("earrings", Some("earrings"), &["earring"]),
    ("flats", Some("other shoes"), &["footwear"]),
    ("glasses", Some("glasses"), &["spectacles"]),
    ("gloves", Some("gloves"), &["glove"]),
    ("hair", Some("human hair"), &[]),
    ("hat", Some("hat"), &[]),
    ("heels", Some("high heels"), &[]),
    ("hoodie", Some("sweatshirt"), &[]),
    ("intimate", Some("underwear"), &[]),
    ("jacket", Some("jacket"), &[]),
    ("jeans", Some("jeans"), &["jean"]),
    ("jumper", Some("sweater"), &[]),
    ("leggings", Some("legging (clothing)"), &[]),
    ("loafers", Some("leather shoes"), &[]),
    ("necklace", Some("necklace"), &[]),
    ("panties", Some("underwear"), &[]),
    ("pants", Some("trousers"), &[]),
    ("pumps", Some("high heels"), &[]),
    ("purse", Some("handbag"), &[]),
    ("ring", Some("ring"), &[]),
    ("romper", Some("jumpsuit"), &[]),
    ("sandals", Some("sandals"), &["sandal"]),
    ("scarf", Some("scarf"), &[]),
    ("shirt", Some("shirt"), &[]),
    ("shoes", Some("shoe"), &["footwear"]),
    ("shorts", Some("shorts"), &["short pants"]),
    ("skin", None, &[]),
    ("skirt", Some("skirt"), &["miniskirt"]),
    ("sneakers", Some("sneakers"), &[]),
    ("socks", Some("sock"), &[]),
    ("stockings", Some("pantyhose"), &[]),
    ("suit", Some("suit"), &["suit (clothing)", "dress suit"]),
    ("sunglasses", Some("sunglasses"), &[]),
    ("sweater", Some("sweater"), &[]),
    ("sweatshirt", Some("sweatshirt"), &[]),
    ("swimwear", Some("swimwear"), &["swimsuit"]),
    ("t-shirt", Some("jersey"), &[]),
    ("tie", Some("tie"), &["necktie"]),
    ("tights", Some("tights (clothing)"), &[]),
    ("top", Some("shirt"), &[]),
    ("vest", Some("vest"), &[]),
    ("wallet", Some("wallet"), &[]),
    ("watch", Some("watch"), &[]),
    ("wedges", Some("high heels"), &[]),
];

/// CamVid. The vocabulary names things, not stuff: no sky, road, pavement or fence.
pub const CAMVID: &[Entry] = &[
    ("sky", None, &[]),
    ("building", Some("building"), &["house", "office building"]),
    ("pole", Some("pole"), &["telephone pole"]),
    ("road", None, &[]),
    ("pavement", None, &[]),
    ("tree", Some("tree"), &[]),
    ("signsymbol", Some("traffic sign"), &["street sign"]),
    ("fence", None, &[]),
    ("car", Some("car"), &["car (automobile)"]),
    ("pedestrian", Some("person"), &[]),
    ("bicyclist", None, &[]), // a person and a bicycle under one label
    ("unlabelled", None, &[]),
];

/// Folders of the ImageNet detection synsets that are spelt otherwise than in the table.
pub const IMAGENET_FOLDERS: &[Entry] = &[
    ("armadillo", Some("animal"), &[]),
    ("axe", Some("ax"), &[]),
    ("baby_bed", Some("infant bed"), &["crib"]),
    ("balance_beam", None, &[]),
    ("bathing_cap", Some("swim cap"), &[]),
    ("bookshelf", Some("bookcase"), &[]),
    ("bow", Some("bow and arrow"), &[]),
    ("chain_saw", Some("chainsaw"), &[]),
    ("cocktail_shaker", Some("shaker"), &[]),
    ("computer_mouse", Some("mouse (computer equipment)"), &["mouse"]),
    ("cream", Some("cosmetics"), &[]),
    ("croquet_ball", Some("ball"), &[]),
    ("cup_or_mug", Some("mug"), &["cup"]),
    ("domestic_cat", Some("cat"), &[]),
    ("electric_fan", Some("fan"), &["mechanical fan"]),
    ("face_powder", Some("cosmetics"), &[]),
    ("fig", Some("fig (fruit)"), &["common fig"]),
    ("flower_pot", Some("flowerpot"), &[]),
    ("french_horn", Some("horn"), &[]),
    ("hair_spray", Some("aerosol can"), &[]),
    ("harmonica", Some("musical instrument"), &[]),
    ("hat_with_a_wide_brim", Some("hat"), &[]),
    ("head_cabbage", Some("cabbage"), &[]),
    ("horizontal_bar", None, &[]),
    ("hotdog", Some("hot dog"), &[]),
    ("isopod", Some("invertebrate"), &[]),
    ("koala_bear", Some("koala"), &[]),
    ("maillot", Some("swimsuit"), &["swimwear"]),
    ("maraca", Some("musical instrument"), &[]),
    ("neck_brace", None, &[]),
    ("plate_rack", None, &[]),
    ("power_drill", Some("electric drill"), &["drill"]),
    ("puck", None, &[]),
    ("purse", Some("handbag"), &[]),
    ("ray", Some("fish"), &[]),
    ("red_panda", Some("animal"), &[]),
    ("rubber_eraser", Some("eraser"), &[]),
    ("salt_or_pepper_shaker", Some("salt and pepper shakers"), &["saltshaker"]),
    ("scorpion", Some("invertebrate"), &[]),
    ("skunk", Some("animal"), &[]),
    ("soap_dispenser", Some("dispenser"), &[]),
    ("stethoscope", None, &[]),
    ("swimming_trunks", Some("swimsuit"), &["swimwear"]),
    ("swine", Some("pig"), &[]),
    ("tape_player", Some("stereo (sound system)"), &[]),
    ("tv_or_monitor", Some("tv"), &["television", "computer monitor"]),
    ("vacuum", Some("vacuum cleaner"), &[]),
    ("washer", Some("automatic washer"), &["washing machine"]),
];
