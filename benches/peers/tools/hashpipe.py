"""hashpipe: `command` stages."""

import json
import re

from lab import Broken
from tools.base import Tool, files_below


class Hashpipe(Tool):
    name = "hashpipe"
    file = "pipeline.toml"
    scratch = ()

    def write(self, lab, steps, comment):
        made = {path: f"command.{step.name}/{port}" for step in steps for port, path in step.outputs.items()}
        lines = [f"# {comment}" if comment else ""]
        for step in steps:
            lines += [f"[command.{step.name}]", f"run = {json.dumps(list(step.run))}"]
            lines += [f"inputs = {table({name: made.get(path, path) for name, path in step.inputs.items()})}"]
            lines += [f"params = {table(step.params)}"] if step.params else []
            lines += [f"outputs = {table(step.outputs)}"]
            lines += [f"env = {json.dumps(list(step.env))}"] if step.env else []
            lines += ["resume = true"] if step.resume else []
            lines += ["resume = false"] if step.spelled else []
            lines += [""]
        (lab.project / self.file).write_text("\n".join(lines))

    def command(self, lab):
        return [self.program, "run", self.file]

    def plan(self, lab):
        run = lab.run("--dry-run", "--json")
        if run.process.returncode != 0:
            raise Broken(f"dry run: exit {run.process.returncode}: {run.last_line()}")
        facts = [json.loads(line) for line in re.findall(r"^\{.*\}$", run.output(), re.MULTILINE)]
        # `null`: it depends on what a stage before it will give.
        runs = {fact["task"].removeprefix("command."): fact["runs"] for fact in facts if "runs" in fact}
        return {task for task in runs if runs[task]}, {task for task in runs if runs[task] is None}

    def state(self, lab):
        return [path for path in files_below(lab.project / "cache") if "objects" not in path.parts]

    def store(self, lab):
        return lab.project / "cache"


def table(values):
    """Returns an inline table."""
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items()) + " }"
