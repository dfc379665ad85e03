"""PyTorch on the work of `samclip bench`: segment_anything and open_clip as they are, and tuned.

    python benches/peers/torch_peers.py encoder --model sam_vit_b --setting bf16-sdpa --threads 2

Settings: f32 is the reference code as published. sdpa replaces the attention of SAM's encoder by
`scaled_dot_product_attention` with the relative positions as its mask (open_clip and the block of CLIP
use it already). bf16 converts the model; in train-step it is autocast. compile adds `torch.compile`.
Huge pages are an environment variable of the process: THP_MEM_ALLOC_ENABLE=1.
"""

import numpy as np
import torch
import torch.nn.functional as F

from worker import parser, serve

SETTINGS = ["f32", "f32-sdpa", "bf16", "bf16-sdpa", "f32-sdpa-compile", "bf16-sdpa-compile"]
WORKS = ["encoder", "decoder", "everything", "clip", "train-step", "load"]


def sdpa_forward(self, x):
    """segment_anything's `Attention.forward` on the fused kernel, the bias as its mask."""
    from segment_anything.modeling.image_encoder import get_rel_pos

    b, h, w, dim = x.shape
    n, heads = h * w, self.num_heads
    qkv = self.qkv(x).reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)  # [B, heads, N, C]
    rows, cols = get_rel_pos(h, h, self.rel_pos_h), get_rel_pos(w, w, self.rel_pos_w)
    grid = q.reshape(b * heads, h, w, -1)
    rel_h = torch.einsum("bhwc,hkc->bhwk", grid, rows)
    rel_w = torch.einsum("bhwc,wkc->bhwk", grid, cols)
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).reshape(b, heads, n, n)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return self.proj(y.permute(0, 2, 1, 3).reshape(b, h, w, dim))


def use_sdpa():
    from segment_anything.modeling.image_encoder import Attention

    Attention.forward = sdpa_forward


def sam(args):
    """segment_anything's model; another side than 1024 builds the encoder for that side."""
    import importlib

    build = importlib.import_module("segment_anything.build_sam")  # the package hides it behind a function
    if args.size and args.size != 1024:
        encoder = build.ImageEncoderViT
        build.ImageEncoderViT = lambda **sizes: encoder(**sizes | {"img_size": args.size})
    torch.manual_seed(args.seed)
    model = build.sam_model_registry[args.model.removeprefix("sam_")](checkpoint=args.weights)
    if args.size:
        model.prompt_encoder.image_embedding_size = (args.size // 16, args.size // 16)
        model.prompt_encoder.input_image_size = (args.size, args.size)
    return model.eval()


def tuned(module, args):
    """The module in the precision and form of the setting, and the type of its input."""
    dtype = torch.bfloat16 if "bf16" in args.setting else torch.float32
    module = module.to(dtype)
    return (torch.compile(module) if "compile" in args.setting else module), dtype


def encoder(args):
    if "sdpa" in args.setting:
        use_sdpa()
    model, dtype = tuned(sam(args).image_encoder, args)
    size = args.size or 1024
    pixels = torch.randn((args.batch, 3, size, size)).to(dtype)
    return lambda: model(pixels)


def decoder(args):
    """Clicks on a given embedding: prompt encoder and mask decoder, three masks each."""
    model = sam(args)
    prompts, (decode, dtype) = model.prompt_encoder, tuned(model.mask_decoder, args)
    size = args.size or 1024
    embedding = torch.randn((1, 256, size // 16, size // 16)).to(dtype)
    at = (torch.arange(args.batch) + 0.5) / args.batch * size
    points = torch.stack([at, at], dim=1)[:, None], torch.ones(args.batch, 1)

    def run():
        sparse, dense = prompts(points=points, boxes=None, masks=None)
        decode(
            image_embeddings=embedding, image_pe=prompts.get_dense_pe().to(dtype),
            sparse_prompt_embeddings=sparse.to(dtype), dense_prompt_embeddings=dense.to(dtype), multimask_output=True,
        )

    return run


def everything(args):
    from PIL import Image
    from segment_anything import SamAutomaticMaskGenerator

    if "sdpa" in args.setting:
        use_sdpa()
    generator = SamAutomaticMaskGenerator(
        sam(args), points_per_side=args.points_per_side, pred_iou_thresh=args.pred_iou_thresh,
        stability_score_thresh=args.stability_score_thresh, output_mode="uncompressed_rle",
    )
    image = np.array(Image.open(args.image).convert("RGB"))
    return lambda: {"masks": len(generator.generate(image))}


def load(args):
    """The registry's model with the checkpoint, again and again."""
    return lambda: {"parameters": sum(p.numel() for p in sam(args).parameters())}


def clip(args):
    import open_clip

    torch.manual_seed(args.seed)
    name = {"clip_vit_b16": "ViT-B-16", "clip_vit_l14": "ViT-L-14"}[args.model]
    tower = open_clip.create_model(name, pretrained=None, load_weights=False).visual.eval()
    model, dtype = tuned(tower, args)
    size = args.size or 224
    pixels = torch.randn((args.batch, 3, size, size)).to(dtype)
    return lambda: model(pixels)


def block(args):
    """One block that trains, and its input: CLIP's, or a global one of SAM's encoder."""
    torch.manual_seed(args.seed)
    if args.model.startswith("clip"):
        from open_clip.transformer import ResidualAttentionBlock

        width, heads, patch = {"clip_vit_b16": (768, 12, 16), "clip_vit_l14": (1024, 16, 14)}[args.model]
        module, tokens = ResidualAttentionBlock(width, heads), 1 + ((args.size or 224) // patch) ** 2
        return module, torch.randn((args.batch, tokens, width))
    from segment_anything.modeling.image_encoder import Block

    if "sdpa" in args.setting:
        use_sdpa()
    width, heads = {"sam_vit_b": (768, 12), "sam_vit_l": (1024, 16), "sam_vit_h": (1280, 16)}[args.model]
    grid = (args.size or 1024) // 16
    module = Block(width, heads, use_rel_pos=True, window_size=0, input_size=(grid, grid), norm_layer=torch.nn.LayerNorm)
    return module, torch.randn((args.batch, grid, grid, width))


def train_step(args):
    """Gradients of every parameter and of the input; the loss is the sum of the output."""
    module, x = block(args)
    x.requires_grad_(True)
    model = torch.compile(module) if "compile" in args.setting else module

    def run():
        module.zero_grad(set_to_none=True)
        x.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in args.setting):
            loss = model(x).float().sum()
        loss.backward()

    return run


def main():
    args = parser(WORKS, SETTINGS).parse_args()
    torch.set_num_threads(args.threads)
    if args.work == "train-step":
        return serve(train_step(args))
    build = {"encoder": encoder, "decoder": decoder, "everything": everything, "clip": clip, "load": load}[args.work]
    with torch.inference_mode():
        work = build(args)

        def run():
            found = work()
            return found if isinstance(found, dict) else None

        serve(run)


if __name__ == "__main__":
    main()
