"""doit: digests of files, and a data base of those each task last had. Parameters and variables of the environment
are what `config_changed` compares; `doit list --all --status` is the dry run."""

import re

from lab import Broken
from tools.base import Tool, expanded
from tools.make import HISTORY

FILE = """{comment}from glob import glob
from os import environ

from doit.tools import config_changed

DOIT_CONFIG = {{"backend": "{backend}", "verbosity": 0}}


def task_stage():
"""

TASK = """
    yield {{
        "name": "{name}",
        "actions": [{command!r}],
        "file_dep": [{inputs}],
        "targets": {outputs!r},{settings}
    }}
"""


class Doit(Tool):
    name = "doit"
    keep_going = ("--continue",)
    lacks = {
        "history": HISTORY,
        "restored_from_cache": HISTORY,
        "corrupt_object": HISTORY,
        "unstable_stage": HISTORY,
    }
    setups = {
        "swapped_inputs": "the command is part of what `config_changed` compares",
        "torn_state": "`backend = json`; `dbm` does no better",
    }

    def write(self, lab, steps, comment):
        # The default is dbm, which needs a library in C that not every Python has.
        backend = "json" if lab.setup == "torn_state" else "sqlite3"
        text = FILE.format(comment=f"# {comment}\n" if comment else "", backend=backend)
        for step in steps:
            compared = step.params | ({"run": step.shell()} if lab.setup == "swapped_inputs" else {})
            pairs = [f"{name!r}: {value!r}" for name, value in compared.items()]
            pairs += [f"{name!r}: environ.get({name!r}, '')" for name in step.env]
            files = [f"*glob({path!r})" if "*" in path else repr(path) for path in expanded(lab, step)]
            settings = ['"setup": []'] if step.spelled else []
            settings += [f'"uptodate": [config_changed({{{", ".join(pairs)}}})]'] if pairs else []
            text += TASK.format(
                name=step.name,
                command=step.shell().replace("%", "%%"),
                inputs=", ".join(files),
                outputs=list(step.outputs.values()),
                settings="".join(f"\n        {setting}," for setting in settings),
            )
        (lab.project / "dodo.py").write_text(text)

    def command(self, lab):
        return [self.program, "run", *(["-n", "2"] if lab.setup != "serial" else [])]

    def environment(self, lab):
        # Python tells a file of byte code by date in seconds and size: edits of a scenario are closer together.
        return {} if lab.setup == "serial" else {"PYTHONDONTWRITEBYTECODE": "1"}

    def plan(self, lab):
        run = lab.run(command=[self.program, "list", "--all", "--status"])
        if run.process.returncode != 0:
            raise Broken(f"list: {run.last_line()}")
        return set(re.findall(r"^R stage:(\w+)", run.output(), re.MULTILINE)), set()

    def state(self, lab):
        return sorted(lab.project.glob(".doit*"))
