#!/usr/bin/env python3
"""Counts the bits of codes that bf16 made other than f32: of what `hashpipe run benches/bf16.toml` exported.

    benches/peers/bits.py output/bf16
"""

import argparse
from pathlib import Path

import numpy


def main():
    """Prints a line per network and list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the pipeline's folder in output/")
    folders = sorted(parser.parse_args().folder.glob("export.codes*"))
    if not folders:
        parser.error("no `export.codes` in this folder: run the pipeline first")
    for folder in folders:
        for codes in ("query", "database"):
            (plain,) = folder.glob(f"{codes}_code_[0-9]*[0-9].npy")
            (half,) = folder.glob(f"{codes}_half_code_[0-9]*[0-9].npy")
            other = numpy.load(plain) != numpy.load(half)
            shares = f"{100 * other.mean():.3f} % of the bits, {100 * other.any(axis=1).mean():.1f} % of the codes"
            print(f"{folder.name} {codes}: {shares} differ")


if __name__ == "__main__":
    main()
