"""The program under test: where it is, runs of it, and figures of several rounds. For the scripts beside this file."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments(parser):
    """Adds what every script here takes."""
    parser.add_argument("--hashpipe", type=Path, default=ROOT / "target/release/hashpipe", help="the program [%(default)s]")
    parser.add_argument("--device", default="cuda", metavar="cuda|cuda:N|cpu", help="`cpu` only to see that it works [%(default)s]")
    parser.add_argument("--json", action="store_true", help="one JSON object per figure on standard output, and no table")


def gpus(device):
    """Returns what `run --gpus` is given for a device: a count, or one number."""
    if device == "cpu":
        return "0"
    return f"{device.partition(':')[2] or '0'},"


def run(program, *words, folder=None, environment=None):
    """Runs hashpipe to its end and returns its lines of JSON; ends this script if it fails."""
    command = [str(program), *map(str, words)]
    try:
        ended = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        sys.exit(f"{command[0]}: {error}\nbuild it first: scripts/cuda-toolkit.sh, or cargo build --release")
    if ended.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with exit code {ended.returncode}\n{ended.stdout}")
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def middle(values):
    """Returns median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def say(text):
    """Tells how far the script is."""
    print(text, file=sys.stderr, flush=True)


def table(heads, rows):
    """Prints rows as Markdown."""
    for row in [heads, ["---"] * len(heads), *rows]:
        print(f"| {' | '.join(map(str, row))} |")
