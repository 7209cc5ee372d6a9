"""ninja: dates of files, and a log with the digest of each command."""

from tools.base import Tool, expanded, leaves
from tools.make import HISTORY, named_in


class Ninja(Tool):
    name = "ninja"
    keep_going = ("-k", "0")
    lacks = {
        "environment": "its files cannot read the environment",
        "history": HISTORY,
        "restored_from_cache": HISTORY,
        "corrupt_object": HISTORY,
        "unstable_stage": HISTORY,
    }
    setups = {"same_output": "`restat = 1`", "untouched_output": "`restat = 1`"}

    def write(self, lab, steps, comment):
        lines = [f"# {comment}" if comment else "", "builddir = ."]
        for step in steps:
            lines += [f"rule {step.name}", f"  command = {escaped(step.shell())}"]
            lines += ["  restat = 1"] if lab.setup in ("same_output", "untouched_output") else []
            lines += ["  generator ="] if step.spelled else []
            read = [name for path in expanded(lab, step) for name in names(lab, path)]
            lines += [f"build {' '.join(step.outputs.values())}: {step.name} {' '.join(read)}"]
            lines += [f"  {name} = {escaped(value)}" for name, value in step.params.items()]
        lines += [f"default {' '.join(leaves(steps))}"]
        (lab.project / "build.ninja").write_text("\n".join(lines) + "\n")

    def write_copies(self, lab, count, comment):
        builds = "".join(f"build out/{n}.txt: copy in/{n}.txt\n" for n in range(count))
        (lab.project / "build.ninja").write_text(f"# {comment}\nrule copy\n  command = cp $in $out\n{builds}")

    def command(self, lab):
        return [self.program, "-j2"]

    def plan(self, lab):
        return named_in(lab, "-n", "-v"), set()

    def state(self, lab):
        return [path for path in (lab.project / ".ninja_log", lab.project / ".ninja_deps") if path.exists()]


def names(lab, path):
    """Returns the files that a pattern stands for: ninja has none."""
    return [found.relative_to(lab.project).as_posix() for found in lab.project.glob(path)] if "*" in path else [path]


def escaped(text):
    """Returns a value as it stands in a ninja file."""
    return str(text).replace("$", "$$")
