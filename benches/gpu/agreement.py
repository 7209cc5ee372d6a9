#!/usr/bin/env python3
"""Whether trainings on a GPU retrieve as well as trainings on the CPU: mAP of several seeds each, and a test.

    benches/gpu/agreement.py [--cifar10 DIR] [--seeds 5] [--epochs N] [--json]

The same pipeline runs twice, in caches of their own, once on the CPU and once on the GPU: with the same seeds, so with the
same first weights, orders, crops and dropout; only roundings differ, and what a training makes of them. CIFAR-10 is read from
`DIR/train/<class>/` and `DIR/test/<class>/`; without it, pictures of coloured shapes are drawn.

Told are the mean mAP of both sides, their difference with its 95 % interval (Welch's), the p-value of an exact permutation
test, and the standard deviation between seeds. They agree if p is at least 0.01 and the difference is at most
`--margin` standard deviations between seeds. The exit code is 1 if they do not.
"""

import argparse
import itertools
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import hashpipe
from hashpipe import gpus, say, table

SHAPES = 'dataset = { name = "shapes", train = %d, query = %d, database = %d, size = 56, seed = 1 }'
CIFAR = """[lists.d.dataset]
name = "folders"
root = "%s"
folders = ["train", "test"]
query_per_class = %d
train_per_class = %d
database = "rest"
seed = 0
"""


def main():
    """Parses, trains on both, compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    hashpipe.arguments(parser)
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="CIFAR-10 as folders of pictures [drawn shapes]")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each side [%(default)s]")
    parser.add_argument("--epochs", type=int, help="[20 of shapes, 60 of CIFAR-10]")
    parser.add_argument("--train", type=int, help="training images, of CIFAR-10 per class [4000, 500]")
    parser.add_argument("--query", type=int, help="queries, of CIFAR-10 per class [500, 100]")
    parser.add_argument("--bits", type=int, default=32, help="[%(default)s]")
    parser.add_argument("--precision", default="f32", help="of the GPU: f32, tf32 or bf16 [%(default)s]")
    parser.add_argument("--margin", type=float, default=2.0, help="standard deviations between seeds [%(default)s]")
    parser.add_argument("--folder", type=Path, help="where results are kept for the next time")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: at least 2, or nothing is known of what a seed changes")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hashpipe-gpu-agreement-"))
    try:
        found = {
            "CPU": maps(folder, options, "cpu", "f32"),
            options.device: maps(folder, options, options.device, options.precision),
        }
    finally:
        if not options.folder:
            shutil.rmtree(folder)
    # Both may be `cpu`, to see that the script works.
    cpu, gpu = found["CPU"], found[options.device]
    result = compare(cpu, gpu, options.margin)
    facts = {"device": options.device, "precision": options.precision, "bits": options.bits, "seeds": options.seeds}
    if options.json:
        print(json.dumps({"what": "agreement", "cpu": cpu, "gpu": gpu} | result | facts))
    else:
        cell = lambda values: " ".join(f"{value:.4f}" for value in values)
        table(["", "mAP, by seed", "mean"], [[n, cell(v), f"{statistics.mean(v):.4f}"] for n, v in found.items()])
        low, high = result["interval"]
        print(
            f"difference {result['difference']:+.4f} (95 %: {low:+.4f} to {high:+.4f}), p = {result['p']:.3f}, "
            f"between seeds {result['deviation']:.4f}: {'they agree' if result['agree'] else 'THEY DO NOT AGREE'}"
        )
    return 0 if result["agree"] else 1


def pipeline(options, precision):
    """Returns the text of the pipeline."""
    if options.cifar10:
        epochs, train, query = options.epochs or 60, options.train or 500, options.query or 100
        lists = CIFAR % (options.cifar10.resolve(), query, train)
    else:
        epochs, train, query = options.epochs or 20, options.train or 4000, options.query or 500
        lists = "[lists.d]\n" + SHAPES % (train, query, train)
    precision = f'precision = "{precision}"' if precision != "f32" else ""
    # Both sides are encoded in the precision they were trained in.
    return f"""
name = "agreement"
{lists}
[train.net]
list = "lists.d/train"
bits = {options.bits}
epochs = {epochs}
batch = 50
seed = [{", ".join(str(seed) for seed in range(1, options.seeds + 1))}]
backbone = {{ name = "small", channels = [24, 48, 96], dropout = 0.25 }}
optimizer = {{ name = "sgd", lr = 0.01, hash_lr = 1 }}
schedule = {{ name = "step", every = {max(1, epochs * 2 // 5)} }}
loss = {{ name = "hashnet", alpha = 0.6, scale_every = {max(1, epochs * 2 // 5)} }}
transform = {{ resize = 36, crop = 32 }}
{precision}
[encode.query]
model = "train.net/model"
list = "lists.d/query"
{precision}
[encode.database]
model = "train.net/model"
list = "lists.d/database"
{precision}
[evaluate.map]
query_codes = "encode.query/codes"
database_codes = "encode.database/codes"
query_list = "lists.d/query"
database_list = "lists.d/database"
top_k = 1000
"""


def maps(folder, options, device, precision):
    """Trains on a device and returns the mAP of each seed."""
    say(f"{options.seeds} trainings on {device} in {precision}")
    project = folder / f"{device.replace(':', '-')}-{precision}"
    project.mkdir(exist_ok=True, parents=True)
    (project / "p.toml").write_text(pipeline(options, precision))
    # A build without CUDA refuses to be asked for GPUs.
    on = [] if options.device == "cpu" else ["--gpus", gpus(device)]
    hashpipe.run(options.hashpipe, "run", "p.toml", "--json", *on, folder=project)
    tasks = hashpipe.run(options.hashpipe, "status", "p.toml", "--json", folder=project)
    found = {task["task"]: task["metrics"] for task in tasks if task["task"].startswith("evaluate.")}
    name = next(name for name in next(iter(found.values())) if name.startswith("mAP@"))
    return [metrics[name] for _, metrics in sorted(found.items())]


def compare(cpu, gpu, margin):
    """Returns the difference of the means and what is known of it."""
    difference = statistics.mean(gpu) - statistics.mean(cpu)
    variances = [statistics.variance(side) / len(side) for side in (cpu, gpu)]
    error, freedom = math.sqrt(sum(variances)), len(cpu) - 1
    if error > 0:
        freedom = sum(variances) ** 2 / sum(v**2 / (len(side) - 1) for v, side in zip(variances, (cpu, gpu)))
    half = student(0.975, freedom) * error
    deviation = math.sqrt((statistics.variance(cpu) + statistics.variance(gpu)) / 2)
    p = permutations(cpu, gpu)
    return {
        "difference": difference,
        "interval": [difference - half, difference + half],
        "p": p,
        "deviation": deviation,
        "agree": p >= 0.01 and abs(difference) <= margin * deviation,
    }


def permutations(cpu, gpu, most=200_000):
    """Returns how often a division of all figures into two such groups differs as much: of all divisions, or of many."""
    both, count = cpu + gpu, len(cpu)
    total, least = sum(both), abs(statistics.mean(gpu) - statistics.mean(cpu)) - 1e-12
    apart = lambda part: abs(sum(part) / count - (total - sum(part)) / len(gpu))
    if math.comb(len(both), count) <= most:
        divisions = list(itertools.combinations(both, count))
    else:
        draw = random.Random(1)
        divisions = [cpu, *(draw.sample(both, count) for _ in range(most - 1))]
    return sum(apart(part) >= least for part in divisions) / len(divisions)


def student(part, freedom):
    """Returns the quantile of Student's t, by halving; its distribution by the trapezoid rule in the angle."""
    # With t = sqrt(freedom) * tan(a), the density is proportional to cos(a) ** (freedom - 1).
    steps = 20_000
    angles = [(i + 0.5) / steps * math.pi - math.pi / 2 for i in range(steps)]
    weights = [math.cos(angle) ** (freedom - 1) for angle in angles]
    wanted, sum_so_far = part * sum(weights), 0.0
    for angle, weight in zip(angles, weights):
        sum_so_far += weight
        if sum_so_far >= wanted:
            return math.sqrt(freedom) * math.tan(angle)
    return math.inf


if __name__ == "__main__":
    sys.exit(main())
