#!/usr/bin/env python3
"""Hamming search and evaluation beside the reference's NumPy and Faiss, in turns.

    cargo build --release --bench ranking
    python -m venv /tmp/env && /tmp/env/bin/pip install numpy faiss-cpu
    /tmp/env/bin/python benches/peers/ranking.py [--lists coco-lists.tar.gz] [--threads 2] [--rounds 3]

Two data sets: the COCO lists (5,000 queries, 112,218 images; codes drawn from the labels by a fixed formula), if the
archive is given, and 1,000,000 uniform codes of 64 bits with 200 queries. Of NumPy's evaluation, which takes a minute,
`--numpy-queries` queries are run and the rest is extrapolated. Sums of distances must agree with Faiss, and mAP@5000 with
NumPy under a stable sort.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path


def coco(archive, folder):
    """Writes labels and codes of the COCO lists; returns codes and labels of both sides."""
    import numpy as np

    tar = tarfile.open(archive)
    sides = {}
    weights = np.random.default_rng(20240).integers(-1000, 1001, (80, 64))
    for seed, (side, name) in enumerate([("database", "database.txt"), ("queries", "test.txt")], 1):
        rows = [line.split()[1:] for line in io.TextIOWrapper(tar.extractfile(name))]
        labels = np.array(rows, dtype=np.uint8)
        noise = np.random.default_rng(seed).integers(-2000, 2001, (len(labels), 64))
        bits = labels.astype(np.int64) @ weights + noise >= 0
        (folder / f"{side}.labels").write_text("".join(" ".join(map(str, np.flatnonzero(row))) + "\n" for row in labels))
        sides[side] = write(folder, side, bits), labels
    return sides


def uniform(folder, database, queries):
    """Writes uniform codes; returns them."""
    import numpy as np

    rng = np.random.default_rng(1)
    return {side: (write(folder, side, rng.random((n, 64)) < 0.5), None)
            for side, n in (("database", database), ("queries", queries))}


def write(folder, side, bits):
    """Writes codes as words; returns them as Faiss takes them."""
    import numpy as np

    packed = np.packbits(bits, axis=1, bitorder="little")
    (folder / f"{side}.u64").write_bytes(packed.tobytes())
    return packed


def newest():
    """Returns the newest build of our benchmark."""
    root = Path(__file__).resolve().parents[2]
    builds = [path for path in root.glob("target/release/deps/ranking-*") if not path.suffix]
    if not builds:
        sys.exit("build it first: cargo build --release --bench ranking")
    return max(builds, key=lambda path: path.stat().st_mtime)


def ours(binary, folder, bits, threads):
    """One round of every measurement of ours, by name."""
    command = [binary, folder, str(bits), str(threads), "2"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def faiss_search(database, queries, k, use_heap, threads):
    """Wall and CPU seconds of one search, and the sum of the distances found."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexBinaryFlat(database.shape[1] * 8)
    index.use_heap = use_heap
    index.add(database)
    began, used = time.perf_counter(), time.process_time()
    distances, _ = index.search(queries, k)
    return (time.perf_counter() - began, time.process_time() - used), int(distances.sum(dtype="int64"))


def numpy_map(sides, k, count, kind, labels_type):
    """Wall and CPU seconds per query of the reference's CalcTopMap, and the APs of the first `count` queries."""
    import numpy as np

    signs = lambda side: np.unpackbits(sides[side][0], axis=1, bitorder="little").astype(np.float32) * 2 - 1
    database, queries = signs("database"), signs("queries")[:count]
    labels, query_labels = sides["database"][1].astype(labels_type), sides["queries"][1].astype(labels_type)
    aps = []
    began, used = time.perf_counter(), time.process_time()
    for code, wanted in zip(queries, query_labels):
        relevant = (np.dot(wanted, labels.transpose()) > 0).astype(np.float32)
        distance = 0.5 * (database.shape[1] - np.dot(code, database.transpose()))
        found = relevant[np.argsort(distance, kind=kind)][:k]
        ranks = np.where(found == 1)[0] + 1.0
        aps.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else 0.0)
    return ((time.perf_counter() - began) / count, (time.process_time() - used) / count), aps


def shown(seconds):
    """Median, least and most."""
    return f"{statistics.median(seconds):.4f} ({min(seconds):.4f}-{max(seconds):.4f})"


def compare(name, sides, folder, options):
    """Lets all take turns on one data set, and prints a table."""
    (database, labels), (queries, _) = sides["database"], sides["queries"]
    times, told = {}, {}
    note = lambda what, seconds: times.setdefault(what, []).append(seconds)
    cuts = [10, 100, 5000] if labels is not None else [10, 100]
    for _ in range(options.rounds):
        for line in ours(options.binary or newest(), folder, database.shape[1] * 8, options.threads):
            if "what" in line:
                note(f"hashpipe {line['what']}", (line["seconds"], line["cpu"]))
            told.update({line.get("what", key): line for key in line})
        for k in cuts:
            for heap, setting in ((True, "heap"), (False, "counting")):
                seconds, total = faiss_search(database, queries, k, heap, options.threads)
                note(f"Faiss {setting} top {k}", seconds)
                assert total == told[f"top {k}"]["sum_of_distances"], f"other distances at k = {k}"
        if labels is not None:
            count = options.numpy_queries
            each = numpy_map(sides, 5000, count, None, "int64")[0]
            note("NumPy mAP@5000", [seconds * len(queries) for seconds in each])
    print(f"\n{name}, {len(queries)} queries, {len(database)} codes, {options.threads} threads; medians of "
          f"{options.rounds} rounds in turns (least-most); load {os.getloadavg()[0]:.1f}\n")
    print("| | wall seconds | hashpipe is | CPU seconds | hashpipe is |\n|---|---|---|---|---|")
    for what, rounds in times.items():
        peer = f"hashpipe {' '.join(what.split()[-2:]) if 'top' in what else 'mAP@5000'}"
        cells = [what]
        for theirs, mine in zip(zip(*rounds), zip(*times[peer])):
            ratio = f"{statistics.median(theirs) / statistics.median(mine):.1f}x"
            cells += [shown(theirs), "" if what.startswith("hashpipe") else ratio]
        print(f"| {' | '.join(cells)} |")
    print({key: line[key] for line in told.values()
           for key in ("instructions", "popcounts_per_second", "peak_memory") if key in line})
    if labels is not None:
        theirs = statistics.mean(numpy_map(sides, 5000, 200, "stable", "float32")[1])
        mine = told["mAP@5000"]["first_200"]
        assert abs(theirs - mine) < 1e-12, f"NumPy has {theirs}, hashpipe {mine}"
        print(f"mAP@5000 {told['mAP@5000']['map']}; of the first 200 queries {mine:.15f}, NumPy {theirs:.15f}")


def main():
    """Makes the codes and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", help="the archive of the COCO lists")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--numpy-queries", type=int, default=100)
    parser.add_argument("--binary", help="our benchmark, if not the newest build")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        compare("Uniform, 64 bits", uniform(folder, 1_000_000, 200), folder, options)
        if options.lists:
            compare("COCO lists, 64 bits", coco(options.lists, folder), folder, options)


if __name__ == "__main__":
    main()
