"""Small files as other programs write them, for `cargo test`: every format that hashpipe reads or writes.

Run:  python tests/peers/goldens.py      (needs numpy, torch, safetensors, pyarrow, faiss-cpu; writes tests/golden/peers.json)

The network is hashpipe's `small` with channels [4], width 6, 8 pixels, 8 bits. Its numbers are exact in float16.
"""
import base64, collections, io, json, os, pickle, sys, zipfile

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = {
    "features.0.weight": (4, 3, 5, 5), "features.0.bias": (4,),
    "classifier.1.weight": (6, 36), "classifier.1.bias": (6,),
    "hash.weight": (8, 6), "hash.bias": (8,),
}


def values(tensor, shape):
    """Number k of tensor t: ((37 k + 11 t) mod 64 - 32) / 64."""
    k = np.arange(int(np.prod(shape)))
    return (((37 * k + 11 * tensor) % 64 - 32) / 64).astype(np.float32).reshape(shape)


NETWORK = {name: values(t, shape) for t, (name, shape) in enumerate(SHAPES.items())}


def renamed(classifier, hashing, transpose=False):
    out = collections.OrderedDict()
    for name, array in NETWORK.items():
        name = name.replace("classifier.", classifier + ".").replace("hash.", hashing + ".")
        out[name] = np.ascontiguousarray(array.T) if transpose and array.ndim == 2 else array
    return out


def to_torch(arrays, dtype=torch.float32):
    return collections.OrderedDict((name, torch.from_numpy(array.copy()).to(dtype)) for name, array in arrays.items())


def saved(state, **options):
    out = io.BytesIO()
    torch.save(state, out, **options)
    return out.getvalue()


def main():
    files = {}
    # Pickles of each protocol: a CIFAR batch in small, big-endian and Fortran order, and texts that need escapes.
    batch = {
        b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [3, -1, 300, 70000], "name": "caf\u00e9 '\n\\ \u20ac",
        "f": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), "big": np.arange(3, dtype=">i4"),
        "scalar": np.float64(0.5), "nothing": None, "yes": True, "half": 0.5, "pair": (1, 2), "deep": [[[]]],
        "ordered": collections.OrderedDict([("a", 1), ("b", 2)]), "large": 2**80,
    }
    for protocol in range(6):
        files[f"pickle_{protocol}"] = pickle.dumps(batch, protocol=protocol)

    deephash = renamed("hash_layer", "hash_layer.6")
    files["torch_zip"] = saved(to_torch(deephash))
    files["torch_legacy"] = saved(to_torch(deephash), _use_new_zipfile_serialization=False)
    files["torch_half"] = saved(to_torch(deephash, torch.float16))
    files["torch_bfloat16"] = saved(to_torch(deephash, torch.bfloat16))
    # As trainings keep it: wrapped, on several cards, parameters and not tensors, and a view that is not contiguous.
    wrapped = {f"module.{name}": torch.nn.Parameter(tensor) for name, tensor in to_torch(deephash).items()}
    turned = torch.from_numpy(NETWORK["classifier.1.weight"].T.copy()).t()
    wrapped["module.hash_layer.1.weight"] = turned
    files["torch_wrapped"] = saved({"epoch": 3, "state_dict": wrapped, "best": np.float64(0.7)})

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5))

    globals()["Net"] = Net
    Net.__qualname__ = "Net"
    files["torch_module"] = saved(Net())

    # What `paddle.save(layer.state_dict())` writes: Paddle itself is not needed for it.
    paddle = renamed("classifier_plus", "classifier_plus.6", transpose=True)
    state = dict(paddle)
    state["StructuredToParameterName@@"] = {name: f"generated_tensor_{i}" for i, name in enumerate(paddle)}
    for protocol in (2, 4):
        files[f"paddle_{protocol}"] = pickle.dumps(state, protocol=protocol)

    files["safetensors"] = safetensors.numpy.save({name: array for name, array in NETWORK.items()}, {"format": "pt"})
    for name, save in (("npz", np.savez), ("npz_compressed", np.savez_compressed)):
        out = io.BytesIO()
        save(out, **NETWORK)
        files[name] = out.getvalue()

    # Codes: 24 bits, seven of them; the packed bytes are little in each byte.
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 256, (7, 3), dtype=np.uint8)
    codes[4] = codes[1]
    files["codes_packed"] = codes.tobytes()
    signs = np.unpackbits(codes, axis=1, bitorder="little").astype(np.float32) * 2 - 1
    for name, array in (("codes_npy", signs), ("codes_npy_packed", codes)):
        out = io.BytesIO()
        np.save(out, array)
        files[name] = out.getvalue()
    ids = np.array([100, 101, 102, 103, 104, 105, 106], dtype=np.int64)

    def index(made, add):
        add(made)
        return faiss.serialize_index_binary(made).tobytes()

    files["faiss_flat"] = index(faiss.IndexBinaryFlat(24), lambda i: i.add(codes))
    files["faiss_idmap"] = index(faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(24)), lambda i: i.add_with_ids(codes, ids))
    files["faiss_hash"] = index(faiss.IndexBinaryHash(24, 4), lambda i: i.add(codes))
    files["faiss_multihash"] = index(faiss.IndexBinaryMultiHash(24, 3, 5), lambda i: i.add(codes))
    table = pa.table({"id": pa.array(range(7), pa.int64()), "code": pa.array([bytes(c) for c in codes], pa.binary(3))})
    for name, compression in (("parquet", "none"), ("parquet_snappy", "snappy")):
        out = io.BytesIO()
        pq.write_table(table, out, compression=compression)
        files[name] = out.getvalue()

    path = os.path.join(HERE, "..", "golden", "peers.json")
    versions = {m.__name__: m.__version__ for m in (np, torch, faiss, pa)}
    with open(path, "w") as out:
        made = {name: base64.b64encode(data).decode() for name, data in files.items()}
        json.dump({"versions": versions, "files": made}, out, indent=1)
        out.write("\n")
    for name, data in files.items():
        print(f"{name:20} {len(data):6}")


if __name__ == "__main__":
    main()
