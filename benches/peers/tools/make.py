"""GNU make: dates of files, and nothing kept between runs. `.DELETE_ON_ERROR`, as its manual advises."""

from lab import Broken
from tools.base import Tool, expanded, leaves

HISTORY = "keeps no results but the last"


class Make(Tool):
    name = "make"
    lacks = {
        "default_written_out": "a rule has no settings with defaults",
        "environment": "a rule cannot depend on a variable",
        "history": HISTORY,
        "restored_from_cache": HISTORY,
        "corrupt_object": HISTORY,
        "torn_state": "keeps no state",
        "unstable_stage": HISTORY,
    }
    setups = {
        "swapped_parameters": "every rule depends on the Makefile",
        "swapped_inputs": "every rule depends on the Makefile",
    }

    def write(self, lab, steps, comment):
        # Then any edit of it, of a comment too, runs everything.
        extra = ["Makefile"] if lab.setup in ("swapped_parameters", "swapped_inputs") else []
        lines = [f"# {comment}\n" if comment else "", ".DELETE_ON_ERROR:\n", f"all: {' '.join(leaves(steps))}\n"]
        for step in steps:
            # `a b &: c` is one command that makes both.
            colon = " &:" if len(step.outputs) > 1 else ":"
            made, needs = " ".join(step.outputs.values()), " ".join([*map(wildcard, expanded(lab, step)), *extra])
            lines += [f"{made}{colon} {needs}\n", f"\t{step.shell().replace('$', '$$')}\n"]
        (lab.project / "Makefile").write_text("".join(lines))

    def write_copies(self, lab, count, comment):
        rules = "made := $(patsubst in/%,out/%,$(wildcard in/*.txt))\nall: $(made)\n$(made): out/%: in/%\n\tcp $< $@\n"
        (lab.project / "Makefile").write_text(f"# {comment}\n.DELETE_ON_ERROR:\n{rules}")

    def command(self, lab):
        # Without the built-in rules: they are tried for every file.
        return [self.program, "-rR", "-j2"]

    def plan(self, lab):
        return named_in(lab, "-n"), set()


def wildcard(path):
    """Returns a prerequisite; a pattern is expanded by make."""
    return f"$(wildcard {path})" if "*" in path else path


def named_in(lab, *words):
    """Returns the stages whose scripts are named in what the tool prints."""
    run = lab.run(*words)
    if run.process.returncode != 0:
        raise Broken(f"dry run: exit {run.process.returncode}: {run.last_line()}")
    text = run.output()
    return {path.stem for path in (lab.project / "steps").iterdir() if f"steps/{path.name} " in text}
