"""A project folder for one scenario on one tool: its files, its stages, the processes, and a record of what ran.

Knows no tool and no scenario. Stages are shell scripts that write a line into a ledger outside the project, so what
ran is counted the same way for every tool. A script can be stopped at its gate, a pair of pipes, until the scenario
lets it go on: no scenario waits for time to pass, except where the proof is that nothing happens.
"""

import dataclasses
import hashlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

# How long anything may take on a busy machine, in seconds: a run, a process on its way to its gate, one that dies.
RUN, GATE, DEATH = 180, 90, 5


class Broken(Exception):
    """The tool did not keep the promise; the text says what was seen."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage, as every adapter gets it. `{in.NAME}`, `{out.NAME}`, `{param.NAME}` in `run` stand for values."""

    name: str
    run: tuple
    inputs: dict
    outputs: dict
    params: dict = dataclasses.field(default_factory=dict)
    env: tuple = ()
    resume: bool = False
    # Whether a setting of the tool is written out with the value it has anyway.
    spelled: bool = False

    def words(self, params=None):
        """Returns the command with every placeholder filled in; `params` overrides what parameters look like."""
        values = {f"{{in.{name}}}": path for name, path in self.inputs.items()}
        values |= {f"{{out.{name}}}": path for name, path in self.outputs.items()}
        values |= {f"{{param.{name}}}": str(value) for name, value in (params or self.params).items()}
        return [values.get(word, word) for word in self.run]

    def shell(self, params=None):
        """Returns `words` as a line for a shell."""
        return shlex.join(self.words(params))


class Run:
    """A started run of a tool."""

    def __init__(self, process, log):
        self.process, self.log, self.pid = process, log, process.pid

    def wait(self, seconds=RUN):
        """Waits for the end; returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Broken(f"the run did not end within {seconds} s") from None

    def ended(self):
        """Whether the run is over."""
        return self.process.poll() is not None

    def output(self):
        """Returns what the run has printed, both streams."""
        return self.log.read_text(errors="replace")

    def last_line(self):
        """Returns the last line that is not empty, for a message."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return lines[-1][:160] if lines else "no output"


class Lab:
    """See the module. `setup` is the scenario that the tool is set up for, or None if it is as it always is."""

    def __init__(self, tool, setup, home):
        self.tool, self.setup, self.home = tool, setup, Path(home)
        self.project = self.home / "project"
        self.ledger, self.held = self.home / "ledger", self.home / "held"
        self.bin = self.home / "bin"
        self.runs, self.seen = [], 0
        for folder in (self.project / "steps", self.home / "user", self.bin):
            folder.mkdir(parents=True)
        self.ledger.touch()
        # Opened for both directions, a pipe blocks neither side when it is opened, and ends when this process does.
        for name in ("reached", "go"):
            os.mkfifo(self.home / name)
        self.reached_pipe = os.open(self.home / "reached", os.O_RDWR | os.O_NONBLOCK)
        self.go_pipe = os.open(self.home / "go", os.O_RDWR | os.O_NONBLOCK)
        self.arrived = b""
        tool.prepare(self)

    # Files

    def put(self, path, text):
        """Writes a file of the project. Its date is later than those of all files written before the call."""
        path = self.project / path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.next_tick()
        path.write_text(text)

    def next_tick(self):
        """Returns once the file system's clock has moved on, so that dates tell before from after."""
        probe = self.home / "tick"
        probe.touch()
        before = probe.stat().st_mtime_ns
        while probe.stat().st_mtime_ns == before:
            probe.touch()

    def read(self, path):
        """Returns a file's text, or None if there is no such file."""
        try:
            return (self.project / path).read_text(errors="replace")
        except FileNotFoundError:
            return None

    def remove(self, path):
        """Deletes a file of the project."""
        (self.project / path).unlink()

    def expect(self, path, text):
        """Breaks unless the file holds this text."""
        found = self.read(path)
        if found != text:
            raise Broken(f"`{path}` holds {found!r} instead of {text!r}" if found is not None else f"no `{path}`")

    def snapshot(self):
        """Returns size, date and digest of every file of the project, but for what the tool calls its scratch."""
        seen = {}
        for path in sorted(self.project.rglob("*")):
            name = path.relative_to(self.project).as_posix()
            if path.is_file() and not any(name.startswith(scratch) for scratch in self.tool.scratch):
                seen[name] = (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        return seen

    # Stages

    def step(self, name, body, inputs=None, outputs=None, params=(), **more):
        """Returns a stage that runs `sh SCRIPT INPUTS OUTPUTS PARAMS`; `body` is the script's text after its head."""
        inputs = {"source": "in.txt"} if inputs is None else inputs
        outputs = {"result": "out.txt"} if outputs is None else outputs
        params = dict(params)
        self.script(name, body)
        words = ["sh", "{in.script}", *(f"{{in.{key}}}" for key in inputs)]
        words += [*(f"{{out.{key}}}" for key in outputs), *(f"{{param.{key}}}" for key in params)]
        return Step(name, tuple(words), {"script": f"steps/{name}.sh", **inputs}, outputs, params, **more)

    def script(self, name, body):
        """Writes a stage's script, if it is another one. `gate` in its body stops it there while `hold` is in force."""
        home = shlex.quote(str(self.home))
        head = f'set -e\nledger() {{ echo "$1" >> {home}/ledger; }}\n'
        head += f"gate() {{ if [ -e {home}/held ]; then echo $$ > {home}/reached; read -r _ < {home}/go; fi; }}\n"
        text = f"{head}ledger {name}\n{body}\n"
        if self.read(f"steps/{name}.sh") != text:
            self.put(f"steps/{name}.sh", text)

    def pipeline(self, *steps, comment=""):
        """Writes the tool's pipeline file, and what else describes the stages."""
        self.next_tick()
        self.tool.write(self, steps, comment)

    # Runs

    def start(self, *words, env=None, command=None):
        """Starts the tool, in a session of its own, with these words behind `command` or its usual one."""
        log = self.home / f"run-{len(self.runs)}.log"
        command = [*(command or self.tool.command(self)), *words]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self.project,
                env=self.environment() | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.runs.append(Run(process, log))
        return self.runs[-1]

    def run(self, *words, env=None, command=None):
        """Runs the tool to its end."""
        run = self.start(*words, env=env, command=command)
        run.wait()
        return run

    def good(self, *words, env=None, ran=None):
        """Runs the tool; breaks unless it says that all went well and `ran` ran. Returns the stages that did."""
        run = self.run(*words, env=env)
        if run.process.returncode != 0:
            raise Broken(f"exit {run.process.returncode}: {run.last_line()}")
        found = self.ran()
        if ran is not None:
            same(found, sorted(ran), "ran")
        return found

    def ran(self):
        """Returns the ledger's new lines since the last call: the stages that started."""
        lines = self.ledger.read_text().split()
        new, self.seen = lines[self.seen :], len(lines)
        return sorted(new)

    def plan(self):
        """Returns what the tool's dry run says: stages that will run, and stages that may."""
        return self.tool.plan(self)

    def environment(self):
        """Returns the environment of every run: nothing of the caller's but the places of system programs."""
        path = f"{self.bin}:/usr/local/bin:/usr/bin:/bin"
        fixed = {"PATH": path, "HOME": str(self.home / "user"), "LANG": "C.UTF-8"}
        return fixed | self.tool.environment(self)

    # Gates

    def hold(self):
        """From now on, scripts stop at their gates."""
        self.held.touch()

    def reached(self, run, seconds=GATE):
        """Waits until a script stands at its gate; returns its process id. Returns None if the run ended before."""
        until = time.monotonic() + seconds
        while b"\n" not in self.arrived:
            if select.select([self.reached_pipe], [], [], 0.05)[0]:
                self.arrived += os.read(self.reached_pipe, 4096)
            elif run.ended() or time.monotonic() > until:
                return None
        pid, _, self.arrived = self.arrived.partition(b"\n")
        return int(pid)

    def at_gate(self, run):
        """Waits until the run's script stands at its gate; returns its process id."""
        pid = self.reached(run)
        if pid is None:
            raise RuntimeError(f"no stage came to its gate: {run.last_line()}")
        return pid

    def release(self, count=1):
        """Lets `count` scripts go on, and holds no others."""
        self.held.unlink(missing_ok=True)
        os.write(self.go_pipe, b"\n" * count)

    def unhold(self):
        """Holds no further script; those that stand at a gate stay there."""
        self.held.unlink(missing_ok=True)

    def dies(self, pid, seconds=DEATH):
        """Whether a process is gone within the time."""
        until = time.monotonic() + seconds
        while alive(pid):
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def close(self, keep):
        """Ends what the scenario has started and left, and removes the folder unless `keep`."""
        sessions = {run.pid for run in self.runs}
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            if alive(pid) and (session(pid) in sessions or self.owns(pid)):
                os.kill(pid, signal.SIGKILL)
        for run in self.runs:
            run.process.wait()
        os.close(self.reached_pipe)
        os.close(self.go_pipe)
        if not keep:
            shutil.rmtree(self.home, ignore_errors=True)

    def owns(self, pid):
        """Whether a process works in this folder: a stage may have a session of its own."""
        try:
            return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(self.home)
        except OSError:
            return False


def same(found, wanted, what):
    """Breaks unless the two are equal."""
    if found != wanted:
        raise Broken(f"{what}: {found or 'nothing'} instead of {wanted or 'nothing'}")


def alive(pid):
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def session(pid):
    """Returns the session a process belongs to, or None."""
    try:
        return os.getsid(pid)
    except OSError:
        return None
