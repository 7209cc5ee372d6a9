#!/usr/bin/env python3
"""Times the digests of one large file, beside b3sum, and of a folder of many small files.

    cargo install b3sum --root /tmp/b3sum
    benches/hashing.py --b3sum /tmp/b3sum/bin/b3sum

Builds `benches/hashing.rs` unless --harness names it. Prints Markdown. Files are made in a folder of their own and
read once before anything is timed, so the disk plays no part. Programs that are compared take turns.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    arguments = parse()
    harness = arguments.harness or build()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, medians of {arguments.times} "
          "with the least and the most\n")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="hashpipe-bench-") as folder:
        folder = pathlib.Path(folder)
        large_file(folder, harness, arguments)
        small_files(folder, harness, arguments)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--b3sum", default=shutil.which("b3sum"), help="the program to compare with")
    parser.add_argument("--harness", help="the built benches/hashing.rs")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where to make the files (5 GB)")
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--gib", type=float, default=4, help="size of the large file")
    parser.add_argument("--files", type=int, default=100_000, help="number of small files")
    return parser.parse_args()


def build():
    command = ["cargo", "build", "--locked", "--release", "--bench", "hashing", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    return next(m["executable"] for m in messages if m.get("target", {}).get("name") == "hashing")


def large_file(folder, harness, arguments):
    path = folder / "large"
    block = os.urandom(1 << 24)
    with open(path, "wb") as file:
        for turn in range(max(1, int(arguments.gib * 64))):
            file.write(block[turn:] + block[:turn])
    programs = {"hashpipe": [harness, "file", str(path)]}
    if arguments.b3sum:
        programs["b3sum"] = [arguments.b3sum, str(path)]
        programs["b3sum --no-mmap"] = [arguments.b3sum, "--no-mmap", str(path)]
    timed = {name: [] for name in programs}
    for turn in range(arguments.times + 1):
        digests = set()
        for name, command in programs.items():
            *times, output = run(command)
            digests.add(output.split()[0])
            if turn > 0:  # The first turn fills the page cache.
                timed[name].append(times)
        assert len(digests) == 1, f"they disagree: {digests}"
    print(f"One file of {arguments.gib:g} GiB, page cache warm:\n")
    print("| program | seconds | CPU seconds | GiB/s | speed of b3sum |\n|---|---|---|---|---|")
    compared = timed.get("b3sum")
    for name, times in timed.items():
        wall, cpu = zip(*times)
        share = "" if not compared else f"{statistics.median(b[0] / t[0] for t, b in zip(times, compared)):.0%}"
        speed = arguments.gib / statistics.median(wall)
        print(f"| {name} | {spread(wall)} | {spread(cpu)} | {speed:.2f} | {share} |")
    path.unlink()


def small_files(folder, harness, arguments):
    small, memo = folder / "small", folder / "memo"
    content = os.urandom(1 << 20)
    for number in range(arguments.files):
        place = small / f"{number // 1000:04}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        start = number * 7 % (len(content) - 1024)
        (place / f"{number % 1000:03}.bin").write_bytes(content[start : start + 1024])
    time.sleep(2.1)  # Younger files are not remembered.
    steps = {"first": [], "again": []}
    run([harness, "folder", str(small), str(memo)])
    for _ in range(arguments.times):
        memo.unlink(missing_ok=True)
        for found in steps.values():
            wall, cpu, output = run([harness, "folder", str(small), str(memo)])
            found.append((wall, cpu, json.loads(output)))
    print(f"\nA folder of {arguments.files:,} files of 1 KB, page cache warm:\n")
    print("| | seconds | CPU seconds | of it loading the memo | memory |\n|---|---|---|---|---|")
    for name, found in steps.items():
        wall, cpu, told = zip(*found)
        memory = max(t["memory"] for t in told) / 1e6
        load = spread([t["load"] for t in told])
        print(f"| {name} | {spread(wall)} | {spread(cpu)} | {load} | {memory:.0f} MB |")


def run(command):
    """Wall and CPU seconds, and standard output."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
