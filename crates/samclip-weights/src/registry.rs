//! The official checkpoint files: where they are, how large, which SHA-256, which licence.
//!
//! Sources of the values: the download links of the projects' READMEs; OpenAI's digests are part of its URLs
//! (openai/CLIP `clip/clip.py`, `_MODELS`); the digests and sizes of SAM and MobileSAM are those that several
//! published programs, independently of each other, verify downloads against (micro-sam `util.py`,
//! SlicerSegmentAnything and others). The six digits in SAM's file names are not a part of the SHA-256.
//! The files of the Hugging Face hub are pinned by commit; no digest of them is published, so [`Digest::Hub`]
//! takes the one that the hub states for the pinned commit at download time.

/// How a file is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256 of the file, lower-case hex.
    Sha256(&'static str),
    /// Not published: the hub states the SHA-256 of the pinned commit's file (`X-Linked-Etag`); a source that
    /// states none leaves the file unverified, which is reported.
    Hub,
}

/// A file that `samclip pull` fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfficialModel {
    /// Name for `samclip pull`.
    pub name: &'static str,
    /// Variants it can be loaded as.
    pub variant: &'static str,
    /// Where its authors publish it.
    pub url: &'static str,
    /// Name of the local file.
    pub file: &'static str,
    /// Bytes, where published.
    pub size: Option<u64>,
    /// How it is verified.
    pub digest: Digest,
    /// Licence of the weights.
    pub licence: &'static str,
    /// One line for `samclip models`.
    pub about: &'static str,
}

impl OfficialModel {
    /// The SHA-256 in lower-case hex, where it is known beforehand.
    pub fn sha256(&self) -> Option<&'static str> {
        match self.digest {
            Digest::Sha256(hex) => Some(hex),
            Digest::Hub => None,
        }
    }
}

const MODELS: &[OfficialModel] = &[
    OfficialModel {
        name: "sam_vit_b",
        variant: "sam_vit_b",
        url: "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        file: "sam_vit_b_01ec64.pth",
        size: Some(375_042_383),
        digest: Digest::Sha256("ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
        licence: "Apache-2.0",
        about: "SAM ViT-B, Meta",
    },
    OfficialModel {
        name: "sam_vit_l",
        variant: "sam_vit_l",
        url: "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
        file: "sam_vit_l_0b3195.pth",
        size: Some(1_249_524_607),
        digest: Digest::Sha256("3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
        licence: "Apache-2.0",
        about: "SAM ViT-L, Meta",
    },
    OfficialModel {
        name: "sam_vit_h",
        variant: "sam_vit_h",
        url: "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
        file: "sam_vit_h_4b8939.pth",
        size: Some(2_564_550_879),
        digest: Digest::Sha256("a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
        licence: "Apache-2.0",
        about: "SAM ViT-H, Meta",
    },
    OfficialModel {
        name: "mobile_sam",
        variant: "mobile_sam",
        url: "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
        file: "mobile_sam.pt",
        size: Some(40_728_226),
        digest: Digest::Sha256("6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"),
        licence: "Apache-2.0",
        about: "MobileSAM, TinyViT-5M image encoder",
    },
    OfficialModel {
        name: "clip_vit_b16_openai",
        variant: "clip_vit_b16_quickgelu",
        url: "https://openaipublic.azureedge.net/clip/models/5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
        file: "ViT-B-16.pt",
        size: Some(350_837_078),
        digest: Digest::Sha256("5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
        licence: "MIT",
        about: "CLIP ViT-B/16, OpenAI (QuickGELU)",
    },
    OfficialModel {
        name: "clip_vit_l14_openai",
        variant: "clip_vit_l14_quickgelu",
        url: "https://openaipublic.azureedge.net/clip/models/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        file: "ViT-L-14.pt",
        size: Some(932_768_134),
        digest: Digest::Sha256("b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
        licence: "MIT",
        about: "CLIP ViT-L/14, OpenAI (QuickGELU)",
    },
    OfficialModel {
        name: "clip_vit_b16_datacomp",
        variant: "clip_vit_b16",
        url: "https://huggingface.co/laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K/resolve/d110532e8d4ff91c574ee60a342323f28468b287/open_clip_pytorch_model.bin",
        file: "CLIP-ViT-B-16-DataComp.XL-s13B-b90K.bin",
        size: None,
        digest: Digest::Hub,
        licence: "MIT",
        about: "CLIP ViT-B/16, DataComp-1B (open_clip)",
    },
    OfficialModel {
        name: "clip_vit_l14_datacomp",
        variant: "clip_vit_l14",
        url: "https://huggingface.co/laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K/resolve/84c9828e63dc9a9351d1fe637c346d4c1c4db341/open_clip_pytorch_model.bin",
        file: "CLIP-ViT-L-14-DataComp.XL-s13B-b90K.bin",
        size: None,
        digest: Digest::Hub,
        licence: "MIT",
        about: "CLIP ViT-L/14, DataComp-1B (open_clip); SAM-CLIP's teacher",
    },
    OfficialModel {
        name: "clip_vit_b16_laion2b",
        variant: "clip_vit_b16",
        url: "https://huggingface.co/laion/CLIP-ViT-B-16-laion2B-s34B-b88K/resolve/7288da5a0d6f0b51c4a2b27c624837a9236d0112/open_clip_model.safetensors",
        file: "CLIP-ViT-B-16-laion2B-s34B-b88K.safetensors",
        size: None,
        digest: Digest::Hub,
        licence: "MIT",
        about: "CLIP ViT-B/16, LAION-2B (open_clip)",
    },
];

/// The whole table, in the order of `samclip models`.
pub fn models() -> &'static [OfficialModel] {
    MODELS
}

/// The entry of that name.
pub fn find(name: &str) -> Option<&'static OfficialModel> {
    MODELS.iter().find(|model| model.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_consistent() {
        let (mut names, mut files) = (BTreeSet::new(), BTreeSet::new());
        for model in models() {
            assert!(names.insert(model.name) && files.insert(model.file), "{} is unique", model.name);
            assert!(model.url.starts_with("https://"));
            if let Some(hex) = model.sha256() {
                assert_eq!(hex.len(), 64);
                assert!(hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
            }
            if model.digest == Digest::Hub {
                let (_, rest) = model.url.split_once("/resolve/").unwrap();
                assert_eq!(rest.split('/').next().unwrap().len(), 40, "{} is pinned to a commit", model.name);
            }
        }
        assert_eq!(find("sam_vit_b").unwrap().file, "sam_vit_b_01ec64.pth");
        assert!(find("sam_vit_x").is_none());
    }

    #[test]
    fn digests_that_names_and_urls_repeat() {
        for model in models() {
            let Some(hex) = model.sha256() else { continue };
            if model.url.contains("openaipublic") {
                assert!(model.url.contains(hex));
            }
        }
    }
}
