"""hashpipe: `command` stages."""

import json
import re

from lab import Broken
from tools.base import Tool, files_below

# What a line of the dry run may say of a task that a run leaves alone, and of one it cannot tell about yet.
IDLE, OPEN = {"cached", "hit"}, {"blocked", "unknown"}


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
        states = {}
        for line in re.findall(r"^\{.*\}$", run.output(), re.MULTILINE):
            fact = json.loads(line)
            if "task" in fact and "state" in fact:
                states[fact["task"].removeprefix("command.")] = fact["state"]
        unsure = {task for task, state in states.items() if state in OPEN}
        return {task for task, state in states.items() if state not in IDLE | OPEN}, unsure

    def state(self, lab):
        return [path for path in files_below(lab.project / "cache") if "objects" not in path.parts]

    def store(self, lab):
        return lab.project / "cache"


def table(values):
    """Returns an inline table."""
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items()) + " }"
