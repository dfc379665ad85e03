"""Writes names.safetensors: the text table of sam_clip_nano.

Vectors and names are those of Detic (facebookresearch/Detic, Apache-2.0): OpenAI CLIP ViT-B/32, prompt `a {name}`.
Usage: python make_names.py DATA/text names.safetensors   (needs numpy and safetensors)
"""

import csv
import json
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

# Spellings of common class lists that the synonyms do not cover.
SPELLINGS = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "motorbike": "motorcycle",
    "tvmonitor": "tv",
    "tv monitor": "tv",
    "plane": "airplane",
    "bike": "bicycle",
    "people": "person",
    "human": "person",
}


def main(source: Path, target: Path) -> None:
    embeddings = load_file(source / "clip_vit_b32_names.safetensors")["embeddings"]
    with open(source / "names.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    names = [row["name"] for row in rows]
    assert len(names) == len(embeddings) and len(set(names)) == len(names)
    aliases = {}
    for row in rows:
        for alias in filter(None, (row["lvis_synonyms"] or "").split("|")):
            # A word that is a name of its own keeps its own vector; of several owners the first wins.
            if alias not in names:
                aliases.setdefault(alias, row["name"])
    for alias, name in SPELLINGS.items():
        assert name in names, name
        if alias not in names:
            aliases.setdefault(alias, name)
    metadata = {
        "names": json.dumps(names, ensure_ascii=False),
        "aliases": json.dumps(aliases, ensure_ascii=False, sort_keys=True),
        "text_space": "OpenAI CLIP ViT-B/32, prompt `a {name}`",
        "source": "facebookresearch/Detic@436cda2 (Apache-2.0)",
    }
    save_file({"embeddings": embeddings.astype("float16")}, target, metadata=metadata)
    print(f"{len(names)} names, {len(aliases)} aliases")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
