//! Which names compete with each other for a token: the class lists that sam_clip_nano was trained on.
//!
//! A text takes part in the softmax of the first list that holds it, or of the first list; so the answer for one
//! text does not depend on the other texts of the request. A weight file can bring its own lists in its metadata
//! (`contrast_names`: JSON, a list of lists).

/// Animals, people, vehicles, furniture.
pub(crate) const ANIMALS_AND_VEHICLES: &[&str] = &[
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorcycle", "person", "potted plant", "sheep", "sofa", "train", "tv",
];

/// Clothing.
pub(crate) const CLOTHING: &[&str] = &[
    "handbag", "belt", "blazer", "blouse", "boots", "brassiere", "bracelet", "cape", "cardigan", "other shoes",
    "coat", "dress", "earrings", "glasses", "gloves", "human hair", "hat", "high heels", "sweatshirt", "underwear",
    "jacket", "jeans", "sweater", "legging (clothing)", "leather shoes", "necklace", "trousers", "ring", "jumpsuit",
    "sandals", "scarf", "shirt", "shoe", "shorts", "skirt", "sneakers", "sock", "pantyhose", "suit", "sunglasses",
    "swimwear", "jersey", "tie", "tights (clothing)", "vest", "wallet", "watch",
];

/// Street scenes.
pub(crate) const STREET: &[&str] = &[
    "building", "pole", "tree", "traffic sign", "car", "person",
];
