"""The peers from PyPI, in a virtual environment of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

from tools import PEERS, Hashpipe

PACKAGES = ["doit", "dvc", "ninja", "snakemake"]
DEFAULT = Path("/tmp/hashpipe-peers")
ROOT = Path(__file__).resolve().parents[2]


def arguments(parser):
    """Adds the options that all scripts here share."""
    parser.add_argument("--venv", type=Path, default=DEFAULT, help="virtual environment of the peers [%(default)s]")
    binary = ROOT / "target" / "release" / "hashpipe"
    parser.add_argument("--hashpipe", type=Path, default=binary, help="the binary [target/release/hashpipe]")
    parser.add_argument("--tools", metavar="A,B", help="only these tools, as in `make,hashpipe`")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def peers(venv):
    """Installs the peers that are not there yet."""
    programs = [venv / "bin" / name for name in PACKAGES]
    if not all(program.exists() for program in programs):
        print(f"installing {', '.join(PACKAGES)} into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "-q", *PACKAGES], check=True)


def tools(options):
    """Returns the adapters of the tools that were asked for and are there."""
    wanted = options.tools.lower().split(",") if options.tools else None
    unknown = set(wanted or ()) - {tool.name.lower() for tool in [*PEERS, Hashpipe]}
    if unknown:
        sys.exit(f"no such tools: {', '.join(sorted(unknown))}")
    chosen = [tool for tool in [*PEERS, Hashpipe] if not wanted or tool.name.lower() in wanted]
    if any(tool.name.lower() in PACKAGES for tool in chosen):
        peers(options.venv)
    found = []
    for tool in chosen:
        program = options.venv / "bin" / tool.name.lower()
        if tool is Hashpipe:
            program = options.hashpipe.resolve()
        elif tool.name == "make":
            program = shutil.which("make")
        if program and Path(program).exists():
            found.append(tool(program))
        else:
            print(f"{tool.name}: left out, no {program or 'such program'}", file=sys.stderr)
    return found
