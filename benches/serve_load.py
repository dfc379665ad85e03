"""Latency and load of `samclip serve` on loopback: `python benches/serve_load.py --binary target/release/samclip`.

Standard library only; server and clients share the machine. Prints Markdown tables. Parts: latency, mixed, overload,
hostile (slow and aborted connections), drain; large (with --vit-b) and adapters (with --adapters) want files.
`--seconds` is the length of the mixed load, and of each row of overload up to 30.
"""

import argparse
import asyncio
import base64
import collections
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time


class Server:
    """A server process; its log goes to a file that nobody reads meanwhile."""

    def __init__(self, binary, extra):
        self.log = tempfile.NamedTemporaryFile("w+")
        self.process = subprocess.Popen(
            [binary, "serve", "--port", "0", *extra], stderr=self.log, stdout=subprocess.DEVNULL
        )
        while True:
            with open(self.log.name) as log:
                found = re.search(r"serves on http://([\d.]+):(\d+)", text := log.read())
            if found:
                self.host, self.port = found[1], int(found[2])
                return
            if self.process.poll() is not None:
                sys.exit(f"the server did not start: {text}")
            time.sleep(0.02)

    def memory(self, field="VmRSS"):
        """Resident memory in MB; VmHWM: the most so far."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"{field}:\s+(\d+)", status.read())[1]) / 1024

    def seconds(self):
        """Processor time so far."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            return sum(map(int, stat.read().rsplit(") ", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    async def ready(self):
        for _ in range(1200):
            try:
                if (await Client(self).get("/readyz"))[0] == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.05)
        sys.exit("the server is not ready")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def stolen():
    """Processor seconds that the machine under this one has taken away, all cores together."""
    with open("/proc/stat") as stat:
        return int(stat.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


class Client:
    """One connection that is kept."""

    def __init__(self, server):
        self.server, self.reader, self.writer = server, None, None
        self.retry_after = 1

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection(self.server.host, self.server.port, limit=1 << 26)

    async def request(self, method, path, body=b""):
        if self.writer is None or self.writer.is_closing():
            await self.connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        length = int(re.search(rb"content-length: (\d+)", head, re.I)[1])
        data = await self.reader.readexactly(length)
        if status in (429, 503):
            self.retry_after = int((re.search(rb"retry-after: (\d+)", head, re.I) or [0, b"1"])[1])
        if re.search(rb"connection: close", head, re.I):
            self.close()
        return status, data

    async def get(self, path):
        return await self.request("GET", path)

    async def post(self, path, body):
        return await self.request("POST", path, body)

    def close(self):
        if self.writer is not None:
            self.writer.close()
        self.writer = None


def bmp(width, height, seed):
    """A picture that no cache knows: smooth colours, 24 bits."""
    rng = random.Random(seed)
    a, b, c = (rng.randrange(1, 200) for _ in range(3))
    stride = (width * 3 + 3) // 4 * 4
    rows = bytearray()
    for y in range(height):
        row = bytes((x * a // 97 + y * b // 89 + k * c) & 255 for x in range(0, width, 8) for k in range(3) for _ in (0,))
        wide = b"".join(row[i : i + 3] * 8 for i in range(0, len(row), 3))[: width * 3]
        rows += wide.ljust(stride, b"\0")
    head = b"BM" + (54 + len(rows)).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    head += (40).to_bytes(4, "little") + width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return head + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24) + bytes(rows)


def body(**fields):
    return json.dumps(fields).encode()


def embed_body(picture):
    return body(image=base64.b64encode(picture).decode())


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def click(key, size, rng):
    return body(key=key, prompts=[{"points": [[rng.uniform(1, size[0] - 1), rng.uniform(1, size[1] - 1)]], "labels": [1]}])


async def timed(call):
    start = time.perf_counter()
    status, data = await call
    return status, data, (time.perf_counter() - start) * 1e3


async def latency(server, photo):
    client, rng = Client(server), random.Random(1)
    first, clicks = [], []
    for i in range(9):
        # a new photo each time: the same JPEG with a comment at its end is new bytes, but the same pixels
        picture = photo if i == 0 else None
        data = embed_body(picture) if picture else embed_body(bmp(1000, 750, i))
        status, answer, ms = await timed(client.post("/v1/embed", data))
        assert status == 200, answer
        first.append(ms)
    answer = json.loads(answer)
    size = answer["width"], answer["height"]
    for _ in range(200):
        status, data, ms = await timed(client.post("/v1/segment", click(answer["key"], size, rng)))
        assert status == 200, data
        clicks.append(ms)
    print("| latency | ms |\n|---|---|")
    print(f"| photo ({len(photo) // 1024} KiB JPEG) to its first embedding | {first[0]:.0f} |")
    print(f"| 1000 x 750 picture (2.2 MB BMP as base64) to embedding, median of 8 | {statistics.median(first[1:]):.0f} |")
    print(f"| click to mask in the client, median of 200 | {statistics.median(clicks):.1f} |")
    print(f"| click to mask in the client, 95th percentile | {percentile(clicks, 0.95):.1f} |\n")


async def large(binary, photo, weights):
    """SAM ViT-B: one encode, then clicks."""
    server = Server(binary, ["--model", "sam_vit_b", "--weights", weights])
    await server.ready()
    client, rng, loaded = Client(server), random.Random(1), server.memory()
    status, answer, encode = await timed(client.post("/v1/embed", embed_body(photo)))
    assert status == 200, answer
    answer, clicks = json.loads(answer), []
    for _ in range(100):
        status, data, ms = await timed(client.post("/v1/segment", click(answer["key"], (answer["width"], answer["height"]), rng)))
        assert status == 200, data
        clicks.append(ms)
    print(f"| sam_vit_b, photo of {answer['width']} x {answer['height']} | |\n|---|---|")
    print(f"| photo ({len(photo) // 1024} KiB JPEG) to its embedding, ms | {encode:.0f} |")
    print(f"| click to mask in the client, median / 95th percentile of 100, ms | {statistics.median(clicks):.1f} / {percentile(clicks, 0.95):.1f} |")
    print(f"| resident memory when loaded / at the end / the most, MB | {loaded:.0f} / {server.memory():.0f} / {server.memory('VmHWM'):.0f} |\n")
    server.stop()


async def adapters(binary, photo, files):
    """Memory of a server with none, one and all of the adapters, each asked once."""
    print("| adapters | resident memory, MB | the most, MB | first answer of each, ms |\n|---|---|---|---|")
    for count in sorted({0, 1, len(files)}):
        flags = [word for file in files[:count] for word in ("--adapter", file)]
        server = Server(binary, flags)
        await server.ready()
        client, times = Client(server), []
        status, data = await client.post("/v1/embed", embed_body(photo))
        key = json.loads(data)["key"]
        names = json.loads((await client.get("/v1/models"))[1])["models"][0]["adapters"]
        for name in [None, *names]:
            status, data, ms = await timed(client.post("/v1/segment", body(key=key, adapter=name, prompts=[{"text": "cat"}])))
            assert status == 200, data
            times.append(f"{ms:.0f}")
        print(f"| {count} | {server.memory():.0f} | {server.memory('VmHWM'):.0f} | {', '.join(times)} |")
        server.stop()
    print()


class Tally:
    def __init__(self):
        self.prompts, self.embeds, self.statuses, self.refused = [], [], {}, []

    def add(self, status, ms, kind):
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            (self.prompts if kind == "prompt" else self.embeds).append(ms)
        elif status == 429:
            self.refused.append(ms)


async def visitor(server, seed, until, tally, pictures, encodes=0.02, patient=True, key=None):
    """Mostly clicks on an image of its own, now and then another image. Who is not patient asks again 50 to 100 ms
    after a refusal, whatever Retry-After says."""
    client, rng = Client(server), random.Random(seed)
    size = (320, 240)
    while time.perf_counter() < until:
        try:
            if key is None or rng.random() < encodes:
                status, data, ms = await timed(client.post("/v1/embed", pictures[rng.randrange(len(pictures))]))
                tally.add(status, ms, "embed")
                if status == 200:
                    key = json.loads(data)["key"]
            else:
                status, data, ms = await timed(client.post("/v1/segment", click(key, size, rng)))
                tally.add(status, ms, "prompt")
                key = None if status == 404 else key
            if status in (429, 503):
                wait = client.retry_after * rng.uniform(1, 1.25) if patient else rng.uniform(0.05, 0.1)
                await asyncio.sleep(max(0.0, min(wait, until - time.perf_counter())))
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.statuses["broken"] = tally.statuses.get("broken", 0) + 1
            client.close()
            await asyncio.sleep(0.05)
    client.close()


async def mixed(server, seconds, clients=64):
    # 400 pictures of 230 kB and their embeddings are more than the cache holds, so that it evicts
    pictures = [embed_body(bmp(320, 240, seed)) for seed in range(400)]
    tally, start = Tally(), time.perf_counter()
    until, rss = start + seconds, []

    async def watch():
        while time.perf_counter() < until:
            rss.append((time.perf_counter() - start, server.memory()))
            await asyncio.sleep(0.5)

    await asyncio.gather(watch(), *(visitor(server, i, until, tally, pictures) for i in range(clients)))

    def during(a, b):
        return statistics.mean(r for t, r in rss if a * seconds <= t < b * seconds)

    fifth = during(0.2, 0.3), during(0.9, 1.0)
    median, p99 = statistics.median(tally.prompts), percentile(tally.prompts, 0.99)
    print(f"| {clients} clients, {seconds} s, prompts and encodes mixed | |\n|---|---|")
    print(f"| prompts answered, per second | {len(tally.prompts) / seconds:.1f} |")
    print(f"| encodes answered, per second | {len(tally.embeds) / seconds:.1f} |")
    print(f"| answers by code | {tally.statuses} |")
    print(f"| prompt, median / 99th percentile, ms | {median:.0f} / {p99:.0f} ({p99 / median:.1f} x) |")
    print(f"| resident memory, third tenth / last tenth of the time, MB | {fifth[0]:.0f} / {fifth[1]:.0f} ({(fifth[1] / fifth[0] - 1) * 100:+.1f} %) |\n")


async def crowd(binary, seconds, clients, patient, encodes):
    """Answers per second of a server with a queue of 16; also its share of the processor time, ours, and the host's."""
    server = Server(binary, ["--queue", "16"])
    await server.ready()
    pictures, tally, first = [embed_body(bmp(320, 240, seed)) for seed in range(8)], Tally(), Client(server)
    keys = [json.loads((await first.post("/v1/embed", picture))[1])["key"] for picture in pictures]
    first.close()
    start, theirs, ours, gone = time.perf_counter(), server.seconds(), time.process_time(), stolen()
    until = start + seconds
    visitors = (visitor(server, i, until, tally, pictures, encodes, patient, keys[i % 8]) for i in range(clients))
    await asyncio.gather(*visitors)
    took = time.perf_counter() - start
    shares = (server.seconds() - theirs) / took, (time.process_time() - ours) / took, (stolen() - gone) / took
    server.stop()
    return {"answers": (len(tally.prompts) + len(tally.embeds)) / seconds, "shares": shares, "tally": tally}


async def overload(binary, seconds, rounds=5):
    """Goodput with as many clients as the queue has places, and with eight times as many, in alternating rounds."""
    crowds = {
        "16 clients": (16, True),
        "128 clients that wait for Retry-After": (128, True),
        "128 clients that ask again after 50 to 100 ms": (128, False),
    }
    for encodes, what in ((0.0, "clicks"), (0.05, "clicks and 5 % uploads of 300 kB")):
        runs = {name: [] for name in crowds}
        for _ in range(rounds):
            for name, (clients, patient) in crowds.items():
                runs[name].append(await crowd(binary, seconds / rounds, clients, patient, encodes))
        show_overload(what, runs, seconds, rounds)


def show_overload(what, runs, seconds, rounds):
    peak = statistics.median(run["answers"] for run in runs["16 clients"])
    print(f"| queue of 16, {what}, {rounds} rounds of {seconds / rounds:.0f} s, medians | answers per second | of the peak | 429 per second | "
          "ms to a 429, median / 95th / 99th percentile | cores: server / script / taken by the host |\n|---|---|---|---|---|---|")
    for name, done in runs.items():
        answers = statistics.median(run["answers"] for run in done)
        refused = [ms for run in done for ms in run["tally"].refused]
        times = " / ".join(f"{percentile(refused, share):.1f}" for share in (0.5, 0.95, 0.99)) if refused else ""
        shares = " / ".join(f"{statistics.median(run['shares'][i] for run in done):.2f}" for i in (0, 1, 2))
        print(f"| {name} | {answers:.1f} | {answers / peak * 100:.0f} % | {len(refused) / seconds:.0f} | {times} | {shares} |")
    statuses = {name: sum((collections.Counter(run["tally"].statuses) for run in done), collections.Counter()) for name, done in runs.items()}
    print(f"\nAnswers by code: {'; '.join(f'{name} {dict(codes)}' for name, codes in statuses.items())}.\n")


async def normal(server, count, key, size):
    client, rng, times = Client(server), random.Random(3), []
    for _ in range(count):
        status, data, ms = await timed(client.post("/v1/segment", click(key, size, rng)))
        assert status == 200, data
        times.append(ms)
    client.close()
    return times


async def hostile(server):
    status, data = await Client(server).post("/v1/embed", embed_body(bmp(1000, 750, 99)))
    answer = json.loads(data)
    key, size = answer["key"], (answer["width"], answer["height"])
    alone = await normal(server, 100, key, size)
    lorises = []
    for i in range(500):
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 9999999\r\nContent-Type: application/json\r\n\r\n{" if i % 2 else b"X-A"))
        lorises.append(writer)

    async def drip():
        while True:
            for writer in lorises:
                try:
                    writer.write(b"a")
                except OSError:
                    pass
            await asyncio.sleep(1)

    task = asyncio.create_task(drip())
    beside = await normal(server, 100, key, size)
    part = embed_body(bmp(1000, 750, 98))[:1_000_000]

    async def abort():
        for _ in range(200):
            _, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n" + part)
            await asyncio.sleep(0.005)
            writer.transport.abort()

    aborting = asyncio.create_task(abort())
    aborted = await normal(server, 100, key, size)
    await aborting
    task.cancel()
    for writer in lorises:
        writer.transport.abort()
    after = await normal(server, 100, key, size)
    print("| a normal client's click to mask, median / 95th percentile, ms | |\n|---|---|")
    for name, times in (("alone", alone), ("beside 500 slow connections", beside), ("while 200 uploads are aborted as well", aborted), ("afterwards", after)):
        print(f"| {name} | {statistics.median(times):.1f} / {percentile(times, 0.95):.1f} |")
    print()


async def drain(binary):
    """SIGTERM under load: whoever was accepted is answered."""
    server = Server(binary, [])
    await server.ready()
    counts = {"sent": 0, "answered": 0, "refused": 0, "lost": 0, "late": 0}
    pictures = [embed_body(bmp(320, 240, seed)) for seed in range(64)]
    stop = asyncio.Event()

    async def one(seed):
        client, rng, told = Client(server), random.Random(seed), False
        while not stop.is_set():
            try:
                if client.writer is None or client.writer.is_closing():
                    await client.connect()
            except OSError:
                return
            counts["sent"] += 1
            try:
                status, _ = await client.post("/v1/embed", pictures[rng.randrange(64)])
                counts["answered" if status == 200 else "refused"] += 1
                told = told or status == 503
                if status != 200:
                    await asyncio.sleep(0.02)
            except (OSError, asyncio.IncompleteReadError):
                # A client that has heard "draining" and asks on is cut off when the process ends.
                counts["late" if told else "lost"] += 1
                client.close()

    tasks = [asyncio.create_task(one(i)) for i in range(32)]
    await asyncio.sleep(3)
    start = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    while server.process.poll() is None:
        await asyncio.sleep(0.02)
    took = time.perf_counter() - start
    stop.set()
    await asyncio.gather(*tasks)
    print("| SIGTERM under the load of 32 clients | |\n|---|---|")
    print(f"| requests sent / answered / refused (429, 503) / lost / asked again after a 503 and cut off | {counts['sent']} / {counts['answered']} / {counts['refused']} / {counts['lost']} / {counts['late']} |")
    print(f"| time to the end of the process, s (exit code {server.process.returncode}) | {took:.2f} |\n")


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/samclip")
    parser.add_argument("--photo", default="examples/astronaut.jpg")
    parser.add_argument("--vit-b", help="weights of sam_vit_b, for the part large (benches/peers/make_inputs.py)")
    parser.add_argument("--adapters", nargs="+", help="adapter files, for the part adapters")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--parts", default="latency,mixed,overload,hostile,drain")
    parser.add_argument("--server", default="", help="more arguments of samclip serve, separated by spaces")
    args = parser.parse_args()
    parts, extra = args.parts.split(","), args.server.split()
    with open(args.photo, "rb") as file:
        photo = file.read()
    if "large" in parts:
        await large(args.binary, photo, args.vit_b)
    if "adapters" in parts:
        await adapters(args.binary, photo, args.adapters)
    if {"latency", "hostile"} & set(parts):
        server = Server(args.binary, extra)
        await server.ready()
        if "latency" in parts:
            await latency(server, photo)
        if "hostile" in parts:
            await hostile(server)
        server.stop()
    if "mixed" in parts:
        server = Server(args.binary, [*extra, "--cache-mb", "128", "--queue", "128"])
        await server.ready()
        await mixed(server, args.seconds)
        server.stop()
    if "overload" in parts:
        await overload(args.binary, min(args.seconds, 30))
    if "drain" in parts:
        await drain(args.binary)


asyncio.run(main())
