#!/usr/bin/env python3
"""Times an epoch of training and an encoding from image files, beside PyTorch with its DataLoader.

    cargo build --release
    python3 benches/peers/epoch.py [--images 10000] [--encode 20000] [--epochs 2] [--precision f32]

AlexNet at 224 pixels, batches of 64, momentum SGD, HashNet's loss here and cross entropy there. The pictures are drawn:
as large as COCO's, JPEG at quality 92. hashpipe prepares the training images once and reads them from then on; PyTorch
decodes them every time, as its users do, and once more from an array of prepared pixels, as its best users do. Epochs
count from the second on where there are several; what is printed for hashpipe is what its own log says, which the whole run's wall time bounds.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = Path("/tmp/hashpipe-torch")
PACKAGES = ["torch", "torchvision", "numpy", "pillow"]
# The peer's best: huge pages, and buffers that are kept.
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"
SIZES = [(640, 480), (640, 427), (480, 640), (500, 375), (640, 640), (612, 612)]
CLASSES, BATCH = 80, 64


def main():
    """Parses, runs itself where the peer is, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000, help="training images [%(default)s]")
    parser.add_argument("--encode", type=int, default=20_000, help="images to encode [%(default)s]")
    parser.add_argument("--peer-part", type=int, default=1, help="the peer takes one in so many of them: its rate is what "
                        "counts, and it takes hours [%(default)s]")
    parser.add_argument("--epochs", type=int, default=2, help="epochs; of several, the first does not count [%(default)s]")
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"], help="of both sides [%(default)s]")
    parser.add_argument("--workers", default="1,2", help="DataLoader workers to try [%(default)s]")
    parser.add_argument("--venv", type=Path, default=VENV, help="virtual environment of the peer [%(default)s]")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/hashpipe", help="[%(default)s]")
    parser.add_argument("--folder", type=Path, help="where the pictures are kept for the next time")
    options = parser.parse_args()
    if Path(sys.prefix).resolve() != options.venv.resolve():
        sys.exit(subprocess.run([python(options.venv), __file__, *sys.argv[1:]]).returncode)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hashpipe-epoch-"))
    try:
        draw(folder, max(options.images, options.encode))
        rows = [ours(folder, options)]
        for workers in map(int, options.workers.split(",")):
            rows.append(peer(folder, options, "files", workers))
        rows.append(peer(folder, options, "prepared", 1))
        show(rows)
    finally:
        if not options.folder:
            shutil.rmtree(folder)


def python(venv):
    """Returns the interpreter of the virtual environment, which is made if it is not there."""
    program = venv / "bin" / "python"
    if not program.exists():
        print(f"installing {', '.join(PACKAGES)} into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([program, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return program


def draw(folder, count):
    """Draws pictures that compress like photographs: soft shapes under fine grain."""
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"images/{number:06}.jpg"
        if path.exists():
            continue
        noise = np.random.default_rng(number)
        width, height = SIZES[number % len(SIZES)]
        soft = Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
        grain = noise.normal(0, 9, (height, width, 1))
        pixels = np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=92)


def labels(number):
    """Returns the classes of a picture."""
    return random.Random(number).sample(range(CLASSES), 3)


def ours(folder, options):
    """Prepares, trains and encodes with hashpipe; returns images per second."""
    project = folder / "project"
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir()
    for name, count in [("train", options.images), ("database", options.encode), ("query", BATCH)]:
        rows = (" ".join([f"{n:06}.jpg", *("1" if c in labels(n) else "0" for c in range(CLASSES))]) for n in range(count))
        (project / f"{name}.txt").write_text("\n".join(rows) + "\n")
    (project / "p.toml").write_text(f"""
name = "epoch"
[resources]  # one after the other, as the peer does it
prepare = {{ cpus = {os.cpu_count()} }}
train = {{ cpus = {os.cpu_count()} }}
encode = {{ cpus = {os.cpu_count()} }}
[lists.drawn]
dataset = {{ name = "files", train = "train.txt", query = "query.txt", database = "database.txt", root = "../images" }}
[prepare.train]
list = "lists.drawn/train"
[prepare.database]
list = "lists.drawn/database"
[train.net]
list = "lists.drawn/train"
prepared = "prepare.train/images"
bits = 64
epochs = {options.epochs}
batch = {BATCH}
optimizer = {{ name = "sgd", lr = 1e-6 }}
{'precision = "bf16"' if options.precision == "bf16" else ""}
[encode.database]
model = "train.net/model"
list = "lists.drawn/database"
prepared = "prepare.database/images"
{'precision = "bf16"' if options.precision == "bf16" else ""}
""")
    command = [options.binary, "run", "p.toml", "--json", "--jobs", str(os.cpu_count())]
    ended = subprocess.run(command, cwd=project, check=True, stdout=subprocess.PIPE, text=True)
    seconds = {}
    for line in map(json.loads, ended.stdout.splitlines()):
        if line["event"] == "done":
            seconds[line["task"]] = line["seconds"]
    log = next((project / "output").rglob("epochs.jsonl")).read_text().splitlines()
    rates = [json.loads(line)["images_per_second"] for line in log]
    return {
        "tool": "hashpipe, prepared",
        "train": statistics.median(rates[1:] or rates),
        "encode": options.encode / seconds["encode.database"],
        "prepare": options.encode / seconds["prepare.database"],
    }


def peer(folder, options, source, workers):
    """Trains and encodes with PyTorch in a process with its best allocator; returns images per second."""
    task = json.dumps({"folder": str(folder), "source": source, "workers": workers,
                       "train": options.images // options.peer_part, "encode": options.encode // options.peer_part,
                       "epochs": options.epochs, "bf16": options.precision == "bf16"})
    environment = os.environ | {"GLIBC_TUNABLES": TUNABLES}
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
               f"import epoch; epoch.in_torch({task!r})"]
    ended = subprocess.run(program, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {"tool": f"PyTorch, {source}, {workers} workers"} | json.loads(ended.stdout)


def in_torch(task):
    """What a PyTorch process does: trains, encodes, prints images per second."""
    import torch
    import torchvision
    from torch import nn

    task = json.loads(task)
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    model = torchvision.models.alexnet(num_classes=CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
    precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=task["bf16"])

    def loader(count, train):
        data = Pictures(Path(task["folder"]), count, task["source"] == "prepared", train)
        return torch.utils.data.DataLoader(data, BATCH, shuffle=train, num_workers=task["workers"], persistent_workers=True)

    rates, batches = [], loader(task["train"], True)
    for _ in range(task["epochs"]):
        started = time.perf_counter()
        for images, targets in batches:
            images = images.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            with precision:
                loss = nn.functional.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
        rates.append(task["train"] / (time.perf_counter() - started))
    model.eval()
    batches = loader(task["encode"], False)
    started = time.perf_counter()
    with torch.inference_mode(), precision:
        for images, _ in batches:
            model(images.contiguous(memory_format=torch.channels_last)).sign()
    print(json.dumps({"train": statistics.median(rates[1:] or rates), "encode": task["encode"] / (time.perf_counter() - started)}))


class Pictures:
    """The drawn pictures as a data set, from their files or from an array of prepared pixels."""

    def __init__(self, folder, count, prepared, train):
        from torchvision import transforms

        cut = [transforms.RandomCrop(224), transforms.RandomHorizontalFlip()] if train else [transforms.CenterCrop(224)]
        usual = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        self.folder, self.count, self.resize = folder, count, transforms.Resize(256)
        self.rest = transforms.Compose([*cut, *usual])
        self.pixels = self.prepared() if prepared else None

    def prepared(self):
        """Returns the resized pictures, decoded once."""
        from PIL import Image

        images = (Image.open(self.folder / f"images/{n:06}.jpg").convert("RGB") for n in range(self.count))
        return [self.resize(image) for image in images]

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        from PIL import Image

        if self.pixels is not None:
            return self.rest(self.pixels[number]), labels(number)[0]
        image = Image.open(self.folder / f"images/{number:06}.jpg").convert("RGB")
        return self.rest(self.resize(image)), labels(number)[0]


def show(rows):
    """Prints a table, each row beside the first."""
    first = rows[0]
    print(json.dumps({"cpus": os.cpu_count()}))
    print(f"{'images per second':36} {'train':>8} {'ours is':>8} {'encode':>8} {'ours is':>8}")
    for row in rows:
        ratios = [f"{first[what] / row[what]:7.2f}x" for what in ("train", "encode")]
        print(f"{row['tool']:36} {row['train']:8.1f} {ratios[0]} {row['encode']:8.1f} {ratios[1]}")
    print(f"preparing: {first['prepare']:.1f} images per second, once")


if __name__ == "__main__":
    main()
