#!/usr/bin/env python3
"""The training part of `coco_all_bits` on one GPU: time per bit length, and four bit lengths together against one by one.

    benches/gpu/pipeline.py --python PYTHON_WITH_NUMPY_AND_PILLOW [--images 10000] [--epochs 150] [--json]

Drawn pictures of COCO's sizes, 10,000 for training, with three of 80 classes each; AlexNet at 224 pixels, batches of 128, 150
epochs, HashNet's loss, 16 to 64 bits, from drawn weights. Preparing the images is timed once. Then every round trains all bit
lengths twice: one by one, each with the card to itself, and together, sharing it (`gpu_memory = "auto"`: what each was
measured to use when it was alone; `--gpu-memory` sets a figure instead). Which of the two comes first alternates.

A time is that of the task, from its process's start to its end; the makespan is from the first start to the last end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import hashpipe
from hashpipe import ROOT, gpus, middle, say, table

sys.path.insert(0, str(ROOT / "benches/peers"))
import epoch  # noqa: E402

NETWORKS = {
    "alexnet": ("{ name = 'alexnet', dropout = 0.5 }", 256, 224),
    "small": ("{ name = 'small', channels = [8, 16], width = 32, dropout = 0.5 }", 36, 32),
}


def main():
    """Parses, draws, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    hashpipe.arguments(parser)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has NumPy and Pillow [this one]")
    parser.add_argument("--images", type=int, default=10_000, help="training images [%(default)s]")
    parser.add_argument("--epochs", type=int, default=150, help="[%(default)s]")
    parser.add_argument("--batch", type=int, default=128, help="[%(default)s]")
    parser.add_argument("--bits", default="16,32,48,64", help="bit lengths [%(default)s]")
    parser.add_argument("--precision", default="f32", help="f32, tf32 or bf16 [%(default)s]")
    parser.add_argument("--network", choices=NETWORKS, default="alexnet", help="`small` only to see that it works [%(default)s]")
    parser.add_argument("--gpu-memory", default="auto", metavar="SIZE", help="of each, when they share the card [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1, help="[%(default)s]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="threads in all [%(default)s]")
    parser.add_argument("--folder", type=Path, help="where the pictures are kept for the next time")
    parser.add_argument("--draw", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        return epoch.draw(Path(options.draw[0]), int(options.draw[1]))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hashpipe-gpu-pipeline-"))
    try:
        say(f"drawing {options.images} pictures")
        command = [options.python, __file__, "--draw", folder, str(options.images)]
        subprocess.run(command, check=True)
        measure(folder, options)
    finally:
        if not options.folder:
            shutil.rmtree(folder)
    return None


def write(folder, options):
    """Writes lists and the pipeline; returns the project's folder."""
    project = folder / "project"
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir()
    for name, count in [("train", options.images), ("database", 1), ("query", 1)]:
        rows = (
            " ".join([f"{n:06}.jpg", *("1" if c in epoch.labels(n) else "0" for c in range(epoch.CLASSES))])
            for n in range(count)
        )
        (project / f"{name}.txt").write_text("\n".join(rows) + "\n")
    backbone, resize, crop = NETWORKS[options.network]
    precision = f'precision = "{options.precision}"' if options.precision != "f32" else ""
    (project / "p.toml").write_text(f"""
name = "pipeline"
[lists.drawn]
dataset = {{ name = "files", train = "train.txt", query = "query.txt", database = "database.txt", root = "../images" }}
[prepare.train]
list = "lists.drawn/train"
resize = {resize}
[train.net]
list = "lists.drawn/train"
prepared = "prepare.train/images"
bits = [{options.bits}]
epochs = {options.epochs}
batch = {options.batch}
backbone = {backbone}
loss = {{ name = "hashnet", alpha = 0.1, scale_every = 20 }}
optimizer = {{ name = "sgd", lr = 0.002, momentum = 0.9, weight_decay = 5e-4, hash_lr = 10 }}
schedule = {{ name = "step", every = 50, factor = 0.5, first = "logs" }}
transform = {{ resize = {resize}, crop = {crop} }}
{precision}
""")
    return project


def run(project, options, *more):
    """Runs the pipeline and returns its events."""
    base = ["run", "p.toml", "--json", "--jobs", options.jobs]
    # A build without CUDA refuses to be asked for GPUs.
    base += [] if options.device == "cpu" else ["--gpus", gpus(options.device)]
    return hashpipe.run(options.hashpipe, *base, *more, folder=project)


def trained(events):
    """Returns the seconds of each training by bits, and the makespan."""
    times = {e["task"]: {"took": e["seconds"], "end": e["ts"]} for e in events if e["event"] == "done"}
    times = {task: time for task, time in times.items() if task.startswith("train.")}
    starts = [e["ts"] for e in events if e["event"] == "start" and e["task"] in times]
    took = {int(task.partition("bits=")[2].split(",")[0] or 0): time["took"] for task, time in times.items()}
    return took, max(time["end"] for time in times.values()) - min(starts)


def seen(project):
    """Returns the most GPU memory that a training was measured to use, in bytes, if any was."""
    lines = (project / "cache/v2/known/pipeline").read_text().splitlines()
    attempts = (json.loads(line.partition(" ")[2]) for line in lines if " " in line)
    return max((attempt.get("gpu_memory") or 0 for attempt in attempts), default=0) or None


def measure(folder, options):
    """Runs both ways and prints the figures."""
    project = write(folder, options)
    count = len(options.bits.split(","))
    events = run(project, options, "--only", "prepare")
    prepare = next(e["seconds"] for e in events if e["event"] == "done" and e["task"] == "prepare.train")
    alone = ["--set", f"resources.train.cpus={options.jobs}"]
    shared = ["--set", f"resources.train.cpus={max(1, options.jobs // count)}"]
    if options.device != "cpu":
        shared += ["--set", f'resources.train.gpu_memory="{options.gpu_memory}"']
    ways, found = {"one by one": alone, "together": shared}, {"one by one": [], "together": []}
    for turn in range(options.rounds):
        # The first to be measured is alone: what it uses is then known.
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            say(f"round {turn + 1} of {options.rounds}: {count} bit lengths {name}")
            found[name].append(trained(run(project, options, "--only", "train", "--force", "train", *ways[name])))
    memory = seen(project)
    ratios = [one / both for (_, one), (_, both) in zip(found["one by one"], found["together"])]
    facts = {key: getattr(options, key) for key in ("device", "images", "epochs", "batch", "precision", "network", "jobs")}
    if options.json:
        print(json.dumps({"what": "prepare", "seconds": prepare} | facts))
        for name, rounds in found.items():
            for bits in rounds[0][0]:
                took = [times[bits] for times, _ in rounds]
                print(json.dumps({"what": "train", "how": name, "bits": bits, "seconds": middle(took)} | facts))
            print(json.dumps({"what": "makespan", "how": name, "seconds": middle([m for _, m in rounds])} | facts))
        print(json.dumps({"what": "one by one / together", "ratio": middle(ratios), "gpu_memory": memory} | facts))
        return
    lengths = list(found["together"][0][0])
    cell = lambda values: "{median:.1f} ({least:.1f}-{most:.1f})".format(**middle(values))
    rows = [
        [name, *(cell([times[bits] for times, _ in rounds]) for bits in lengths), cell([m for _, m in rounds])]
        for name, rounds in found.items()
    ]
    print(f"seconds, medians of {options.rounds} rounds (least-most); {json.dumps(facts)}")
    table(["", *(f"{bits} bits" for bits in lengths), "makespan"], rows)
    print(f"one by one / together: {cell(ratios)}; preparing: {prepare:.1f} s; GPU memory of a training: {memory} bytes")


if __name__ == "__main__":
    main()
