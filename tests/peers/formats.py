"""Round trips between hashpipe and the real programs: who wrote, who read, and whether the values are equal.

Run:  cargo build --release && python tests/peers/formats.py [target/release/hashpipe]
Needs numpy, pillow, torch, safetensors, onnxruntime, faiss-cpu and pyarrow; paddlepaddle if it installs (2.6.2 was used).
Prints a table as Markdown; ends with 1 if anything differs.
"""
import collections, importlib, json, os, shutil, subprocess, sys, tempfile

import faiss
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import torch
from PIL import Image

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from goldens import NETWORK, renamed, to_torch

try:
    paddle = importlib.import_module("paddle")
except Exception:
    paddle = None

HASHPIPE = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/hashpipe")
ROWS = []


def hashpipe(*arguments, cwd=None):
    done = subprocess.run([HASHPIPE, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout


def row(what, wrote, read, check):
    try:
        found = check()
        equal = "yes" if found is True or found is None else str(found)
    except Exception as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [repr(error)]
        equal = "NO: " + " / ".join(lines[:3])
    ROWS.append((what, wrote, read, equal))
    print(f"| {what} | {wrote} | {read} | {equal} |", flush=True)


def same(found, expected):
    assert set(found) == set(expected), sorted(set(found) ^ set(expected))
    for name in expected:
        assert found[name].dtype == np.float32 and np.array_equal(found[name], expected[name]), name


class DeepHash(torch.nn.Module):
    """The golden network as DeepHash-pytorch builds its AlexNet: `features`, and `hash_layer` as a sequence."""

    def __init__(self):
        super().__init__()
        n = torch.nn
        self.features = n.Sequential(n.Conv2d(3, 4, 5, padding=2), n.ReLU(), n.MaxPool2d(3, 2))
        self.hash_layer = n.Sequential(
            n.Dropout(), n.Linear(36, 6), n.ReLU(), n.Dropout(), n.Identity(), n.Identity(), n.Linear(6, 8))

    def forward(self, x):
        return self.hash_layer(self.features(x).flatten(1))


def weights(folder):
    at = lambda name: os.path.join(folder, name)
    theirs = to_torch(renamed("hash_layer", "hash_layer.6"))

    def into_ours(file):
        hashpipe("weights", "convert", at(file), at("back.npz"), "--names", "hashpipe")
        same(dict(np.load(at("back.npz"))), NETWORK)

    def torch_zip():
        torch.save(theirs, at("a.pth"))
        into_ours("a.pth")

    def torch_legacy():
        torch.save(theirs, at("b.pth"), _use_new_zipfile_serialization=False)
        into_ours("b.pth")

    def torch_module():
        model = DeepHash()
        model.load_state_dict(theirs)
        torch.save({"epoch": 1, "state_dict": torch.nn.DataParallel(model).state_dict()}, at("c.tar"))
        into_ours("c.tar")

    def safetensors_in():
        safetensors.numpy.save_file(dict(renamed("hash_layer", "hash_layer.6")), at("d.safetensors"))
        into_ours("d.safetensors")

    def npz_in():
        np.savez_compressed(at("e.npz"), **NETWORK)
        into_ours("e.npz")

    def refused():
        torch.save(DeepHash(), at("f.pth"))
        done = subprocess.run([HASHPIPE, "weights", "inspect", at("f.pth")], capture_output=True, text=True)
        assert done.returncode == 2 and "state_dict" in done.stderr and "DeepHash" in done.stderr, done.stderr
        return "refused, as meant"

    version = f"PyTorch {torch.__version__}"
    row("`.pth`, archive", version, "hashpipe", torch_zip)
    row("`.pth`, before 1.6", version, "hashpipe", torch_legacy)
    row("checkpoint of `DataParallel`", version, "hashpipe", torch_module)
    row("whole pickled module", version, "hashpipe", refused)
    row("`.safetensors`", "safetensors", "hashpipe", safetensors_in)
    row("`.npz`, compressed", f"NumPy {np.__version__}", "hashpipe", npz_in)

    safetensors.numpy.save_file(NETWORK, at("ours.safetensors"))

    def torch_out():
        hashpipe("weights", "convert", at("ours.safetensors"), at("out.pth"), "--names", "deephash")
        model = DeepHash()
        model.load_state_dict(torch.load(at("out.pth"), weights_only=True), strict=True)
        same({name: tensor.numpy() for name, tensor in model.state_dict().items()}, renamed("hash_layer", "hash_layer.6"))

    def safetensors_out():
        hashpipe("weights", "convert", at("out.pth"), at("out.safetensors"), "--names", "hashpipe")
        same(safetensors.numpy.load_file(at("out.safetensors")), NETWORK)

    def npz_out():
        hashpipe("weights", "convert", at("out.pth"), at("out.npz"), "--names", "hashpipe")
        same(dict(np.load(at("out.npz"))), NETWORK)

    row("`.pth`, `load_state_dict(strict=True)`, `weights_only=True`", "hashpipe", version, torch_out)
    row("`.safetensors`", "hashpipe", "safetensors", safetensors_out)
    row("`.npz`", "hashpipe", f"NumPy {np.__version__}", npz_out)

    if paddle is None:
        return
    version = f"PaddlePaddle {paddle.__version__}"
    expected = renamed("classifier_plus", "classifier_plus.6", transpose=True)

    class Hash(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            n = paddle.nn
            self.features = n.Sequential(n.Conv2D(3, 4, 5, padding=2), n.ReLU(), n.MaxPool2D(3, 2))
            self.classifier_plus = n.Sequential(
                n.Dropout(), n.Linear(36, 6), n.ReLU(), n.Dropout(), n.Identity(), n.Identity(), n.Linear(6, 8))

    def paddle_in(protocol):
        layer = Hash()
        layer.set_state_dict({name: paddle.to_tensor(array) for name, array in expected.items()})
        paddle.save(layer.state_dict(), at("g.pdparams"), protocol=protocol)
        into_ours("g.pdparams")

    def paddle_out():
        hashpipe("weights", "convert", at("out.pth"), at("out.pdparams"))
        layer = Hash()
        missing, unexpected = layer.set_state_dict(paddle.load(at("out.pdparams")))
        assert not missing and not unexpected, (missing, unexpected)
        same({name: tensor.numpy() for name, tensor in layer.state_dict().items()}, expected)

    for protocol in (2, 3, 4):
        row(f"`.pdparams`, protocol {protocol}", version, "hashpipe", lambda: paddle_in(protocol))
    row("`.pdparams`, `set_state_dict`", "hashpipe", version, paddle_out)


def codes(folder):
    at = lambda name: os.path.join(folder, name)
    rng = np.random.default_rng(7)
    count, bits, queries = 2000, 64, 50
    # Half random, half near others, so that hash tables find something.
    packed = rng.integers(0, 256, (count, bits // 8), dtype=np.uint8)
    packed[count // 2:] = packed[: count // 2]
    packed[count // 2:, 7] ^= 1 << rng.integers(0, 8, count // 2).astype(np.uint8)
    asked = packed[:queries].copy()
    signs = np.unpackbits(packed, axis=1, bitorder="little").astype(np.float32) * 2 - 1
    ids = np.arange(count, dtype=np.int64) + 1000
    np.save(at("codes.npy"), signs)

    def ours(file, *options):
        hashpipe("codes", "convert", at(file), at("back.npy"), *options)
        assert np.array_equal(np.load(at("back.npy")), signs)

    np.save(at("reference.npy"), np.where(rng.random(signs.shape) < 1e-3, 0, signs).astype(np.float32))
    row("codes, `.npy` float32", "NumPy", "hashpipe", lambda: ours("codes.npy"))

    def zeros():
        told = json.loads(hashpipe("codes", "inspect", at("reference.npy"), "--json"))
        assert told["zeros"] == int((np.load(at("reference.npy")) == 0).sum()), told

    row("codes with zeros, as the reference's `database_code_64.npy`", "NumPy", "hashpipe", zeros)

    def packed_big():
        np.save(at("big.npy"), np.packbits(signs > 0, axis=1))
        ours("big.npy", "--bit-order", "big")

    row("codes, `numpy.packbits` (big)", "NumPy", "hashpipe", packed_big)

    def parquet_in():
        table = pa.table({"id": pa.array(range(count), pa.int64()), "code": pa.array([bytes(c) for c in packed], pa.binary())})
        pq.write_table(table, at("a.parquet"))
        ours("a.parquet")

    def parquet_out():
        hashpipe("codes", "convert", at("codes.npy"), at("b.parquet"), "--first-id", "1000")
        table = pq.read_table(at("b.parquet"))
        assert table["id"].to_pylist() == ids.tolist()
        assert b"".join(table["code"].to_pylist()) == packed.tobytes()

    version = f"pyarrow {pa.__version__}"
    row("codes, Parquet", version, "hashpipe", parquet_in)
    row("codes with ids, Parquet", "hashpipe", version, parquet_out)

    version = f"faiss-cpu {faiss.__version__}"
    flat = faiss.IndexBinaryFlat(bits)
    flat.add(packed)

    def faiss_in(make, add, suffix):
        index = make()
        add(index)
        faiss.write_index_binary(index, at("theirs.faiss"))
        ours("theirs.faiss")

    def faiss_out(kind, make, add, with_ids):
        options = ["--first-id", "1000"] if with_ids else []
        if kind in ("faiss-hash", "faiss-multihash"):
            options += ["--hash-bits", "9"]
        if kind == "faiss-multihash":
            options += ["--tables", "5"]
        hashpipe("codes", "convert", at("codes.npy"), at(f"ours.{kind}"), "--to", kind, *options)
        index = faiss.read_index_binary(at(f"ours.{kind}"))
        theirs = make()
        add(theirs)
        # The same neighbours at the same distances as an index that Faiss filled itself, ties in any order.
        for search in (lambda i: i.search(asked, 10), ):
            (d1, i1), (d2, i2) = search(index), search(theirs)
            assert np.array_equal(d1, d2)
            shift = 1000 if with_ids and kind == "faiss-idmap" else 0
            for a, b, d in zip(i1, i2, d1):
                assert set(a[d < d[-1]]) == set(b[d < d[-1]])
        lims1, dist1, found1 = index.range_search(asked, 3)
        lims2, dist2, found2 = theirs.range_search(asked, 3)
        assert np.array_equal(lims1, lims2)
        for q in range(queries):
            part = slice(lims1[q], lims1[q + 1])
            assert dict(zip(found1[part].tolist(), dist1[part].tolist())) == dict(zip(found2[part].tolist(), dist2[part].tolist()))
        return f"yes, same answers to {queries} queries (10 nearest, radius 3)"

    kinds = [
        ("faiss-flat", lambda: faiss.IndexBinaryFlat(bits), lambda i: i.add(packed), False),
        ("faiss-idmap", lambda: faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(bits)), lambda i: i.add_with_ids(packed, ids), True),
        ("faiss-hash", lambda: faiss.IndexBinaryHash(bits, 9), lambda i: i.add(packed), False),
        ("faiss-multihash", lambda: faiss.IndexBinaryMultiHash(bits, 5, 9), lambda i: i.add(packed), False),
    ]
    for kind, make, add, with_ids in kinds:
        row(f"codes, `{kind}`", version, "hashpipe", lambda: faiss_in(make, add, kind))
        row(f"codes, `{kind}`", "hashpipe", version, lambda: faiss_out(kind, make, add, with_ids))

    def lines():
        hashpipe("codes", "convert", at("codes.npy"), at("c.jsonl"))
        rows = [json.loads(line) for line in open(at("c.jsonl"))]
        assert [r["id"] for r in rows] == list(range(count))
        assert b"".join(bytes.fromhex(r["code"]) for r in rows) == packed.tobytes()
        ours("c.jsonl")

    row("codes, JSON lines (Qdrant, Milvus)", "hashpipe", "Python, and hashpipe", lines)

    def copy():
        hashpipe("codes", "convert", at("codes.npy"), at("d.copy"))
        rows = [line.rstrip("\n").split("\t") for line in open(at("d.copy"))]
        assert np.array_equal(np.array([[int(b) for b in bits] for _, bits in rows]), (signs > 0).astype(int))
        ours("d.copy")

    row("codes, pgvector's `COPY` text", "hashpipe", "Python, and hashpipe", copy)


PIPELINE = """
[lists.pictures.dataset]
name = "folders"
root = "pictures"
folders = ["all"]
query_per_class = 5
train_per_class = 15
database = "rest"
seed = 0

[train.net]
list = "lists.pictures/train"
bits = 16
epochs = 2
batch = 8
backbone = { name = "small", channels = [8, 16], width = 32 }
optimizer = { name = "sgd", lr = 0.01, hash_lr = 1 }
transform = { resize = 36, crop = 32 }

[encode.database]
model = "train.net/model"
list = "lists.pictures/database"

[export.net]
model = "train.net/model"
codes = { database = "encode.database/codes" }
formats = ["onnx", "pth", "pdparams"]
onnx = { normalise = NORMALISE, sign = true }

[infer.net]
model = "train.net/model"
codes = "encode.database/codes"
exported = "export.net/files"
list = "lists.pictures/query"
database = "lists.pictures/database"
onnx = true
"""


def onnx(folder):
    """A network trained here, run by onnxruntime on pictures that Pillow prepared: the codes are ours."""
    rng = np.random.default_rng(1)
    for name in ("ant", "bee"):
        os.makedirs(os.path.join(folder, "pictures", "all", name))
        for i in range(30):
            pixels = rng.integers(0, 256, (rng.integers(40, 70), rng.integers(40, 70), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(os.path.join(folder, "pictures", "all", name, f"{i}.png"))

    mean, std = [np.array(x, np.float32).reshape(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]

    def prepared(path):
        image = Image.open(path).convert("RGB")
        w, h = image.size
        size = (36, int(36 * h / w)) if w <= h else (int(36 * w / h), 36)
        image = image.resize(size, Image.BILINEAR)
        left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
        image = image.crop((left, top, left + 32, top + 32))
        return np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255

    def run(normalise):
        text = PIPELINE.replace("NORMALISE", str(normalise).lower())
        for old in ("cache", "output"):
            shutil.rmtree(os.path.join(folder, old), ignore_errors=True)
        with open(os.path.join(folder, "p.toml"), "w") as out:
            out.write(text)
        hashpipe("run", "p.toml", cwd=folder)
        files = next(os.path.join(root) for root, _, names in os.walk(os.path.join(folder, "output")) if "model_16.onnx" in names)
        session = onnxruntime.InferenceSession(os.path.join(files, "model_16.onnx"), providers=["CPUExecutionProvider"])
        # Every picture's code, whatever order the database has: compare as multisets of codes.
        ours = np.load(os.path.join(files, "database_code_16.npy"))
        paths = [os.path.join(r, n) for r, _, ns in os.walk(os.path.join(folder, "pictures")) for n in ns]
        batch = np.concatenate([prepared(path) for path in paths])
        if not normalise:
            batch = (batch - mean) / std
        logits, code = session.run(["logits", "code"], {"image": batch.astype(np.float32)})
        assert code.dtype == bool and np.array_equal(code, logits > 0)
        single = session.run(["logits"], {"image": batch[:1].astype(np.float32)})[0]
        assert np.allclose(single, logits[:1], atol=1e-5), "any batch"
        model = torch.load(os.path.join(files, "weights_16.pth"), weights_only=True)
        x = torch.from_numpy(batch if not normalise else (batch - mean) / std)
        f = torch.nn.functional
        for i in (0, 3):
            w = model[f"features.{i}.weight"]
            x = f.max_pool2d(f.relu(f.conv2d(x, w, model[f"features.{i}.bias"], padding=w.shape[2] // 2)), 3, 2)
        x = f.relu(f.linear(x.flatten(1), model["hash_layer.1.weight"], model["hash_layer.1.bias"]))
        x = f.linear(x, model["hash_layer.6.weight"], model["hash_layer.6.bias"]).numpy()
        off = float(np.abs(x - logits).max() / max(1.0, np.abs(x).max()))
        assert off < 1e-4, off
        theirs = collections.Counter(c.tobytes() for c in np.where(logits > 0, 1, -1).astype(np.float32))
        mine = collections.Counter(c.tobytes() for c in ours)
        assert not mine - theirs, f"{sum((mine - theirs).values())} of {len(ours)} codes differ"
        return f"yes, {len(ours)} codes; logits within {off:.1e} of PyTorch's"

    version = f"onnxruntime {onnxruntime.__version__}, Pillow"
    row("`.onnx`, any batch", "hashpipe", version, lambda: run(False))
    row("`.onnx` with normalisation and sign", "hashpipe", version, lambda: run(True))


def main():
    print("| what | written by | read by | equal |\n|---|---|---|---|")
    for part in (weights, codes, onnx):
        with tempfile.TemporaryDirectory() as folder:
            part(folder)
    wrong = [row for row in ROWS if row[3].startswith("NO")]
    print(f"\n{len(ROWS) - len(wrong)} passed, {len(wrong)} failed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
