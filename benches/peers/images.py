#!/usr/bin/env python3
"""Times image files on their way to a network, and compares the pixels with Pillow's, byte for byte.

    cargo bench --no-run --bench images
    python3 benches/peers/images.py [FOLDER OF JPEGS] [--rounds 9] [--seconds 0.5]

The work is what evaluation does to a file in memory: decode, resize the shorter side to 256, cut the 224 in the middle.
One thread each, turns in changing order, CPU seconds. Without a folder, the pictures are drawn.
"""

import argparse
import io
import json
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["pillow", "numpy", "opencv-python-headless", "torch", "torchvision"]
VENV = Path("/tmp/hashpipe-images")


def main():
    """Parses, runs itself where the peers are, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="pictures to time; drawn ones otherwise")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each [%(default)s]")
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds of a turn [%(default)s]")
    parser.add_argument("--venv", type=Path, default=VENV, help="virtual environment of the peers [%(default)s]")
    parser.add_argument("--binary", type=Path, help="the benchmark's binary [the newest in target/release/deps]")
    options = parser.parse_args()
    if Path(sys.prefix).resolve() != options.venv.resolve():
        sys.exit(subprocess.run([python(options.venv), __file__, *sys.argv[1:]]).returncode)
    warnings.simplefilter("ignore")
    binary = options.binary or newest()
    with tempfile.TemporaryDirectory(prefix="hashpipe-images-") as folder:
        odd = draw_odd(Path(folder))
        timed = sorted(options.folder.rglob("*.jpg")) if options.folder else draw_usual(Path(folder))
        compare(binary, [*timed, *odd], Path(folder))
        measure(binary, timed, options.rounds, options.seconds)


def python(venv):
    """Returns the interpreter of the virtual environment, which is made if it is not there."""
    program = venv / "bin" / "python"
    if not program.exists():
        print(f"installing {', '.join(PACKAGES)} into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([program, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return program


def newest():
    """Returns the benchmark that was built last."""
    found = [path for path in (ROOT / "target/release/deps").glob("images-*") if not path.suffix]
    if not found:
        sys.exit("run `cargo bench --no-run --bench images` first")
    return max(found, key=lambda path: path.stat().st_mtime)


# The work, as each does it.


def sides(width, height):
    """Returns the size whose shorter side is 256."""
    return (256, int(256 * height / width)) if width <= height else (int(256 * width / height), 256)


def box(width, height):
    """Returns the 224 in the middle, as torchvision rounds it."""
    left, top = int(round((width - 224) / 2.0)), int(round((height - 224) / 2.0))
    return (left, top, left + 224, top + 224)


def pillow(data):
    """The reference."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    size = sides(*image.size)
    return image.resize(size, Image.Resampling.BILINEAR).crop(box(*size))


def opencv(data, how="INTER_LINEAR"):
    """What OpenCV users write: no antialiasing, so other pixels."""
    import cv2
    import numpy

    image = cv2.cvtColor(cv2.imdecode(numpy.frombuffer(data, numpy.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    size = sides(image.shape[1], image.shape[0])
    left, top, right, bottom = box(*size)
    return cv2.resize(image, size, interpolation=getattr(cv2, how))[top:bottom, left:right]


def torchvision(data):
    """What torchvision advises for speed: JPEG to a tensor of bytes, resized as such, with antialiasing."""
    import numpy
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    image = decode_jpeg(torch.from_numpy(numpy.frombuffer(data, numpy.uint8)), ImageReadMode.RGB)
    return functional.center_crop(functional.resize(image, [256], antialias=True), [224, 224])


# The comparison.


def compare(binary, files, folder):
    """Says which files have other pixels than with Pillow; leaves with an error if there are any."""
    import numpy
    from PIL import Image

    out = folder / "pixels"
    out.mkdir()
    subprocess.run([binary, "pixels", out, *files], check=True)
    wrong, refused = [], 0
    for number, file in enumerate(files):
        data = file.read_bytes()
        try:
            whole = numpy.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes()
            theirs = (whole, numpy.asarray(pillow(data)).tobytes())
        except Exception:
            theirs = None
        parts = [out / f"{number}.{ending}" for ending in ("rgb", "crop")]
        ours = tuple(part.read_bytes() for part in parts) if parts[0].exists() else None
        refused += ours is None and theirs is None
        if ours != theirs:
            wrong.append(file.name)
    print(f"{len(files)} files: {len(files) - len(wrong)} as Pillow has them, {refused} of those refused by both")
    if wrong:
        sys.exit(f"not as Pillow has them: {', '.join(wrong)}")


# The files.


def picture(width, height, seed, noise=20):
    """Draws a picture with gradients, waves and noise."""
    import numpy
    from PIL import Image

    rng = numpy.random.RandomState(seed)
    y, x = numpy.mgrid[0:height, 0:width]
    waves = 128 + 127 * numpy.sin(x / 5 + y / 7)
    base = numpy.stack([x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), waves], 2)
    return Image.fromarray((base + rng.normal(0, noise, base.shape)).clip(0, 255).astype(numpy.uint8))


def draw_usual(folder):
    """Draws pictures as photographs are."""
    files = []
    for number in range(12):
        size = [(640, 480), (500, 375), (480, 640)][number % 3]
        files.append(folder / f"usual-{number}.jpg")
        picture(*size, number, noise=6).save(files[-1], quality=92, subsampling=[0, 2][number % 2])
    return files


def draw_odd(folder):
    """Draws files of every kind that there is a way to write."""
    folder = folder / "odd"
    folder.mkdir()

    def save(name, image, **options):
        image.save(folder / name, **options)

    for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        for size in ((1, 1), (2, 3), (5, 4), (8, 8), (17, 31), (64, 48), (333, 277)):
            name = f"{sampling.replace(':', '')}-{size[0]}x{size[1]}.jpg"
            save(name, picture(*size, 1), subsampling=sampling, quality=90)
    for quality in (1, 5, 25, 50, 75, 95, 100):
        save(f"quality-{quality}.jpg", picture(211, 157, 2, 60), quality=quality, subsampling=quality % 3)
    image = picture(333, 277, 3)
    for sampling in range(3):
        save(f"progressive-{sampling}.jpg", image, progressive=True, subsampling=sampling)
        save(f"optimised-{sampling}.jpg", image, optimize=True, subsampling=sampling)
        save(f"restart-{sampling}.jpg", image, restart_marker_blocks=5, subsampling=sampling)
        save(f"restart-rows-{sampling}.jpg", image, restart_marker_rows=1, subsampling=sampling)
    save("grey.jpg", image.convert("L"))
    save("grey-progressive.jpg", image.convert("L"), progressive=True)
    save("cmyk.jpg", image.convert("CMYK"))
    save("rgb.jpg", image, keep_rgb=True)
    draw_damaged(folder)
    for size in ((40, 30), (1, 1), (300, 280)):
        draw_other_formats(save, size)
    draw_sixteen_bits(folder)
    return sorted(folder.iterdir())


def draw_damaged(folder):
    """Writes files that are cut off, or have something behind them."""
    whole, progressive = [(folder / f"{name}-2.jpg").read_bytes() for name in ("restart", "progressive")]
    (folder / "followed.jpg").write_bytes(whole + b"something else" * 40)
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "endless.jpg").write_bytes(whole[:-2])
    (folder / "half-progressive.jpg").write_bytes(progressive[: len(progressive) // 2])
    (folder / "fewer-scans.jpg").write_bytes(progressive[: len(progressive) // 2] + b"\xff\xd9")


def draw_other_formats(save, size):
    """Writes a picture in every mode that a format has."""
    image = picture(*size, 4)
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    few = image.quantize(17)
    modes = {"1": image.convert("1"), "L": image.convert("L"), "RGB": image, "RGBA": clear}
    for mode, drawn in modes.items():
        for ending in ("png", "tif", "bmp", "webp", "gif"):
            save(f"{mode}-{size[0]}.{ending}", drawn, **({"lossless": True} if ending == "webp" else {}))
    for ending in ("png", "bmp", "gif"):
        save(f"P-{size[0]}.{ending}", few)
    for bits in (2, 4):
        save(f"P{bits}-{size[0]}.png", image.quantize(1 << bits), bits=bits)
    save(f"LA-{size[0]}.png", clear.convert("LA"))
    save(f"P-clear-{size[0]}.png", few, transparency=3)
    save(f"P-clear-{size[0]}.gif", few, transparency=3)
    save(f"L-clear-{size[0]}.png", image.convert("L"), transparency=40)
    save(f"RGB-clear-{size[0]}.png", image, transparency=(3, 4, 5))
    save(f"CMYK-{size[0]}.tif", image.convert("CMYK"))
    save(f"lzw-{size[0]}.tif", image, compression="tiff_lzw")
    for compression in ("raw", "tiff_lzw", "packbits"):
        save(f"palette-{compression}-{size[0]}.tif", image.quantize(200), compression=compression)
    save(f"lossy-{size[0]}.webp", image, quality=70)
    save(f"lossy-clear-{size[0]}.webp", clear, quality=70)
    for ending in ("gif", "webp", "png"):
        save(f"moving-{size[0]}.{ending}", image, save_all=True, append_images=[picture(*size, 5)])


def draw_sixteen_bits(folder):
    """Writes PNG files of 16 bits, which Pillow reads but hardly writes."""
    import numpy

    rng = numpy.random.RandomState(6)
    for kind, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        samples = rng.randint(0, 65536, (20, 30, channels))
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        header = struct.pack(">IIBBBBB", 30, 20, 16, kind, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        packed = [struct.pack(">I", len(b)) + t + b + struct.pack(">I", zlib.crc32(t + b)) for t, b in chunks]
        (folder / f"sixteen-{kind}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


# The times.


def alike(data):
    """Returns whether torchvision's pixels are Pillow's."""
    import numpy

    return all((torchvision(each).permute(1, 2, 0).numpy() == numpy.asarray(pillow(each))).all() for each in data)


def measure(binary, files, rounds, seconds):
    """Lets all take turns, and prints images per second of a core."""
    import cv2
    import PIL
    import torch
    import torchvision as vision

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*not writable.*")
    data = [file.read_bytes() for file in files]
    ours = subprocess.Popen([binary, "rounds", *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hashpipe():
        print(seconds, file=ours.stdin, flush=True)
        told = json.loads(ours.stdout.readline())
        return told["images"] / told["seconds"]

    def of(work):
        def turn():
            begin, before, done = time.perf_counter(), time.thread_time(), 0
            while time.perf_counter() - begin < seconds:
                for each in data:
                    work(each)
                done += len(data)
            return done / (time.thread_time() - before)

        return turn

    turns = {
        "hashpipe": hashpipe,
        f"Pillow {PIL.__version__}": of(pillow),
        f"torchvision {vision.__version__}, tensors ({'the same' if alike(data) else 'other'} pixels)": of(torchvision),
        f"OpenCV {cv2.__version__}, linear (other pixels)": of(opencv),
        f"OpenCV {cv2.__version__}, area (other pixels)": of(lambda data: opencv(data, "INTER_AREA")),
    }
    found = {name: [] for name in turns}
    for turn in turns.values():
        turn()
    for _ in range(rounds):
        for name in random.sample(list(turns), len(turns)):
            found[name].append(turns[name]())
    ours.stdin.close()
    ours.wait()
    reference = statistics.median(found[f"Pillow {PIL.__version__}"])
    print(f"\n{len(files)} files of {sum(map(len, data)) // len(files):,} bytes; images per second of one core\n")
    print("| | images/s | x Pillow |\n|---|---|---|")
    for name, rates in found.items():
        median = statistics.median(rates)
        print(f"| {name} | {median:.0f} ({min(rates):.0f}-{max(rates):.0f}) | {median / reference:.2f} |")


if __name__ == "__main__":
    main()
