"""The tools that are compared, one file each."""

from tools.base import Tool
from tools.doit import Doit
from tools.dvc import Dvc
from tools.hashpipe import Hashpipe
from tools.make import Make
from tools.ninja import Ninja
from tools.snakemake import Snakemake

__all__ = ["PEERS", "Hashpipe", "Tool"]

PEERS = [Make, Ninja, Doit, Snakemake, Dvc]
