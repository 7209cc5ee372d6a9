#!/usr/bin/env python3
"""Times runs of N independent stages, each one `cp` of one file: the first, those with nothing to do, small edits.

    python3 benches/peers/noop.py [--stages 1000,10000] [--repeats 5] [--tools ninja,hashpipe] [--all] [--json]

The tools take turns, so that a busy minute hits all alike. `first` takes the first run; `over cp` is what that is
per stage beyond two `xargs` that do the same copies. A first run that takes minutes is left out unless `--all`: the
outputs are made by hand and the tool is told so by a means of its own, as the last column says. DVC takes part up to
1,000 stages.
"""

import argparse
import json
import sys
import time
from functools import partial

import install
from timing import Bench, machine, rounds, say, seconds, shown, summary, table, timed


def main():
    """Parses, runs, prints."""
    options = parse()
    tools = install.tools(options)
    results = {}
    for stages in map(int, options.stages.split(",")):
        chosen = [tool for tool in tools if options.all or stages <= tool.stages_at_most]
        with Bench(chosen, options.keep) as labs:
            results[stages] = measure(labs, stages, options)
    if options.json:
        print(json.dumps(machine(tools) | {"stages": results}, indent=1))
        return
    print(json.dumps(machine(tools)))
    for stages, figures in results.items():
        show(stages, figures)


def parse():
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    install.arguments(parser)
    parser.add_argument("--stages", default="1000,10000", help="numbers of stages [%(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each tool behind a median [%(default)s]")
    parser.add_argument("--all", action="store_true", help="every tool, and first runs that take many minutes")
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    return parser.parse_args()


def measure(labs, stages, options):
    """Returns every figure of one number of stages, by tool."""
    figures = {lab.tool.name: {} for lab in labs}
    for lab in labs:
        prepare(lab, stages)
        figures[lab.tool.name] |= first(lab, stages, options.all)

    def record(name, times, counts=None):
        for lab, found in times.items():
            figures[lab.tool.name][name] = summary(found) | ({"ran": max(counts[lab])} if counts else {})
            say(f"{stages} stages, {lab.tool.name}: {name} {shown(figures[lab.tool.name][name])}")

    # A file that changed within two seconds could change again and look the same: hashpipe reads it again till then.
    time.sleep(2.5)
    # Once unmeasured: the first look after the first run may still write something down.
    rounds(labs, 1, lambda lab, _: timed(lab, lab.tool.command(lab)))
    record("no-op", rounds(labs, options.repeats, lambda lab, _: timed(lab, lab.tool.command(lab))))
    for name, edit in (("leaf", edit_leaf), ("comment", edit_comment)):
        counts = {lab: [] for lab in labs}
        record(name, rounds(labs, options.repeats, partial(edited, stages, edit, counts)), counts)
    return figures


def prepare(lab, stages):
    """Writes inputs and the pipeline file."""
    for folder in ("in", "out"):
        (lab.project / folder).mkdir()
    for n in range(stages):
        (lab.project / f"in/{n}.txt").write_text(f"input {n}\n")
    lab.tool.write_copies(lab, stages, "no comment")


def first(lab, stages, everything):
    """Does the first run, or has the tool take up outputs that are there already."""
    names = "".join(f"in/{n}.txt\nout/{n}.txt\n" for n in range(stages))
    (lab.home / "names").write_text(names)
    copy = timed(lab, ["sh", "-c", f"xargs -n 2 -P 2 cp < {lab.home}/names"])
    if stages > lab.tool.first_run_at_most and not everything:
        took = timed(lab, lab.tool.adopt())
        say(f"{stages} stages, {lab.tool.name}: took the outputs up in {seconds(took.wall)} s")
        return {"adopted": {"by": " ".join(lab.tool.adopt()[1:]), "wall": took.wall}}
    for n in range(stages):
        (lab.project / f"out/{n}.txt").unlink()
    took = timed(lab, lab.tool.command(lab))
    say(f"{stages} stages, {lab.tool.name}: first run {seconds(took.wall)} s")
    return {"first": summary([took]), "copy": summary([copy])}


def edited(stages, edit, counts, lab, number):
    """Makes an edit, runs, and counts the outputs that were written."""
    edit(lab, stages, number)
    before = dates(lab)
    took = timed(lab, lab.tool.command(lab))
    after = dates(lab)
    counts[lab].append(sum(before[name] != after[name] for name in before))
    return took


def edit_leaf(lab, _, number):
    """Gives one input other content."""
    lab.put(f"in/{number}.txt", f"edited, {number}\n")


def edit_comment(lab, stages, number):
    """Puts a comment into the pipeline file."""
    lab.next_tick()
    lab.tool.write_copies(lab, stages, f"comment {number}")


def dates(lab):
    """Returns inode and date of every output."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (lab.project / "out").iterdir()}


def show(stages, figures):
    """Prints one table."""
    print(f"\n{stages:,} stages; seconds, median (least-most)\n")
    ninja = figures.get("ninja", {}).get("no-op", {}).get("wall")
    rows = []
    for name, found in figures.items():
        noop, start, adopted = found["no-op"], found.get("first"), found.get("adopted")
        ratio = f"{noop['wall'] / ninja:.1f}" if ninja else "-"
        over = f"{(start['wall'] - found['copy']['wall']) / stages * 1000:.1f} ms" if start else "-"
        edits = [f"{shown(found[edit])}, ran {found[edit]['ran']}" for edit in ("leaf", "comment")]
        how = f"outputs taken up by `{adopted['by']}` in {seconds(adopted['wall'])} s" if adopted else shown(start)
        rows.append([name, shown(noop), ratio, *edits, over, how])
    table(["tool", "nothing to do", "x ninja", "one input edited", "comment edited", "over cp", "first run"], rows)


if __name__ == "__main__":
    sys.exit(main())
