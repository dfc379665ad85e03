"""Times the contenders of one group of benches/lines.toml against each other and stores every single time.

    python benches/compare.py encoder_b            one file in benches/runs, named by date and group
    python benches/compare.py --list               the groups and their contenders

Each contender is a process of its own that keeps its model loaded. One runs at a time; every round runs each
of them once, and starts with the next one, so that no contender always has the same neighbour. The first round
warms up and is not counted. A run with fewer than seven rounds, other sizes or threads, or not all contenders is a
trial: it goes to target/bench-trials, where `xtask bench-table` does not look.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENOUGH, THREADS = 7, 2
PACKAGES = ["torch", "segment-anything", "open-clip-torch", "onnxruntime", "numpy"]
CRATES = ["candle-core", "rten"]


def contenders(group, args):
    """Name, command with placeholders, environment and size of each contender that is asked for."""
    for name, item in group["contenders"].items():
        sizes = [args.size] if args.size else item.get("sizes", [group["size"]])
        for size in sizes:
            full = f"{name}@{size}" if "sizes" in item else name
            if not args.only or name in args.only or full in args.only:
                yield full, item["run"], item.get("env", {}), size


class Contender:
    """A worker process and what it has said."""

    def __init__(self, name, template, env, size, batch, args, inputs):
        self.name, self.env, self.readings, self.error = name, env, [], None
        values = {"threads": args.threads, "size": size, "batch": batch}
        programs = {"samclip": str(args.samclip), "python": sys.executable} | {k: str(v) for k, v in inputs.items()}
        shown = {"samclip": "samclip", "python": "python"} | {k: k.upper() for k in inputs}
        self.command = template.format(**values, **shown)
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            shlex.split(template.format(**values, **{k: shlex.quote(v) for k, v in programs.items()})),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(args.threads)} | env,
        )

    def run(self):
        """One run; a worker that dies is out of the race."""
        try:
            self.process.stdin.write(f"run {self.name}\n")
            self.process.stdin.flush()
            self.readings.append(json.loads(self.process.stdout.readline()))
        except (OSError, ValueError):
            self.process.wait()
            self.log.seek(0)
            last = self.log.read().strip().splitlines()[-1:]
            self.error = last[0][:300] if last else f"exit code {self.process.returncode}"

    def stop(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()

    def result(self):
        start = {"name": self.name, "command": self.command, "env": self.env}
        if self.error or len(self.readings) < 2:
            return start | {"error": self.error or "no counted run"}
        first, *counted = self.readings
        seconds = [reading["seconds"] for reading in counted]
        details = {k: [r["details"].get(k) for r in counted] for k in counted[-1].get("details", {})}
        gflops = counted[-1].get("gflops")
        return start | {
            "first_seconds": first["seconds"], "seconds": seconds, "median_seconds": statistics.median(seconds),
            "minimum_seconds": min(seconds), "cpu_seconds": [reading.get("cpu_seconds") for reading in counted],
            "flop": round(gflops * seconds[-1] * 1e9) if gflops else None,
            "peak_rss_kb": counted[-1]["peak_rss_kb"], "peak_extra_kb": counted[-1]["peak_extra_kb"], "details": details,
        }


def read(path, field=None):
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return None
    if field is None:
        return lines[0] if lines else None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), None)


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine(args):
    samclip = json.loads(output(args.samclip, "version", "--json") or "{}")
    return {
        "cpu": read("/proc/cpuinfo", "model name") or platform.processor(), "cores": os.cpu_count(),
        "isa": samclip.get("isa"), "target": samclip.get("target"), "kernel": platform.release(),
        "memory": read("/proc/meminfo", "MemTotal"),
        "huge_pages": read("/sys/kernel/mm/transparent_hugepage/enabled"), "load_before": os.getloadavg()[0],
    }


def versions(args):
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    samclip = json.loads(output(args.samclip, "version", "--json") or "{}")
    lock = tomllib.loads((ROOT / "benches/peers/rust/Cargo.lock").read_text())
    found |= {package["name"]: package["version"] for package in lock["package"] if package["name"] in CRATES}
    changed = output("git", "status", "--porcelain", "--untracked-files=no", "crates")
    return {
        "samclip": samclip.get("version"), "commit": output("git", "rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(changed), "python": platform.python_version(),
    } | found


def make_inputs(group, samclip):
    """Files that only some groups need."""
    folder = ROOT / "target" / "bench-inputs"
    files = {"weights": folder / "sam_vit_b.pth", "photo": folder / "photo.png"}
    runs = [item["run"] for item in group["contenders"].values()]
    if not any("{weights}" in run or "{photo}" in run for run in runs):
        return {}
    if not all(file.exists() for file in files.values()):
        script = ROOT / "benches" / "peers" / "make_inputs.py"
        subprocess.run([sys.executable, script, folder], check=True)
    if any("{packed}" in run for run in runs):
        files["packed"] = folder / "sam_vit_b_packed.safetensors"
        pack = ["weights", "pack", files["weights"], "--model", "sam_vit_b", "--to", files["packed"]]
        subprocess.run([samclip, *pack], check=True)
    return files


def race(group, args):
    """The stored document of one run."""
    inputs, batch = make_inputs(group, args.samclip), args.batch or group["batch"]
    document = {
        "group": group["id"], "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "threads": args.threads, "rounds": args.rounds, "batch": batch, "trial": is_trial(args),
        "machine": machine(args), "versions": versions(args),
    }
    field = [Contender(*each, batch, args, inputs) for each in contenders(group, args)]
    try:
        for turn in range(args.rounds + 1):
            start = turn % max(1, len(field))
            for contender in field[start:] + field[:start]:
                if contender.error is None:
                    time.sleep(args.pause)
                    contender.run()
                    said = contender.error or f"{contender.readings[-1]['seconds']:.4f} s"
                    print(f"round {turn}/{args.rounds}  {contender.name:32} {said}", file=sys.stderr, flush=True)
    finally:
        for contender in field:
            contender.stop()
    document["machine"]["load_after"] = os.getloadavg()[0]
    return document | {"contenders": [contender.result() for contender in field]}


def is_trial(args):
    return bool(args.rounds < ENOUGH or args.threads != THREADS or args.size or args.batch or args.only)


def write(document, args):
    folder = args.out or ROOT / ("target/bench-trials" if document["trial"] else "benches/runs")
    folder.mkdir(parents=True, exist_ok=True)
    stamp = document["date"][:16].replace(":", "")
    path = folder / f"{stamp}_{document['group']}.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.rename(path)
    for contender in document["contenders"]:
        said = contender.get("error") or f"median {contender['median_seconds']:.4f} s, minimum {contender['minimum_seconds']:.4f} s"
        print(f"{contender['name']:32} {said}")
    print(path)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("groups", nargs="*", metavar="GROUP")
    args.add_argument("--list", action="store_true")
    args.add_argument("--rounds", type=int, default=ENOUGH, help="counted rounds")
    args.add_argument("--threads", type=int, default=THREADS)
    args.add_argument("--only", nargs="+", metavar="NAME", help="some of the contenders")
    args.add_argument("--size", type=int, help="another size than the group's")
    args.add_argument("--batch", type=int, help="another batch than the group's")
    args.add_argument("--pause", type=float, default=0.2, help="seconds before each run")
    args.add_argument("--samclip", type=pathlib.Path, default=ROOT / "target" / "release" / "samclip")
    args.add_argument("--out", type=pathlib.Path, help="folder for the result")
    args = args.parse_args()
    args.samclip = args.samclip.resolve()
    groups = {group["id"]: group for group in tomllib.loads((ROOT / "benches" / "lines.toml").read_text())["group"]}
    if args.list or not args.groups:
        for name, group in groups.items():
            print(f"{name:16} {', '.join(group['contenders'])}")
        return
    unknown = [name for name in args.groups if name not in groups]
    if unknown:
        sys.exit(f"unknown group: expected one of {', '.join(groups)}, found {unknown[0]}")
    for name in args.groups:
        write(race(groups[name], args), args)


if __name__ == "__main__":
    main()
