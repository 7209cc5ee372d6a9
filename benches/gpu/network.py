#!/usr/bin/env python3
"""A network on one GPU, hashpipe beside PyTorch: training steps and encoding in images per second.

    benches/gpu/network.py --python PYTHON_WITH_TORCH [--batch 64,128,512] [--precision f32,tf32,bf16] [--json]

Both work on batches of noise that lie on the card already; images are no part of this. PyTorch runs eagerly in NCHW, eagerly
in channels_last, and through torch.compile in channels_last, with the fused SGD and the same loss. Each way keeps one
process for the whole run, so that compiling is paid once and counts nowhere. The clock stops when the card is done.

Takes turns: in every round each measures for `--seconds`, one after the other, so that a busy or hot minute hits all alike.
A ratio is hashpipe's rate over that, in the same round, of the way of PyTorch that was best over all rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import hashpipe
from hashpipe import middle, say, table

WAYS = {"PyTorch eager": "eager", "PyTorch channels_last": "channels_last", "PyTorch compiled": "compiled"}
BITS, CLASSES = 64, 80
# hashpipe's `--backbone`, and the side of the images.
NETWORKS = {
    "alexnet": ("alexnet", 224),
    "small": ("{ name = 'small', channels = [8, 16], width = 32, dropout = 0.5 }", 32),
}


def main():
    """Parses, measures in turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    hashpipe.arguments(parser)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has PyTorch [this one]")
    parser.add_argument("--network", choices=NETWORKS, default="alexnet", help="`small` only to see that it works [%(default)s]")
    parser.add_argument("--batch", default="64,128,512", help="[%(default)s]")
    parser.add_argument("--precision", default="f32,tf32,bf16", help="[%(default)s]")
    parser.add_argument("--what", default="train,forward", help="training steps, encoding [%(default)s]")
    parser.add_argument("--without", default="", metavar="WORD", help="leave out the ways that have it in their names")
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=3, help="per measurement and round [%(default)s]")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(*options.peer)

    cases = [
        (what, precision, int(batch))
        for what in options.what.split(",")
        for precision in options.precision.split(",")
        for batch in options.batch.split(",")
    ]
    peers = {
        name: Peer(options, way)
        for name, way in WAYS.items()
        if not options.without or options.without not in name
    }
    found = {case: {} for case in cases}
    facts = {}
    for turn in range(options.rounds):
        for case in cases:
            say(f"round {turn + 1} of {options.rounds}: {' '.join(map(str, case))}")
            own = ours(options, *case)
            facts = {key: own.get(key) for key in ("device", "gpu", "driver")}
            rates = {"hashpipe": own["images_per_second"], "floor": own["floor"]}
            rates |= {name: rate for name, peer in peers.items() if (rate := peer.measure(*case)) is not None}
            for name, rate in rates.items():
                found[case].setdefault(name, []).append(rate)
    facts["torch"] = next((peer.version for peer in peers.values() if peer.version), None)
    for peer_process in peers.values():
        peer_process.end()
    show(options, found, facts)
    return None


def ours(options, what, precision, batch):
    """Returns what `hashpipe bench` tells."""
    backbone, side = NETWORKS[options.network]
    sizes = ["--batch", batch, "--precision", precision, "--bits", BITS, "--side", side, "--backbone", backbone]
    return hashpipe.run(
        options.hashpipe, "bench", what, *sizes, "--device", options.device, "--seconds", options.seconds, "--json"
    )[0]


def show(options, found, facts):
    """Prints the figures."""
    rows = []
    for (what, precision, batch), rates in found.items():
        case = {"what": what, "precision": precision, "batch": batch}
        theirs = {name: values for name, values in rates.items() if name in WAYS and len(values) == options.rounds}
        best = max(theirs, key=lambda name: statistics.median(theirs[name]), default=None)
        # In each round, with whoever was best in all.
        ratios = [own / other for own, other in zip(rates["hashpipe"], theirs[best])] if best else []
        if options.json:
            for name, values in rates.items():
                print(json.dumps(case | {"who": name, "images_per_second": middle(values), "rounds": values} | facts))
            if ratios:
                print(json.dumps(case | {"who": "hashpipe / best of PyTorch", "best": best, "ratio": middle(ratios)} | facts))
            continue
        cell = lambda name: "{median:.0f} ({least:.0f}-{most:.0f})".format(**middle(rates[name])) if name in rates else "-"
        ratio = "x {median:.2f} ({least:.2f}-{most:.2f})".format(**middle(ratios)) if ratios else "-"
        rows.append([f"{what} {precision}, batch {batch}", *map(cell, ["hashpipe", *WAYS]), ratio, cell("floor")])
    if not options.json:
        print(f"images/s, {options.network}, medians of {options.rounds} rounds (least-most); {json.dumps(facts)}")
        table(["", "hashpipe", *WAYS, "hashpipe is, of the best", "hashpipe's floor"], rows)


class Peer:
    """A process that measures one way of PyTorch whenever it is asked to."""

    def __init__(self, options, way):
        command = [options.python, __file__, "--peer", way, options.network, options.device]
        self.name, self.seconds, self.version = way, options.seconds, None
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def measure(self, what, precision, batch):
        """Returns its rate; nothing, and a word about it, if it cannot do that."""
        task = {"what": what, "precision": precision, "batch": batch, "seconds": self.seconds}
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
            told = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            told = {"error": "its process has ended"}
        self.version = told.get("torch", self.version)
        if "error" in told:
            say(f"PyTorch {self.name}: {told['error']}")
            return None
        return told["rate"]

    def end(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def peer(way, network, device):
    """Measures whatever standard input asks for; runs in the interpreter that has PyTorch."""
    import torch

    cases = {}
    # What libraries print must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        task = json.loads(line)
        try:
            key = (task["what"], task["precision"], task["batch"])
            if key not in cases:
                # Only one case at a time: compiled programs stay, memory is given back.
                cases = {key: case(torch, way, network, device, *key)}
            told = {"rate": rate(torch, device, cases[key], task["batch"], task["seconds"]), "torch": torch.__version__}
        except Exception as error:  # What PyTorch cannot do is told and left out.
            told = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(json.dumps(told), file=answers, flush=True)


def case(torch, way, network, device, what, precision, batch):
    """Returns a function that does one step."""
    torch.manual_seed(0)
    kind = torch.device(device).type
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    form = torch.contiguous_format if way == "eager" else torch.channels_last
    side = NETWORKS[network][1]
    model = layers(torch, network).to(device).to(memory_format=form)
    images = torch.randn(batch, 3, side, side, device=device).to(memory_format=form)
    labels = (torch.rand(batch, CLASSES, device=device) < 0.03).float()
    sgd = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=kind == "cuda")
    autocast = lambda: torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")
    bank, seen = torch.zeros(batch, BITS, device=device), labels

    def loss_of(xs):
        codes = torch.tanh(model(xs).float())
        similar = (labels @ seen.T > 0).float()
        bank.copy_(codes.detach())
        products = 0.05 * codes @ bank.T
        weights = torch.where(similar > 0, 1 / similar.sum().clamp(min=1), 1 / (1 - similar).sum().clamp(min=1))
        return (weights * (torch.nn.functional.softplus(products) - similar * products)).sum()

    run, loss_of = (torch.compile(model), torch.compile(loss_of)) if way == "compiled" else (model, loss_of)

    def forward():
        with torch.inference_mode(), autocast():
            run(images)

    def train():
        sgd.zero_grad(set_to_none=True)
        with autocast():
            loss = loss_of(images)
        loss.backward()
        sgd.step()

    model.train(what == "train")
    return train if what == "train" else forward


def layers(torch, network):
    """Returns the network with its hash layer."""
    nn = torch.nn
    if network == "small":
        parts = [nn.Conv2d(3, 8, 5, 1, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
        parts += [nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Dropout()]
        return nn.Sequential(*parts, nn.Linear(16 * 7 * 7, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, BITS))
    sizes = [(3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False)]
    sizes += [(384, 256, 3, 1, 1, False), (256, 256, 3, 1, 1, True)]
    parts = []
    for inputs, outputs, kernel, stride, padding, pooled in sizes:
        parts += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True)]
        parts += [nn.MaxPool2d(3, 2)] if pooled else []
    parts += [nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, BITS))


def rate(torch, device, step, batch, seconds):
    """Returns the median images per second of single steps, after some that do not count."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for _ in range(3):
        step()
    wait()
    rates, began = [], time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        step()
        wait()
        rates.append(batch / (time.perf_counter() - start))
    return statistics.median(rates)


if __name__ == "__main__":
    main()
