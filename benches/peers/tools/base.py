"""What an adapter has to say about its tool."""

import re
import subprocess
from pathlib import Path

from lab import Step


class Tool:
    """One tool. `lacks` says why it has no such thing as a scenario asks for.

    `setups` says how it is set up for a scenario that it fails as it always is.
    """

    name = ""
    lacks = {}
    setups = {}
    # Prefixes of paths in the project that a dry run may write without saying anything about the results.
    scratch = ()
    # What the run's command takes to go on after a failure.
    keep_going = ("-k",)
    # Beyond these numbers of stages, `noop.py` leaves the tool out, or its first run.
    stages_at_most = first_run_at_most = 10**9

    def __init__(self, program):
        self.program = str(program)

    def version(self):
        """Returns the version the program tells."""
        out = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True).stdout
        return re.search(r"\d+(\.\d+)+", out).group()

    def prepare(self, lab):
        """Makes a fresh folder a project of this tool."""

    def write(self, lab, steps, comment):
        """Writes the pipeline file; a `comment` goes into it as one."""
        raise NotImplementedError

    def write_copies(self, lab, count, comment):
        """Writes a pipeline of stages that copy `in/N.txt` to `out/N.txt`, in the tool's own way to say it of many."""
        self.write(lab, [copy(n) for n in range(count)], comment)

    def command(self, lab):
        """Returns the words that bring everything up to date."""
        raise NotImplementedError

    def environment(self, lab):
        """Returns what the tool needs in its environment."""
        return {}

    def plan(self, lab):
        """Asks what a run would do; returns the stages that will run, and those that may."""
        raise NotImplementedError

    def adopt(self):
        """Returns the words that make the tool take up outputs that are there, instead of a first run."""
        raise NotImplementedError

    def state(self, lab):
        """Returns the files in which the tool remembers what is done."""
        return []

    def store(self, lab):
        """Returns the folder in which the tool keeps results apart from where the user sees them."""
        return None


def copy(n):
    """Returns one of many stages that copy a file."""
    words = ("cp", "{in.source}", "{out.result}")
    return Step(f"s{n}", words, {"source": f"in/{n}.txt"}, {"result": f"out/{n}.txt"})


def files_below(*folders):
    """Returns every file below the folders, sorted."""
    return sorted(path for folder in map(Path, folders) for path in folder.rglob("*") if path.is_file())


def expanded(lab, step):
    """Returns the inputs of a step, where those that are folders are patterns for all files two levels below."""
    return [f"{path}/*/*" if (lab.project / path).is_dir() else path for path in step.inputs.values()]


def leaves(steps):
    """Returns the outputs that no other step reads."""
    read = {path for step in steps for path in step.inputs.values()}
    return [path for step in steps for path in step.outputs.values() if path not in read]
