"""PyTorch on whole training steps at full size: `samclip bench joint-step` and `guided-step`.

    python benches/peers/torch_steps.py joint-step --setting bf16-sdpa --threads 2

Neither paper has public code. SAM-CLIP's student is segment_anything's ViT-B with the CLIP head of
fixtures/sam_clip/generate.py, its teachers segment_anything's ViT-B and open_clip's ViT-L-14; CLIP-Guided SAM is
the module of fixtures/clip_guided/generate.py at full size. Seeded weights, AdamW, as the recipes have it.
Settings: f32 as written; sdpa as in torch_peers.py; bf16 is autocast.
"""

import importlib.util
import pathlib
import sys

import torch
import torch.nn.functional as F
from torch import nn

from torch_peers import use_sdpa
from worker import parser, serve

FIXTURES = pathlib.Path(__file__).resolve().parent.parent.parent / "fixtures"
SETTINGS = ["f32", "f32-sdpa", "bf16-sdpa"]
# SAM-CLIP prompts a photo with 32 masks; half of them by click, half by box.
CLICKS = BOXES = 16
GUIDED = dict(
    IMG=1024, DIM=768, DEPTH=12, HEADS=12, WINDOW=14, GLOBAL=(2, 5, 8, 11), PROMPT=256, MLP=2048, SIDE=512, PATCH=16,
    WIDTH=768, LAYERS=12, EMBED=512, NATIVE=14, ADAPTED=12, CLIP_BLOCKS=12, BOTTLENECK=192, GRID=64, LOW=256,
)


def fixture(path, name, **sizes):
    """A module of the fixtures' scripts with other sizes."""
    sys.path.insert(0, str(FIXTURES / "sam"))
    spec = importlib.util.spec_from_file_location(name, FIXTURES / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for key, value in sizes.items():
        setattr(module, key, value)
    return module


def update(parameters, optimizer):
    nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def tokens(encoder, pixels):
    """Output of the last block, with positions for the side at hand."""
    x = encoder.patch_embed(pixels)
    position = encoder.pos_embed
    if position.shape[1:3] != x.shape[1:3]:
        position = F.interpolate(position.permute(0, 3, 1, 2), x.shape[1:3], mode="bicubic", antialias=True)
        position = position.permute(0, 2, 3, 1)
    x = x + position
    for block in encoder.blocks:
        x = block(x)
    return x


def embed(sam, pixels):
    return sam.image_encoder.neck(tokens(sam.image_encoder, pixels).permute(0, 3, 1, 2))


def decode(sam, embedding, prompts):
    """All four masks of clicks, then of boxes."""
    found = []
    for points, boxes in prompts:
        sparse, dense = sam.prompt_encoder(points, boxes, None)
        found.append(sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)[0])
    return torch.cat(found)


def joint_step(args):
    import open_clip
    from segment_anything import sam_model_registry

    size, batch = args.size or 1024, args.batch
    torch.manual_seed(args.seed)
    student, teacher = sam_model_registry["vit_b"](), sam_model_registry["vit_b"]().eval()
    head = fixture("sam_clip/generate.py", "sam_clip", IMG=1024, DIM=768, HEADS=12, HIDDEN=768, EMBED=768).ClipHead()
    clip = open_clip.create_model("ViT-L-14", pretrained=None, load_weights=False).visual.eval()
    student.prompt_encoder.requires_grad_(False)
    for model in (student, teacher):
        model.prompt_encoder.image_embedding_size = (size // 16, size // 16)
        model.prompt_encoder.input_image_size = (size, size)
    parameters = [p for m in (student, head) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=4e-6, weight_decay=0.1)
    small, large = torch.randn(batch, 3, 224, 224), torch.randn(batch, 3, size, size)
    clicks = (torch.rand(CLICKS, 1, 2) * size, torch.ones(CLICKS, 1))
    corner = torch.rand(BOXES, 2) * size / 2
    prompts = [(clicks, None), (None, torch.cat([corner, corner + size / 4], dim=1))]

    def clip_loss():
        with torch.no_grad():
            wanted = F.normalize(clip(small), dim=-1)
        x = tokens(student.image_encoder, small)
        for block in head.blocks:
            x = block(x)
        return (1 - (head.project(x.flatten(1, 2).amax(dim=1)) * wanted).sum(-1)).mean()

    def sam_loss():
        with torch.no_grad():
            target = embed(teacher, large)
        embedding = embed(student, large)
        focal = dice = 0.0
        for i in range(batch):
            with torch.no_grad():
                q = decode(teacher, target[i : i + 1], prompts).float().sigmoid()
            logits = decode(student, embedding[i : i + 1], prompts).float()
            p = logits.sigmoid()
            bce = F.binary_cross_entropy_with_logits(logits, q, reduction="none")
            focal = focal + ((0.25 * q + 0.75 * (1 - q)) * (q - p) ** 2 * bce).mean() / batch
            s, t, d = p.sum((-2, -1)), q.sum((-2, -1)), (p - q).abs().sum((-2, -1))
            dice = dice + (1 - (s + t - d + 1) / (s + t + 1)).mean() / batch
        return 10.0 * (20.0 * focal + dice)

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in args.setting):
            first = clip_loss()
        first.backward()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in args.setting):
            second = sam_loss()
        second.backward()
        update(parameters, optimizer)
        return {"loss": (first + second).item()}

    return run


def guided_step(args):
    guided = fixture("clip_guided/generate.py", "guided", **GUIDED)
    model, classes = guided.Guided(), args.batch
    guided.fill(model, args.seed + 1)
    for name, p in model.named_parameters():
        p.requires_grad_(guided.trainable(name))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    pixels, clip_pixels = torch.randn(1, 3, 1024, 1024), torch.randn(1, 3, 512, 512)
    text, draws = torch.eye(classes, 512), torch.rand(classes, 3)
    target = (torch.rand(classes, 1, 256, 256) > 0.5).float()

    def run():
        total = 0.0
        for i in range(classes):
            part = slice(i, i + 1)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in args.setting):
                guidance = model.guide(clip_pixels, [0], text[part], guided.ALL)
                _, mask, points = model.prompts(guidance[2], guidance[3], draws[part])
                logits, _ = model.decode(model.embed(pixels, [0], guidance), points, mask)
                loss = sum(guided.losses(logits.float(), target[part])) / classes
            loss.backward()
            total += loss.item()
        update(parameters, optimizer)
        return {"loss": total}

    return run


def main():
    args = parser(["joint-step", "guided-step"], SETTINGS).parse_args()
    torch.set_num_threads(args.threads)
    if "sdpa" in args.setting:
        use_sdpa()
    serve({"joint-step": joint_step, "guided-step": guided_step}[args.work](args))


if __name__ == "__main__":
    main()
