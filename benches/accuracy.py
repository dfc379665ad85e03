"""How far each tier is from f32: SAM ViT-B with seeded weights, the embedded model with its trained ones; ten photos, one click in the middle.

    python benches/accuracy.py WEIGHTS.pth PHOTO... [--samclip target/release/samclip] [--products bf16]

PyTorch (segment_anything as published) computes embedding and mask logits; `samclip weights check` compares, once
per tier: relative L2 of the embedding and the smallest IoU of the three masks. PyTorch's own bf16 is the last row.
The embedded model (`samclip segment --multimask`) is compared with itself in f32, per mask.
Tiers that the processor lacks are left out; a `samclip` built with `--features amx-emulation` has AMX's in software. Writes benches/runs/DATE_accuracy.json, which `xtask bench-table`
reads. WEIGHTS.pth is what peers/make_inputs.py writes.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import tempfile

import compare
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from segment_anything.utils.transforms import ResizeLongestSide

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Fastest first.
TIERS = [("amx", "bf16"), ("amx", "f32"), ("avx512bf16", "bf16"), ("avx512", "f32"), ("avx2", "f32")]
PEER = ("PyTorch", "bf16 autocast")


def answers(sam, pixels, coords, labels):
    with torch.no_grad():
        embedding = sam.image_encoder(pixels)
        sparse, dense = sam.prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        logits, _ = sam.mask_decoder(
            image_embeddings=embedding, image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=True,
        )
    return embedding.float(), logits.float()


def reference(sam, photo, folder):
    """Inputs and PyTorch's answers as files of `weights check`; how far its own bf16 is from them."""
    image = ResizeLongestSide(1024).apply_image(np.array(Image.open(photo).convert("RGB")))
    pixels = sam.preprocess(torch.as_tensor(image).permute(2, 0, 1)[None].float())
    coords = torch.tensor([[[image.shape[1] / 2, image.shape[0] / 2]]])
    labels = torch.ones((1, 1))
    embedding, logits = answers(sam, pixels, coords, labels)
    save_file({"pixels": pixels.contiguous(), "point_coords": coords, "point_labels": labels}, folder / "in.safetensors")
    save_file({"image_embedding": embedding.contiguous(), "low_res_logits": logits.contiguous()}, folder / "out.safetensors")
    with torch.autocast("cpu", torch.bfloat16):
        low, low_logits = answers(sam, pixels, coords, labels)
    a, b = logits[0] > 0, low_logits[0] > 0
    unions = (a | b).sum((1, 2))
    ious = torch.where(unions > 0, (a & b).sum((1, 2)) / unions.clamp(min=1), 1.0)
    return ((low - embedding).norm() / embedding.norm()).item(), ious.min().item()


def measure(args, folder, isa, precision):
    command = [args.samclip, "weights", "check", "--model", "sam_vit_b", "--inputs", folder / "in.safetensors",
               "--expected", folder / "out.safetensors", "--precision", precision, "--json", args.weights]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"SAMCLIP_ISA": isa}, check=False)
    tensors = {t["name"]: t for t in json.loads(done.stdout)["tensors"]}
    return tensors["image_embedding"]["relative_l2"], tensors["low_res_logits"]["mask_iou"]


def segment(args, photo, precision):
    """The embedded model's three masks of a click in the middle, best first."""
    width, height = Image.open(photo).size
    command = [args.samclip, "segment", photo, "--point", f"{width // 2},{height // 2}", "--multimask",
               "--precision", precision, "--json"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return [coco_mask.decode(m["segmentation"]).astype(bool) for m in found["images"][0]["masks"]]


def trained(args):
    """IoU of the best mask and smallest IoU of the three, bf16 against f32, over the photos."""
    best, smallest = [], []
    for photo in args.photos:
        pairs = zip(segment(args, photo, "f32"), segment(args, photo, "bf16"), strict=True)
        ious = [(a & b).sum() / max((a | b).sum(), 1) for a, b in pairs]
        print(pathlib.Path(photo).name, "embedded model", *(f"{v:.6g}" for v in ious), flush=True)
        best.append(ious[0])
        smallest.append(min(ious))
    return {"model": "sam_clip_nano", "photos": len(best), "best_median": float(np.median(best)), "best_min": float(min(best)),
            "all_median": float(np.median(smallest)), "all_min": float(min(smallest))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--samclip", default=ROOT / "target/release/samclip")
    parser.add_argument("--products", choices=["bf16", "f32"], help="only the tiers that multiply in this")
    args = parser.parse_args()
    torch.set_num_threads(2)
    sam = sam_model_registry["vit_b"](checkpoint=args.weights).eval()
    version = json.loads(subprocess.run([args.samclip, "version", "--json"], stdout=subprocess.PIPE, check=True).stdout)
    best = version["isa"]
    names = [isa for isa, _ in TIERS]
    if best not in names:
        parser.error(f"this processor's best tier is {best}: expected one of {', '.join(names)}")
    tiers = [tier for tier in TIERS[names.index(best):] if args.products in (None, tier[1])]
    found = {tier: [] for tier in [*tiers, PEER]}
    with tempfile.TemporaryDirectory(prefix="samclip-accuracy-") as folder:
        folder = pathlib.Path(folder)
        for photo in args.photos:
            found[PEER].append(reference(sam, photo, folder))
            print(pathlib.Path(photo).name, *PEER, *(f"{v:.6g}" for v in found[PEER][-1]), flush=True)
            for tier in tiers:
                found[tier].append(measure(args, folder, *tier))
                print(pathlib.Path(photo).name, *tier, *(f"{v:.6g}" for v in found[tier][-1]), flush=True)
    rows = [
        {"isa": isa, "precision": precision, "photos": len(values),
         "relative_l2_median": float(np.median([v[0] for v in values])), "relative_l2_max": max(v[0] for v in values),
         "mask_iou_mean": float(np.mean([v[1] for v in values])), "mask_iou_median": float(np.median([v[1] for v in values])),
         "mask_iou_min": min(v[1] for v in values)}
        for (isa, precision), values in found.items()
    ]
    now = datetime.datetime.now(datetime.timezone.utc)
    run = {"kind": "accuracy", "date": now.isoformat(timespec="seconds"), "command": "python benches/accuracy.py SAM_VIT_B.pth PHOTO…" + (f" --products {args.products}" if args.products else ""),
           "cpu": compare.read("/proc/cpuinfo", "model name") + (", AMX's instructions in software" if version["emulated"] else ""),
           "photos": [pathlib.Path(p).name for p in args.photos],
           "torch": torch.__version__, "rows": rows, "trained": trained(args)}
    path = ROOT / "benches/runs" / f"{now:%Y-%m-%dT%H%M}_accuracy.json"
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
