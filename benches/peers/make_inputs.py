"""The photo and the checkpoint that `everything` is timed with, the same for every contender.

    python benches/peers/make_inputs.py OUT        writes OUT/photo.png and OUT/sam_vit_b.pth

The weights are those of the parity test (fixtures/ring2): seeded, and shaped so that masks depend on their
clicks, because plain random weights answer every click alike and leave the filters nothing to do.
"""

import pathlib
import sys

import numpy as np
import torch
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "fixtures" / "ring2"))
import generate_sam  # noqa: E402

SIZE = (1500, 1000)


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    photo = Image.open(ROOT / "examples" / "coffee.jpg").convert("RGB").resize(SIZE, Image.Resampling.BILINEAR)
    photo.save(out / "photo.png")
    sam = generate_sam.seeded("sam_vit_b", seed=0)
    with torch.no_grad():
        image = ResizeLongestSide(1024).apply_image(np.array(photo))
        generate_sam.localise(sam, sam.preprocess(torch.as_tensor(image).permute(2, 0, 1)[None].float()))
    torch.save(sam.state_dict(), out / "sam_vit_b.pth")


if __name__ == "__main__":
    main()
