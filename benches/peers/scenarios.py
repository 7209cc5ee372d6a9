"""What a runner should keep to, one function a row: its first doc line is the row's title.

The command of a stage is the same for all tools; only what a tool itself offers is used to keep the promise. A
scenario returns if the promise was kept and raises `Broken` if not; anything else it raises is a fault of the
scenario, not of the tool.
"""

import os
import signal

from lab import Broken, same

SCENARIOS = []

COPY = 'cp "$1" "$2"'
# Reads first and writes last, as most programs do.
READ_GATE_WRITE = 'text=$(cat "$1")\ngate\nprintf "%s\\n" "$text" > "$2"'
HALF_GATE_REST = 'printf "half " > "$2"\ngate\ncat "$1" >> "$2"'
# Three steps of work, each kept when it is done; what was kept is taken up again.
EPOCHS = """
kept=${HASHPIPE_RESUME_DIR:-progress}
mkdir -p "$kept"
touch "$kept/done"
while [ "$(wc -l < "$kept/done")" -lt 3 ]; do
    ledger epoch
    cat "$1" >> "$kept/done"
    if [ "$(wc -l < "$kept/done")" -eq 2 ]; then gate; fi
done
cp "$kept/done" "$2"
"""


def scenario(function):
    """Adds a row."""
    SCENARIOS.append(function)
    return function


def title(function):
    """Returns a row's title."""
    return function.__doc__.split("\n")[0].rstrip(".")


def copied(lab, text="first\n", **more):
    """Sets up one stage that copies `in.txt` to `out.txt`, and runs it."""
    lab.put("in.txt", text)
    lab.pipeline(lab.step("copy", COPY, **more))
    prepared(lab, ["copy"])
    lab.expect("out.txt", text)


def prepared(lab, wanted, env=None):
    """Runs the tool in a state in which every tool must run these stages."""
    try:
        lab.good(env=env, ran=wanted)
    except Broken as broken:
        raise RuntimeError(f"the first run: {broken}") from None


# What is noticed


@scenario
def edited_while_running(lab):
    """an input edited while its stage runs: the next run makes the result again"""
    lab.put("in.txt", "old\n")
    lab.pipeline(lab.step("slow", READ_GATE_WRITE))
    lab.hold()
    run = lab.start()
    lab.at_gate(run)
    lab.put("in.txt", "new\n")
    lab.release()
    run.wait()
    lab.good()
    lab.expect("out.txt", "new\n")


@scenario
def same_date_edit(lab):
    """an input edited in place, same size, same date"""
    copied(lab)
    path = lab.project / "in.txt"
    before = path.stat()
    with path.open("r+") as file:
        file.write("other\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    lab.good()
    lab.expect("out.txt", "other\n")


@scenario
def older_replacement(lab):
    """an input of 2 MB replaced by an older file"""
    copied(lab, "first\n" * 333_333)
    aside = lab.project / "aside.txt"
    aside.write_text("older\n" * 333_333)
    date = (lab.project / "in.txt").stat().st_mtime_ns - 3600 * 10**9
    os.utime(aside, ns=(date, date))
    aside.rename(lab.project / "in.txt")
    lab.good()
    if lab.read("out.txt")[:6] != "older\n":
        raise Broken("the result is that of the file before")


@scenario
def script_edited(lab):
    """the script of a stage edited"""
    copied(lab)
    lab.script("copy", 'tr a-z A-Z < "$1" > "$2"')
    lab.good()
    lab.expect("out.txt", "FIRST\n")


@scenario
def program_replaced(lab):
    """the program on the PATH replaced, though no file of it is declared"""
    place = lab.bin / "program"

    # Its first word is the script, which is not used.
    def install(body):
        place.with_suffix(".new").write_text(f"#!/bin/sh\n{body}\n")
        place.with_suffix(".new").chmod(0o755)
        place.with_suffix(".new").rename(place)

    install('cp "$2" "$3"')
    lab.put("in.txt", "first\n")
    step = lab.step("copy", COPY)
    lab.pipeline(type(step)(step.name, ("program", *step.run[1:]), step.inputs, step.outputs))
    prepared(lab, [])
    lab.expect("out.txt", "first\n")
    lab.next_tick()
    install('tr a-z A-Z < "$2" > "$3"')
    lab.good()
    lab.expect("out.txt", "FIRST\n")


@scenario
def swapped_parameters(lab):
    """the values of two parameters swapped"""
    lab.put("in.txt", "x\n")
    body = 'echo "bits $3 batch $4" > "$2"'
    lab.pipeline(lab.step("train", body, params={"bits": 32, "batch": 64}))
    prepared(lab, ["train"])
    lab.pipeline(lab.step("train", body, params={"bits": 64, "batch": 32}))
    lab.good()
    lab.expect("out.txt", "bits 64 batch 32\n")


@scenario
def swapped_inputs(lab):
    """two named inputs swapped"""
    lab.put("one.txt", "one\n")
    lab.put("two.txt", "two\n")
    body = 'cat "$1" "$2" > "$3"'
    lab.pipeline(lab.step("join", body, inputs={"query": "one.txt", "database": "two.txt"}))
    prepared(lab, ["join"])
    lab.pipeline(lab.step("join", body, inputs={"query": "two.txt", "database": "one.txt"}))
    lab.good()
    lab.expect("out.txt", "two\none\n")


@scenario
def environment(lab):
    """a variable of the environment that was declared has another value"""
    lab.put("in.txt", "x\n")
    lab.pipeline(lab.step("greet", 'echo "$GREETING" > "$2"', env=("GREETING",)))
    prepared(lab, ["greet"], env={"GREETING": "hello"})
    lab.good(env={"GREETING": "good day"})
    lab.expect("out.txt", "good day\n")


# What runs nothing


@scenario
def touched_input(lab):
    """an input with a new date and the same bytes: nothing runs"""
    copied(lab)
    lab.put("in.txt", "first\n")
    lab.good(ran=[])


@scenario
def comment_edited(lab):
    """a comment in the pipeline file: nothing runs"""
    copied(lab)
    lab.pipeline(lab.step("copy", COPY), comment="what this does")
    lab.good(ran=[])


@scenario
def default_written_out(lab):
    """a setting written out with its default: nothing runs"""
    copied(lab)
    step = lab.step("copy", COPY, spelled=True)
    lab.pipeline(step)
    lab.good(ran=[])


@scenario
def renamed_stage(lab):
    """a stage renamed: nothing runs"""
    copied(lab)
    step = lab.step("copy", COPY)
    lab.pipeline(type(step)("duplicate", step.run, step.inputs, step.outputs))
    lab.good(ran=[])


@scenario
def moved_project(lab):
    """the project's folder moved: nothing runs"""
    copied(lab)
    lab.project = lab.project.rename(lab.home / "elsewhere")
    lab.good(ran=[])


@scenario
def same_output(lab):
    """a stage that writes the same bytes again stops the wave there"""
    wave(lab, 'cut -c 1 "$1" > "$2"')


@scenario
def untouched_output(lab):
    """a stage that leaves an unchanged output alone stops the wave there"""
    wave(lab, 'cut -c 1 "$1" > "$2.new"\nif cmp -s "$2.new" "$2"; then rm "$2.new"; else mv "$2.new" "$2"; fi')


def wave(lab, body):
    """Edits an input so that the first of two stages gives what it gave before."""
    lab.put("in.txt", "abc\n")
    first = lab.step("first", body, outputs={"result": "middle.txt"})
    second = lab.step("second", COPY, inputs={"source": "middle.txt"})
    lab.pipeline(first, second)
    prepared(lab, ["first", "second"])
    lab.put("in.txt", "axyz\n")
    lab.good(ran=["first"])
    lab.good(ran=[])


@scenario
def history(lab):
    """an edit taken back (A, B, A): the first result comes back, nothing runs"""
    copied(lab)
    lab.put("in.txt", "second\n")
    lab.good()
    lab.put("in.txt", "first\n")
    lab.good(ran=[])
    lab.expect("out.txt", "first\n")


# Results that were harmed


@scenario
def tampered_output(lab):
    """an output overwritten, same size: the next run mends it"""
    copied(lab)
    lab.next_tick()
    overwrite(lab.project / "out.txt", b"tampe\n")
    lab.good()
    lab.expect("out.txt", "first\n")


@scenario
def tampered_same_date(lab):
    """an output overwritten, same size, same date: the next run mends it"""
    copied(lab)
    date = (lab.project / "out.txt").stat().st_mtime_ns
    overwrite(lab.project / "out.txt", b"tampe\n")
    os.utime(lab.project / "out.txt", ns=(date, date))
    lab.good()
    lab.expect("out.txt", "first\n")


def overwrite(path, data):
    """Writes over a file's bytes in place, whatever its mode, which stays."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)
    path.chmod(mode)


@scenario
def deleted_output(lab):
    """an output deleted: it is there again after the next run"""
    copied(lab)
    lab.remove("out.txt")
    lab.good()
    lab.expect("out.txt", "first\n")


@scenario
def restored_from_cache(lab):
    """an output deleted: it comes back, nothing runs"""
    copied(lab)
    lab.remove("out.txt")
    lab.good(ran=[])
    lab.expect("out.txt", "first\n")


@scenario
def corrupt_object(lab):
    """a damaged object of the cache is not handed out"""
    copied(lab, "a result of its own\n")
    damaged = 0
    for path in lab.tool.store(lab).rglob("*"):
        if path.is_file() and path.read_bytes() == b"a result of its own\n":
            date = path.stat().st_mtime_ns
            overwrite(path, b"A")
            os.utime(path, ns=(date, date))
            damaged += 1
    if not damaged:
        raise Broken("the cache has no object of it")
    lab.remove("out.txt")
    lab.good()
    lab.expect("out.txt", "a result of its own\n")


@scenario
def torn_state(lab):
    """each file of the tool's memory cut in half, one at a time: the next run goes well"""
    copied(lab)
    names = [str(path) for path in lab.tool.state(lab)]
    if not names:
        raise RuntimeError("no file of the tool's memory found")
    faults = [fault for fault in (torn(lab, name) for name in names) if fault]
    if faults:
        raise Broken("; ".join(faults))


def torn(lab, name):
    """Cuts a file in half and runs; returns what went wrong, if anything, and then puts the file back."""
    if not os.path.exists(name) or not os.path.getsize(name):
        return None
    with open(name, "rb") as file:
        whole = file.read()
    mode = os.stat(name).st_mode
    os.chmod(name, mode | 0o200)
    os.truncate(name, len(whole) // 2)
    os.chmod(name, mode)
    try:
        lab.good()
        lab.expect("out.txt", "first\n")
        return None
    except Broken as broken:
        with open(name, "wb") as file:
            file.write(whole)
        return f"{os.path.relpath(name, lab.project)}: {broken}"


@scenario
def unstable_stage(lab):
    """a stage that gives other bytes when run again is told as such, and the first result stays"""
    lab.put("in.txt", "x\n")
    lab.pipeline(lab.step("draw", 'cat /proc/sys/kernel/random/uuid > "$2"'))
    prepared(lab, ["draw"])
    first = lab.read("out.txt")
    run = lab.run("--force", "command.draw")
    same(run.process.returncode, 0, "exit")
    same(lab.ran(), ["draw"], "ran")
    if "determin" not in run.output():
        raise Broken("nothing is said about it")
    lab.expect("out.txt", first)


# Failure


@scenario
def failed_stage(lab):
    """a stage that writes its output and then fails: it runs again next time"""
    lab.put("in.txt", "old\n")
    fails = f'cp "$1" "$2"\nif [ -e {lab.home}/broken ]; then printf "wrong\\n" > "$2"; exit 1; fi'
    lab.pipeline(lab.step("copy", fails))
    prepared(lab, ["copy"])
    lab.put("in.txt", "new\n")
    (lab.home / "broken").touch()
    if lab.run().process.returncode == 0:
        raise Broken("the run says that all went well")
    (lab.home / "broken").unlink()
    lab.good()
    lab.expect("out.txt", "new\n")


@scenario
def missing_output(lab):
    """a stage that does not write an output it declares has failed"""
    lab.put("in.txt", "x\n")
    step = lab.step("pair", 'cp "$1" "$2"', outputs={"result": "out.txt", "other": "other.txt"})
    lab.pipeline(step)
    code = lab.run().process.returncode
    if lab.ran() != ["pair"]:
        raise RuntimeError("the stage did not run")
    if code == 0:
        raise Broken("the run says that all went well")


@scenario
def missing_input(lab):
    """an input that is not there is told before anything runs"""
    lab.put("in.txt", "x\n")
    first = lab.step("first", COPY, outputs={"result": "one.txt"})
    second = lab.step("second", COPY, inputs={"source": "absent.txt"})
    lab.pipeline(first, second)
    run = lab.run()
    if run.process.returncode == 0:
        raise Broken("the run says that all went well")
    same(lab.ran(), [], "ran")
    if "absent.txt" not in run.output():
        raise Broken("the file is not named")


@scenario
def keep_going(lab):
    """asked to keep going, it runs what does not depend on a failure, and nothing else"""
    lab.put("in.txt", "x\n")
    bad = lab.step("bad", "exit 1", outputs={"result": "bad.txt"})
    after = lab.step("after", COPY, inputs={"source": "bad.txt"}, outputs={"result": "after.txt"})
    good = [lab.step(f"good{n}", COPY, outputs={"result": f"good{n}.txt"}) for n in range(3)]
    lab.pipeline(bad, after, *good)
    if lab.run(*lab.tool.keep_going).process.returncode == 0:
        raise Broken("the run says that all went well")
    same(lab.ran(), ["bad", "good0", "good1", "good2"], "ran")


@scenario
def killed_stage(lab):
    """a stage killed by SIGKILL leaves nothing that counts as done"""
    run, pid = halfway(lab)
    os.kill(pid, signal.SIGKILL)
    if run.wait() == 0:
        raise Broken("the run says that all went well")
    completes(lab)


@scenario
def interrupted(lab):
    """Ctrl-C ends the stage too, and what it leaves does not count as done"""
    run, pid = halfway(lab)
    os.killpg(run.pid, signal.SIGINT)
    run.wait(30)
    if not lab.dies(pid):
        raise Broken("the stage lives on")
    completes(lab)


@scenario
def killed_runner_orphan(lab):
    """the runner killed by SIGKILL: its stage does not live on"""
    run, pid = halfway(lab)
    run.process.kill()
    run.wait()
    if not lab.dies(pid):
        raise Broken("the stage lives on")


@scenario
def killed_runner_partial(lab):
    """the runner killed by SIGKILL: no partial output at its place"""
    run, _ = halfway(lab)
    run.process.kill()
    run.wait()
    if lab.read("out.txt") is not None:
        raise Broken(f"`out.txt` holds {lab.read('out.txt')!r}")


@scenario
def killed_runner_next(lab):
    """the runner killed by SIGKILL: the next run needs no help and makes the result again"""
    run, pid = halfway(lab)
    run.process.kill()
    run.wait()
    # What is left of the stage is another row.
    if not lab.dies(pid, 0.5):
        os.kill(pid, signal.SIGKILL)
    completes(lab)


@scenario
def killed_runner_late(lab):
    """the runner killed by SIGKILL: what its stage writes later does no harm"""
    run, pid = halfway(lab)
    run.process.kill()
    run.wait()
    gone = lab.dies(pid, 0.5)
    lab.unhold()
    lab.good()
    lab.expect("out.txt", "half rest\n")
    if not gone:
        lab.release()
        lab.dies(pid)
    lab.good()
    lab.expect("out.txt", "half rest\n")


def halfway(lab):
    """Starts a run whose stage stands at its gate with half of its output written."""
    lab.put("in.txt", "rest\n")
    lab.pipeline(lab.step("slow", HALF_GATE_REST))
    lab.hold()
    run = lab.start()
    return run, lab.at_gate(run)


def completes(lab):
    """Runs again with the gate open; the result must be whole."""
    lab.unhold()
    lab.ran()
    lab.good()
    lab.expect("out.txt", "half rest\n")


# Work under way


@scenario
def resumed(lab):
    """a killed stage goes on from where it was, by what it kept itself"""
    same(epochs(lab, "kept\n"), 3, "epochs in all")
    lab.expect("out.txt", "kept\n" * 3)


@scenario
def resumed_elsewhere(lab):
    """a killed stage whose input was then edited starts from nothing, though it kept something"""
    epochs(lab, "edited\n")
    lab.expect("out.txt", "edited\n" * 3)


def epochs(lab, text):
    """Kills a stage after its second epoch, writes `text` into its input, runs again; returns the epochs in all."""
    lab.put("in.txt", "kept\n")
    lab.pipeline(lab.step("train", EPOCHS, resume=True))
    lab.hold()
    run = lab.start()
    os.kill(lab.at_gate(run), signal.SIGKILL)
    run.wait()
    lab.unhold()
    if text != "kept\n":
        lab.put("in.txt", text)
    return lab.good().count("epoch")


@scenario
def parallel(lab):
    """two independent stages run side by side"""
    lab.put("in.txt", "x\n")
    lab.pipeline(*(lab.step(name, READ_GATE_WRITE, outputs={"result": f"{name}.txt"}) for name in ("left", "right")))
    lab.hold()
    run = lab.start()
    lab.at_gate(run)
    both = lab.reached(run, 6) is not None
    lab.release(2)
    run.wait()
    if not both:
        raise Broken("the second starts when the first has ended")


@scenario
def two_runs(lab):
    """two runs at once: both end well, the work is done once"""
    lab.put("in.txt", "x\n")
    lab.pipeline(lab.step("slow", READ_GATE_WRITE))
    lab.hold()
    first = lab.start()
    lab.at_gate(first)
    second = lab.start()
    # Either it comes to the gate as well, or it ends, or it waits.
    twice = lab.reached(second, 8) is not None
    gave_up = second.ended()
    lab.release(2)
    codes = first.wait(), second.wait()
    if twice:
        raise Broken("the stage ran twice at once")
    if gave_up or codes != (0, 0):
        raise Broken(f"exit {codes[0]} and {codes[1]}: {second.last_line()}")
    same(lab.ran(), ["slow"], "ran")
    lab.expect("out.txt", "x\n")


# Looking ahead


@scenario
def dry_run(lab):
    """a dry run names what the run then does: at first, with nothing to do, after an edit"""
    lab.put("in.txt", "x\n")
    lab.put("apart.txt", "x\n")
    first = lab.step("first", COPY, outputs={"result": "middle.txt"})
    second = lab.step("second", COPY, inputs={"source": "middle.txt"})
    third = lab.step("third", COPY, inputs={"source": "apart.txt"}, outputs={"result": "apart.out"})
    lab.pipeline(first, second, third)
    for change in (None, None, "y\n"):
        if change:
            lab.put("in.txt", change)
        will, may = lab.plan()
        ran = set(lab.good())
        if not will <= ran <= will | may:
            raise Broken(f"said {sorted(will)}{f' and perhaps {sorted(may)}' if may else ''}, ran {sorted(ran)}")


@scenario
def dry_run_writes_nothing(lab):
    """a dry run writes nothing but its own logs and locks"""
    copied(lab)
    lab.put("in.txt", "second\n")
    before = lab.snapshot()
    lab.plan()
    after = lab.snapshot()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    same(changed, [], "wrote")
