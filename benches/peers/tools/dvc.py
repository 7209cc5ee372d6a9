"""DVC: digests of files, a lock file with those of the last run, and a cache of outputs and runs."""

import json
import re
import shutil
import subprocess

from lab import Broken
from tools.base import Tool, files_below

ENVIRONMENT = "a stage cannot depend on a variable of the environment"


class Dvc(Tool):
    name = "DVC"
    stages_at_most, first_run_at_most = 1000, 100
    scratch = (".dvc/tmp",)
    lacks = {
        "environment": ENVIRONMENT,
        "unstable_stage": "keeps the newest result of a key",
    }

    setups = {"dry_run": "`--allow-missing`", "two_runs": "`--wait-for-lock`"}

    def prepare(self, lab):
        template = lab.home.parent / "dvc-template"
        if not (template / ".dvc").exists():
            template.mkdir(exist_ok=True)
            self.configure(template, lab.environment())
        shutil.copytree(template, lab.project, dirs_exist_ok=True)
        # Otherwise in a folder of the machine that all projects share.
        with (lab.project / ".dvc" / "config").open("a") as config:
            config.write(f"    site_cache_dir = {lab.home / 'site'}\n")

    def configure(self, folder, env):
        """Makes a project without git that sends nothing home."""
        for words in (
            ["init", "--no-scm", "-q"],
            ["config", "core.analytics", "false"],
            ["config", "core.check_update", "false"],
        ):
            subprocess.run([self.program, *words], cwd=folder, env=env, check=True, capture_output=True)

    def write(self, lab, steps, comment):
        lines = [f"# {comment}" if comment else "", "stages:"]
        for step in steps:
            params = {name: f"${{{step.name}.{name}}}" for name in step.params}
            lines += [f"  {step.name}:", f"    cmd: {json.dumps(plain(step, params))}"]
            lines += ["    deps:", *(f"    - {json.dumps(path)}" for path in step.inputs.values())]
            lines += ["    params:", *(f"    - {step.name}.{name}" for name in params)] if params else []
            lines += ["    frozen: false"] if step.spelled else []
            lines += ["    outs:", *(f"    - {json.dumps(path)}" for path in step.outputs.values())]
        (lab.project / "dvc.yaml").write_text("\n".join(lines) + "\n")
        (lab.project / "params.yaml").write_text(json.dumps({step.name: step.params for step in steps}) + "\n")

    def command(self, lab):
        return [self.program, *(["--wait-for-lock"] if lab.setup == "two_runs" else []), "repro"]

    def adopt(self):
        return [self.program, "commit", "--force"]

    def plan(self, lab):
        run = lab.run("--dry", *(["--allow-missing"] if lab.setup == "dry_run" else []))
        if run.process.returncode != 0:
            raise Broken(f"dry run: {run.last_line()}")
        return set(re.findall(r"Running stage '(\w+)'", run.output())), set()

    def state(self, lab):
        kept = [path for path in files_below(lab.project / ".dvc" / "tmp", lab.home / "site") if path.stat().st_size]
        return [lab.project / "dvc.lock", *kept, *files_below(lab.project / ".dvc" / "cache" / "runs")]

    def store(self, lab):
        return lab.project / ".dvc" / "cache"


def plain(step, params):
    """Returns the command; parameters stay placeholders of DVC, which must not be quoted."""
    return " ".join(step.words(params))
