"""candle and rten in f32 on SAM's image encoder, with PyTorch's seeded weights.

    cargo build --release --manifest-path benches/peers/rust/Cargo.toml
    python benches/peers/rust_peers.py encoder --setting candle --model sam_vit_b --threads 2

PyTorch writes the model in a process of its own, as for ONNX Runtime, into a temporary folder; the worker is the Rust
program. SAMCLIP_PEERS names it where it was built elsewhere.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from worker import parser

BUILT = pathlib.Path(__file__).parent / "rust/target/release/samclip-peers"


def export(args, path):
    """Weights for candle, an ONNX file for rten."""
    if args.setting == "rten":
        import ort_peers

        return ort_peers.export(args, path)
    import torch
    import torch_peers

    torch.save(torch_peers.sam(args).image_encoder.state_dict(), path)


def main():
    args = parser(["encoder"], ["candle", "rten"])
    args.add_argument("--export", help="only write this file")
    args = args.parse_args()
    if args.export:
        return export(args, args.export)
    program = pathlib.Path(os.environ.get("SAMCLIP_PEERS", BUILT))
    if not program.exists():
        sys.exit(f"build it first (cargo build --release --manifest-path benches/peers/rust/Cargo.toml): {program}")
    with tempfile.TemporaryDirectory(prefix="samclip-peers-") as folder:
        path = pathlib.Path(folder) / {"candle": "encoder.pth", "rten": "encoder.onnx"}[args.setting]
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--export", path], check=True, stdout=sys.stderr)
        command = [program, args.setting, args.model, path, str(args.size or 1024), str(args.threads)]
        environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads), "RTEN_NUM_THREADS": str(args.threads)}
        sys.exit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
