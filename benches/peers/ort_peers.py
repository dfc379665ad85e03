"""ONNX Runtime in f32 on the work of `samclip bench`: SAM's image encoder and CLIP's image tower.

    python benches/peers/ort_peers.py encoder --model sam_vit_b --threads 2

The model is exported by PyTorch in a process of its own, so that PyTorch's memory is not counted, into a
temporary folder that goes when the worker does.
"""

import pathlib
import subprocess
import sys
import tempfile

from worker import parser, serve

WORKS = ["encoder", "clip"]


def export(args, path):
    """Writes the ONNX file (and, above 2 GB, its data beside it)."""
    import torch
    import torch_peers

    torch.backends.mha.set_fastpath_enabled(False)  # the fused operator has no ONNX form
    size = args.size or {"encoder": 1024, "clip": 224}[args.work]
    if args.work == "encoder":
        model = torch_peers.sam(args).image_encoder
    else:
        import open_clip

        torch.manual_seed(args.seed)
        name = {"clip_vit_b16": "ViT-B-16", "clip_vit_l14": "ViT-L-14"}[args.model]
        model = open_clip.create_model(name, pretrained=None, load_weights=False).visual.eval()
    pixels = torch.randn((args.batch, 3, size, size))
    with torch.no_grad():
        torch.onnx.export(model, (pixels,), path, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"])


def session(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # An idle contender must not keep the cores busy while another one runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main():
    args = parser(WORKS, ["f32"])
    args.add_argument("--export", help="only write this ONNX file")
    args = args.parse_args()
    if args.export:
        return export(args, args.export)
    with tempfile.TemporaryDirectory(prefix="samclip-ort-") as folder:
        path = pathlib.Path(folder) / "model.onnx"
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--export", path], check=True, stdout=sys.stderr)
        import numpy as np

        run = session(path, args.threads)
        shape = run.get_inputs()[0].shape
        pixels = np.random.default_rng(args.seed).standard_normal(shape, dtype=np.float32)

        def once():
            run.run(None, {"x": pixels})

        serve(once)


if __name__ == "__main__":
    main()
