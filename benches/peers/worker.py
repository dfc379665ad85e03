"""What the peers' workers share: `run NAME` on stdin is one run and one line of JSON on stdout.

A worker builds its model on start, as `samclip bench --worker` does, so that a driver can alternate
contenders whose models stay loaded. Memory is the process's own (Linux).
"""

import argparse
import json
import sys
import time


def parser(works, settings):
    """The arguments that every peer takes; names follow `samclip bench`."""
    args = argparse.ArgumentParser()
    args.add_argument("work", choices=works)
    args.add_argument("--model", default="sam_vit_b")
    args.add_argument("--size", type=int, help="image side in pixels (default: the model's)")
    args.add_argument("--batch", type=int, default=1)
    args.add_argument("--setting", choices=settings, default=settings[0])
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--weights", help="checkpoint in Meta's form (default: seeded random weights)")
    args.add_argument("--image", help="photo for everything")
    args.add_argument("--points-per-side", type=int, default=32)
    args.add_argument("--pred-iou-thresh", type=float, default=0.88)
    args.add_argument("--stability-score-thresh", type=float, default=0.95)
    return args


def memory(field):
    """VmHWM or VmRSS in units of 1024 bytes, None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            return next((int(line.split()[1]) for line in status if line.startswith(field + ":")), None)
    except OSError:
        return None


def reset_peak():
    """Lets VmHWM start again from now; where the system refuses, the old peak stays."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def serve(run):
    """Answers `run NAME` until the input ends. `run` returns a dict of further figures, or None."""
    before, model = memory("VmHWM"), memory("VmRSS")
    reset_peak()
    for line in sys.stdin:
        command, _, name = line.strip().partition(" ")
        if command != "run" or not name:
            sys.exit(f"unknown command: expected `run NAME`, found `{line.strip()}`")
        start, cpu = time.perf_counter(), time.process_time()
        details = run() or {}
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = memory("VmHWM")
        print(json.dumps({
            "name": name, "seconds": seconds, "cpu_seconds": cpu,
            "peak_rss_kb": None if peak is None else max(peak, before),
            "peak_extra_kb": None if peak is None else max(0, peak - model),
            "details": details,
        }), flush=True)
