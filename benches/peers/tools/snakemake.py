"""Snakemake: dates, digests of small files, and a record per output of rule, inputs and parameters."""

import json
import re

from lab import Broken
from tools.base import Tool, files_below, leaves

CACHE = "`cache: True` and `--cache`"
SHADOW = '`shadow: "minimal"`'


class Snakemake(Tool):
    name = "Snakemake"
    first_run_at_most = 1000
    scratch = (".snakemake/log", ".snakemake/locks", ".snakemake/tmp", ".snakemake/iocache")
    lacks = {"unstable_stage": "compares no results of the same rule"}
    setups = {
        "older_replacement": "`--max-checksum-file-size` above the file's size",
        "swapped_parameters": "one parameter that is a dictionary of them all",
        "swapped_inputs": "names of files written out in the command",
        "history": CACHE,
        "restored_from_cache": CACHE,
        "corrupt_object": CACHE,
        "killed_runner_partial": SHADOW,
        "killed_runner_next": f"{SHADOW}, `--nolock`",
        "killed_runner_late": f"{SHADOW}, `--nolock`",
        "two_runs": "`--nolock`",
        "interrupted": SHADOW,
    }

    def write(self, lab, steps, comment):
        lines = [f"# {comment}" if comment else "", 'configfile: "config.json"', "from glob import glob"]
        lines += ["from os import environ"]
        lines += ["rule all:", f"    input: {json.dumps(leaves(steps))}"]
        for step in steps:
            lines += [
                f"rule {step.name}:",
                f"    input: {named(lab, step.inputs)}",
                f"    output: {named(lab, step.outputs)}",
            ]
            together = lab.setup == "swapped_parameters"
            values = f"config[{json.dumps(step.name)}]"
            params = [f"{name}={values}[{json.dumps(name)}]" for name in step.params]
            params = [f"all={values}"] if together else params
            params += [f"{name}=environ.get({json.dumps(name)}, '')" for name in step.env]
            lines += [f"    params: {', '.join(params)}"] if params else []
            lines += ["    cache: True"] if CACHE in self.setup(lab) else []
            lines += ['    shadow: "minimal"'] if SHADOW in self.setup(lab) else []
            lines += ["    threads: 1"] if step.spelled else []
            plain = lab.setup == "swapped_inputs"
            lines += [f"    shell: {json.dumps(step.shell() if plain else template(lab, step, together))}"]
        (lab.project / "Snakefile").write_text("\n".join(lines) + "\n")
        (lab.project / "config.json").write_text(json.dumps({step.name: step.params for step in steps}))

    def write_copies(self, lab, count, comment):
        lines = [f"# {comment}", "rule all:", f'    input: expand("out/{{n}}.txt", n=range({count}))']
        lines += [
            "rule copy:",
            '    input: "in/{n}.txt"',
            '    output: "out/{n}.txt"',
            '    shell: "cp {input} {output}"',
        ]
        (lab.project / "Snakefile").write_text("\n".join(lines) + "\n")

    def setup(self, lab):
        """Returns what the tool is set up with beyond the usual."""
        return self.setups.get(lab.setup, "")

    def command(self, lab):
        words = [self.program, "-c2", "--nocolor", "--rerun-incomplete", "--latency-wait", "0"]
        words += ["--cache"] if CACHE in self.setup(lab) else []
        words += ["--nolock"] if "--nolock" in self.setup(lab) else []
        words += ["--max-checksum-file-size", "1GB"] if lab.setup == "older_replacement" else []
        return words

    def environment(self, lab):
        (lab.home / "shared").mkdir(exist_ok=True)
        return {"SNAKEMAKE_OUTPUT_CACHE": str(lab.home / "shared")}

    def adopt(self):
        return [self.program, "-c2", "--touch"]

    def plan(self, lab):
        run = lab.run("-n")
        if run.process.returncode != 0:
            raise Broken(f"dry run: {run.last_line()}")
        return set(re.findall(r"^(?:local)?rule (\w+):", run.output(), re.MULTILINE)) - {"all"}, set()

    def state(self, lab):
        return files_below(lab.project / ".snakemake" / "metadata", lab.project / ".snakemake" / "incomplete")

    def store(self, lab):
        return lab.home / "shared"


def named(lab, paths):
    """Returns files as named arguments of a directive, folders as the files two levels below."""
    values = {name: json.dumps(path) for name, path in paths.items()}
    values |= {name: f'glob("{path}/*/*")' for name, path in paths.items() if (lab.project / path).is_dir()}
    return ", ".join(f"{name}={value}" for name, value in values.items())


def template(lab, step, together):
    """Returns the command with Snakemake's own placeholders; `together`: parameters are one dictionary."""
    turned = {f"{{in.{name}}}": f"{{input.{name}:q}}" for name in step.inputs}
    # All names of a folder's files would be too long for a command.
    turned |= {f"{{in.{name}}}": path for name, path in step.inputs.items() if (lab.project / path).is_dir()}
    turned |= {f"{{out.{name}}}": f"{{output.{name}:q}}" for name in step.outputs}
    turned |= {
        f"{{param.{name}}}": f"{{params.all[{name}]}}" if together else f"{{params.{name}:q}}" for name in step.params
    }
    return " ".join(turned.get(word, word) for word in step.run)
