#!/usr/bin/env python3
"""AlexNet on a CPU, beside PyTorch: forward passes and training steps in images per second.

    cargo build --release --bench network
    benches/peers/network.py --python /tmp/torchenv/bin/python

Takes turns: one process of each kind after the other, `--rounds` times, so that a busy minute hits all alike. PyTorch
runs in NCHW and channels_last, each with and without huge pages, and under bf16 autocast; `--plain` adds AlexNet out of
candle's own operations.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

# What makes glibc keep large blocks and ask for huge pages.
HUGE = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"

# Name: precision, or layout, autocast to bf16, huge pages.
OURS = {"hashpipe": ["--precision", "f32"], "hashpipe bf16": ["--precision", "bf16"]}
# Peers that are in the same program.
PLAIN = {"candle, its own operations": ["--plain"]}
PEERS = {
    "PyTorch NCHW": ("nchw", False, False),
    "PyTorch channels_last": ("channels_last", False, False),
    "PyTorch NCHW, huge pages": ("nchw", False, True),
    "PyTorch channels_last, huge pages": ("channels_last", False, True),
    "PyTorch bf16 channels_last": ("channels_last", True, False),
    "PyTorch bf16 channels_last, huge pages": ("channels_last", True, True),
}


def peer(layout, bf16, batch, threads, seconds, cpu):
    """Prints PyTorch's rates as JSON; runs in the interpreter that has PyTorch."""
    import time

    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    sizes = [(3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False)]
    sizes += [(384, 256, 3, 1, 1, False), (256, 256, 3, 1, 1, True)]
    layers = []
    for inputs, outputs, kernel, stride, padding, pooled in sizes:
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2)] if pooled else []
    layers += [nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True)]
    layers += [nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, 64)]
    model = nn.Sequential(*layers).to(memory_format=form)
    images = torch.randn(batch, 3, 224, 224).to(memory_format=form)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def forward():
        model.eval()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            model(images)

    def train():
        model.train()
        sgd.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(images).float().square().mean()
        loss.backward()
        sgd.step()

    clock = time.process_time if cpu else time.perf_counter
    forward()
    train()
    rates = {"forward": [], "train": []}
    began = time.perf_counter()
    while not rates["train"] or time.perf_counter() - began < seconds:
        for what, work in (("forward", forward), ("train", train)):
            start = clock()
            work()
            rates[what].append(batch / (clock() - start))
    print(json.dumps({what: statistics.median(values) for what, values in rates.items()}))


def ours(target, which, batch, threads, seconds, cpu):
    """Returns the rates of a program in Rust, of the newest build."""
    root = Path(__file__).resolve().parents[2]
    builds = [path for path in root.glob(f"target/{target}/deps/network-*") if not path.suffix]
    if not builds:
        sys.exit("build it first: cargo build --release --bench network")
    newest = max(builds, key=lambda path: path.stat().st_mtime)
    sizes = ["--batch", batch, "--threads", threads, "--seconds", seconds]
    command = [newest, *map(str, sizes), *which, "--json", *(["--cpu"] if cpu else [])]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {told["what"]: told["images_per_second"] for told in map(json.loads, lines)}


def theirs(python, name, batch, threads, seconds, cpu):
    """Returns PyTorch's rates."""
    layout, bf16, huge = PEERS[name]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if huge:
        environment["GLIBC_TUNABLES"] = HUGE
    sizes = [str(batch), str(threads), str(seconds), str(int(cpu))]
    command = [python, __file__, "--peer", layout, str(int(bf16)), *sizes]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout)


def main():
    """Times all in turn, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6, help="per process and round")
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds: for a busy machine, with --threads 1")
    parser.add_argument("--target", default="release", help="the build's folder in target/ [%(default)s]")
    parser.add_argument("--plain", action="store_true", help="candle's own operations, too: half a minute for a step")
    parser.add_argument("--without", default="", metavar="WORD", help="leave out the rows that have it in their names")
    parser.add_argument("--peer", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        layout, bf16, batch, threads, seconds, cpu = options.peer
        return peer(layout, bf16 == "1", int(batch), int(threads), float(seconds), cpu == "1")

    sizes = (options.batch, options.threads, options.seconds, options.cpu)
    rust = {**OURS, **(PLAIN if options.plain else {})}
    found = {name: [] for name in [*rust, *PEERS] if not options.without or options.without not in name}
    for _ in range(options.rounds):
        for name, rounds in found.items():
            rounds.append(ours(options.target, rust[name], *sizes) if name in rust else theirs(options.python, name, *sizes))
    unit = "images per CPU second" if options.cpu else "images/s"
    print(f"{unit}, batch {options.batch}, {options.threads} threads; medians of {options.rounds} rounds (least-most)")
    print("| | forward | hashpipe is | training step | hashpipe is |\n|---|---|---|---|---|")
    for name, rounds in found.items():
        # Each precision is compared with its own.
        mine = "hashpipe bf16" if "bf16" in name else "hashpipe"
        cells = [name]
        for what in ("forward", "train"):
            rates = [rates[what] for rates in rounds]
            ratios = [own[what] / rate for own, rate in zip(found[mine], rates)]
            cells.append(f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f})")
            cells.append(f"x {statistics.median(ratios):.2f}")
        print(f"| {' | '.join(cells)} |")
    return None


if __name__ == "__main__":
    main()
