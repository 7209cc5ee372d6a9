"""Times runs of tools: wall and CPU seconds of a command and all it starts, medians, and tables of them."""

import dataclasses
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import Lab


@dataclasses.dataclass(frozen=True)
class Time:
    """What one run took, in seconds."""

    wall: float
    cpu: float


def timed(lab, command):
    """Runs a command in the project to its end; an exit code other than 0 is an error."""
    log = lab.home / "timed.log"
    with log.open("wb") as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=lab.project,
            env=lab.environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        # Counts what the process and all those it waited for used.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {process.returncode}: {log.read_text()[-2000:]}")
    return Time(wall, usage.ru_utime + usage.ru_stime)


def rounds(labs, repeats, what):
    """Times `what(lab)` `repeats` times for each tool in turn, so that a busy minute hits all alike."""
    times = {lab: [] for lab in labs}
    for number in range(repeats):
        for lab in labs:
            times[lab].append(what(lab, number))
    return times


def summary(times):
    """Returns median, least and most wall seconds and the median of CPU seconds."""
    walls = [time.wall for time in times]
    return {
        "wall": statistics.median(walls),
        "least": min(walls),
        "most": max(walls),
        "cpu": statistics.median(time.cpu for time in times),
        "runs": len(times),
    }


def shown(figures):
    """Returns a summary as text: `0.012 (0.011-0.014), CPU 0.010`."""
    if figures is None:
        return "-"
    wall, least, most, cpu = (seconds(figures[key]) for key in ("wall", "least", "most", "cpu"))
    return f"{wall} ({least}-{most}), CPU {cpu}" if figures["runs"] > 1 else f"{wall}, CPU {cpu}"


def seconds(value):
    """Returns seconds with as many digits as they deserve."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


class Bench:
    """The folders of a benchmark, one project per tool, removed at the end."""

    def __init__(self, tools, keep=False):
        self.home, self.keep = Path(tempfile.mkdtemp(prefix="hashpipe-bench-")), keep
        self.labs = [Lab(tool, "serial", self.home / tool.name) for tool in tools]

    def __enter__(self):
        return self.labs

    def __exit__(self, *_):
        for lab in self.labs:
            lab.close(keep=True)
        if not self.keep:
            shutil.rmtree(self.home, ignore_errors=True)


def machine(tools):
    """Returns date, system, processors and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {tool.name: tool.version() for tool in tools},
    }


def table(heads, rows):
    """Prints a Markdown table."""
    wide = [max(len(str(row[at])) for row in [heads, *rows]) for at in range(len(heads))]
    for row in [heads, ["-" * width for width in wide], *rows]:
        print("| " + " | ".join(f"{cell!s:{width}}" for cell, width in zip(row, wide, strict=True)) + " |")


def say(text):
    """Tells how far it is."""
    print(text, file=sys.stderr, flush=True)
