#!/usr/bin/env python3
"""Times one stage that reads 100,000 files of 1 KB: the first run, runs with nothing to do, and one file edited.

    python3 benches/peers/files.py [--files 100000] [--repeats 5] [--tools ninja,hashpipe] [--json]

The stage counts the files and writes the number. What is timed is how a tool finds out that they are what they were.
The files were written just before, so they are in memory.
"""

import argparse
import json
import random
import sys

import install
from timing import Bench, machine, rounds, say, shown, summary, table, timed


def main():
    """Parses, runs, prints."""
    options = parse()
    tools = install.tools(options)
    with Bench(tools, options.keep) as labs:
        figures = measure(labs, options.files, options.repeats)
    if options.json:
        print(json.dumps(machine(tools) | {"files": options.files, "tools": figures}, indent=1))
        return
    print(json.dumps(machine(tools)))
    print(f"\n{options.files:,} files of 1 KB; seconds, median (least-most)\n")
    names = ("first", "nothing to do", "one edited")
    table(["tool", *names], [[tool, *(shown(found[name]) for name in names)] for tool, found in figures.items()])


def parse():
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    install.arguments(parser)
    parser.add_argument("--files", type=int, default=100_000, help="number of files [%(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each tool behind a median [%(default)s]")
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    return parser.parse_args()


def measure(labs, files, repeats):
    """Returns every figure, by tool."""
    figures = {lab.tool.name: {} for lab in labs}

    def record(name, times):
        for lab, found in times.items():
            figures[lab.tool.name][name] = summary(found)
            say(f"{lab.tool.name}: {name} {shown(figures[lab.tool.name][name])}")

    for lab in labs:
        prepare(lab, files)
        record("first", {lab: [run(lab)]})
    rounds(labs, 1, lambda lab, _: run(lab))
    record("nothing to do", rounds(labs, repeats, lambda lab, _: run(lab)))
    record("one edited", rounds(labs, repeats, edited))
    for lab in labs:
        if lab.ran().count("count") != 1 + repeats:
            raise RuntimeError(f"{lab.tool.name}: the stage ran at the wrong times")
        lab.expect("out.txt", f"{files}\n")
    return figures


def prepare(lab, files):
    """Writes the files, a thousand to a folder, and the pipeline file."""
    draw = random.Random(0)
    for n in range(files):
        path = lab.project / f"data/{n // 1000:03}/{n:06}.bin"
        if n % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(draw.randbytes(1024))
    step = lab.step("count", 'find -L "$1" -type f | wc -l > "$2"', inputs={"data": "data"})
    lab.pipeline(step)


def run(lab):
    """Times a run."""
    return timed(lab, lab.tool.command(lab))


def edited(lab, number):
    """Times a run after an edit of one file."""
    lab.put(f"data/000/{number:06}.bin", f"edited, {number}\n")
    return run(lab)


if __name__ == "__main__":
    sys.exit(main())
