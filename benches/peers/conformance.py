#!/usr/bin/env python3
"""Runs the conformance scenarios on each tool and prints one table.

    python3 benches/peers/conformance.py [--tools make,hashpipe] [--rows two_runs,history] [--notes] [--json]

    pass    the promise is kept
    pass*   kept if the tool is set up for it by means of its own; `--notes` says how
    FAIL    not kept, however it is set up
    -       the tool has no such thing
    error   the scenario could not be carried out

Real programs and real processes, each scenario in a fresh folder. Exits with 1 if any scenario met an error, or
hashpipe did not pass.
"""

import argparse
import json
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import install
from lab import Broken, Lab
from scenarios import SCENARIOS, title


def main():
    """Parses, runs, prints."""
    options = parse()
    # A parent may have told its children to ignore Ctrl-C; the tools must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tools = install.tools(options)
    rows = chosen(options.rows)
    home = Path(tempfile.mkdtemp(prefix="hashpipe-conformance-", dir=options.work))
    try:
        results = {row.__name__: {tool.name: attempt(tool, row, home, options.keep) for tool in tools} for row in rows}
    finally:
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
    if options.json:
        print(json.dumps(document(tools, rows, results), indent=1))
    else:
        show(tools, rows, results, options.notes)
    cells = [(name, cell["result"]) for cells in results.values() for name, cell in cells.items()]
    return any(result == "error" or (name == "hashpipe" and result == "FAIL") for name, result in cells)


def parse():
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    install.arguments(parser)
    parser.add_argument("--rows", metavar="A,B", help="only these rows, by the names that --json prints")
    parser.add_argument("--notes", action="store_true", help="print what was seen and how each tool was set up")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the scenarios")
    parser.add_argument("--work", type=Path, help="where the folders are made [the system's temporary folder]")
    return parser.parse_args()


def chosen(names):
    """Returns the rows of these names, or all."""
    known = {row.__name__: row for row in SCENARIOS}
    unknown = set(names.split(",")) - set(known) if names else ()
    if unknown:
        sys.exit(f"conformance.py: no such rows: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return [known[name] for name in names.split(",")] if names else SCENARIOS


def attempt(tool, row, home, keep):
    """Carries one scenario out on one tool, and once more, set up for it, if it fails; returns its cell."""
    name = row.__name__
    if name in tool.lacks:
        return {"result": "-", "seen": tool.lacks[name]}
    started = time.monotonic()
    result, seen = once(tool, row, None, home / f"{name}-{tool.name}", keep)
    cell = {"result": result, "seen": seen}
    if result == "FAIL" and name in tool.setups:
        result, also = once(tool, row, name, home / f"{name}-{tool.name}-set-up", keep)
        cell |= {"result": "pass*" if result == "pass" else result, "setup": tool.setups[name], "seen_then": also}
    cell["seconds"] = round(time.monotonic() - started, 2)
    told = "; ".join(cell[key] for key in ("seen", "setup", "seen_then") if cell.get(key))
    print(f"{cell['result']:5} {tool.name:10} {name}{f': {told}' if told else ''}", file=sys.stderr)
    return cell


def once(tool, row, setup, home, keep):
    """Carries one scenario out in a fresh folder; returns the result and what was seen."""
    lab = Lab(tool, setup, home)
    try:
        row(lab)
        return "pass", None
    except Broken as broken:
        return "FAIL", str(broken)
    except Exception as fault:  # The other rows are worth having whatever went wrong in this one.
        return "error", f"{type(fault).__name__}: {fault}"
    finally:
        lab.close(keep)


def document(tools, rows, results):
    """Returns everything as one JSON object."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "system": platform.platform(),
        "versions": {tool.name: tool.version() for tool in tools},
        "rows": [{"row": row.__name__, "title": title(row), "cells": results[row.__name__]} for row in rows],
    }


def show(tools, rows, results, notes):
    """Prints the table as Markdown, and what is behind its cells."""
    wide = max(len(title(row)) for row in rows)
    heads = [f"{tool.name} {tool.version()}" for tool in tools]
    print(f"| {'':{wide}} | {' | '.join(heads)} |")
    print(f"|{'-' * (wide + 2)}|{'|'.join('-' * (len(head) + 2) for head in heads)}|")
    for row in rows:
        cells = (
            f"{results[row.__name__][tool.name]['result']:{len(head)}}" for tool, head in zip(tools, heads, strict=True)
        )
        print(f"| {title(row):{wide}} | {' | '.join(cells)} |")
    kept = (sum(cells[tool.name]["result"].startswith("pass") for cells in results.values()) for tool in tools)
    totals = (f"{f'{count} of {len(rows)}':{len(head)}}" for count, head in zip(kept, heads, strict=True))
    print(f"| {'kept':{wide}} | {' | '.join(totals)} |")
    for row in rows if notes else ():
        for name, cell in results[row.__name__].items():
            told = [cell.get("seen"), cell.get("setup") and f"with {cell['setup']}", cell.get("seen_then")]
            if any(told):
                print(f"- {title(row)}, {name}: {'; '.join(text for text in told if text)}")


if __name__ == "__main__":
    sys.exit(main())
