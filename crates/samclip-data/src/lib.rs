//! Datasets (one file each), augmentation and the seeded, resumable loader.
