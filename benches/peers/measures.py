"""Measures of codes, by NumPy and SciPy: the numbers that hashpipe's tests compare with.

    python -m venv env && env/bin/pip install numpy scipy pyarrow
    env/bin/python benches/peers/measures.py tests/golden/measures.json     # writes the golden numbers
    env/bin/python benches/peers/measures.py --check target/release/hashpipe # asks a built hashpipe, end to end

Nothing here is taken from hashpipe: correlations are np.corrcoef, effective bits come from the eigenvalues themselves,
p-values from scipy.stats.permutation_test over all signs, average precision from a stable sort.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats


def entropy(shares):
    shares = np.asarray(shares, float)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def of_codes(bits):
    balance = bits.mean(axis=0)
    dead = [j for j in range(bits.shape[1]) if bits[:, j].min() == bits[:, j].max()]
    live = [j for j in range(bits.shape[1]) if j not in dead]
    matrix = np.atleast_2d(np.corrcoef(bits[:, live].T)) if live else np.zeros((0, 0))
    eigenvalues = np.linalg.eigvalsh(matrix) if live else np.zeros(0)
    above = np.abs(matrix[np.triu_indices(len(live), 1)])
    _, sizes = np.unique(bits, axis=0, return_counts=True)
    pairs = int((sizes * (sizes - 1) // 2).sum())
    count = len(bits)
    return {
        "balance": balance.tolist(),
        "entropy": [entropy([p, 1 - p]) for p in balance],
        "dead": dead,
        "mean_absolute_correlation": float(above.mean()) if above.size else 0.0,
        "largest_correlation": float(above.max()) if above.size else 0.0,
        "effective_bits": float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()) if live else 0.0,
        "buckets": [len(sizes), int((sizes == 1).sum()), int(sizes.max()), pairs],
        "collision_probability": pairs / (count * (count - 1) / 2),
        "bucket_entropy": entropy(sizes / count),
    }


def of_outputs(outputs):
    signs = np.where(outputs > 0, 1.0, -1.0)
    cosine = (np.abs(outputs)).sum(1) / (np.linalg.norm(outputs, axis=1) * np.linalg.norm(signs, axis=1))
    return {
        "mean_squared": float(((np.abs(outputs) - 1) ** 2).mean()),
        "mean_absolute": float(np.abs(np.abs(outputs) - 1).mean()),
        "cosine": float(cosine.mean()),
    }


def sign_flip(a, b):
    """Over all 2^n signs: the two-sided p-value of the mean difference."""
    result = stats.permutation_test(
        (np.asarray(a) - np.asarray(b),),
        lambda d, axis: d.mean(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    return float(result.pvalue)


def correlated_bits(rng, count, bits, dead=()):
    """Bits that share a few causes, so that they are correlated; many codes are equal."""
    causes = rng.normal(size=(count, 3))
    mixed = causes @ rng.normal(size=(3, bits)) + 0.4 * rng.normal(size=(count, bits)) + rng.normal(size=bits) * 0.5
    found = (mixed > 0).astype(np.uint8)
    for j in dead:
        found[:, j] = j % 2
    return found


def golden():
    rng = np.random.default_rng(20261129)
    codes = []
    for count, bits, dead in [(40, 8, ()), (90, 16, (3, 9)), (65, 70, (0,)), (30, 3, (0, 1, 2)), (33, 5, (1, 2, 3, 4))]:
        drawn = correlated_bits(rng, count, bits, dead)
        codes.append({"bits": drawn.tolist(), **of_codes(drawn)})
    outputs = []
    for count, bits in [(20, 8), (7, 33)]:
        drawn = np.round(rng.normal(size=(count, bits)), 4)
        outputs.append({"outputs": drawn.ravel().tolist(), "bits": bits, **of_outputs(drawn)})
    tests = []
    for n, shift, digits in [(3, 0.2, 3), (5, 0.0, 3), (8, 0.1, 3), (8, 0.1, 1), (10, 0.2, 2), (12, 0.05, 1), (12, 0.3, 3), (14, 0.0, 1)]:
        a, b = np.round(rng.random(n), digits), np.round(rng.random(n) - shift, digits)
        tests.append({"a": a.tolist(), "b": b.tolist(), "p_value": sign_flip(a, b)})
    binomial = [int(x) for x in stats.binom.ppf([0.025, 0.975], 400, 0.25)]
    return {
        "about": "benches/peers/measures.py",
        "versions": {"numpy": np.__version__, "scipy": __import__("scipy").__version__},
        "codes": codes,
        "quantisation": outputs,
        "sign_flip": tests,
        "binomial_quantiles": binomial,
    }


def average_precisions(query, database, query_labels, labels, k, without=None):
    """CalcTopMap of the reference with a stable sort, and the same over min(R, k); distances of signs -1, 0, +1."""
    found, ideal = [], []
    for i, code in enumerate(query):
        keep = np.ones(len(database), bool)
        if without is not None:
            keep[without[i]] = False
        relevant = (query_labels[i] @ labels[keep].T > 0).astype(float)
        distance = 0.5 * (query.shape[1] - code @ database[keep].T)
        ranked = relevant[np.argsort(distance, kind="stable")][:k]
        ranks = np.flatnonzero(ranked) + 1
        total = (np.arange(1, len(ranks) + 1) / ranks).sum()
        found.append(total / len(ranks) if len(ranks) else 0.0)
        most = min(int(relevant.sum()), k)
        ideal.append(total / most if most else 0.0)
    return np.array(found), np.array(ideal)


def check(program):
    """A built hashpipe on the same codes in every form, against NumPy."""
    rng = np.random.default_rng(7)
    bits, k = 24, 30
    signs = [np.where(correlated_bits(rng, n, bits) == 1, 1.0, -1.0) for n in (40, 200)]
    hot = [(rng.random((n, 6)) < 0.3).astype(np.uint8) for n in (40, 200)]
    ids = [rng.integers(0, 5, n) for n in (40, 200)]
    ternary = [np.where(rng.random(s.shape) < 0.05, 0.0, s) for s in signs]
    failures = 0

    def run(*arguments):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{arguments}\n{done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def told(name, ours, theirs, tolerance=1e-12):
        nonlocal failures
        good = np.allclose(ours, theirs, rtol=0, atol=tolerance)
        failures += not good
        print(f"{'ok ' if good else 'BAD'} {name}: {ours} {theirs}")

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def save(name, sides):
            paths = [folder / f"{name}-{side}.npy" for side in ("query", "database")]
            for path, side in zip(paths, sides):
                np.save(path, side)
            return paths

        def evaluate(codes, labels, *more):
            return run(
                "evaluate", "--query-codes", codes[0], "--database-codes", codes[1],
                "--query-labels", labels[0], "--database-labels", labels[1], "--top-k", k, "--json", *more,
            )[0]  # fmt: skip

        labels, numbers = save("hot", hot), save("ids", ids)
        one_hot = [np.eye(5, dtype=np.uint8)[side] for side in ids]
        expected = average_precisions(*signs, *hot, k)
        packed = [np.packbits(s > 0, axis=1) for s in signs]
        little = [np.packbits(s > 0, axis=1, bitorder="little") for s in signs]
        wide = [np.ascontiguousarray(np.pad(side, ((0, 0), (0, 5)))).view("<u8") for side in little]
        forms = {
            "float64": (signs, []),
            "float32": ([s.astype(np.float32) for s in signs], []),
            "float16": ([s.astype(np.float16) for s in signs], []),
            "int8": ([s.astype(np.int8) for s in signs], []),
            "bool": ([s > 0 for s in signs], []),
            "big endian": ([s.astype(">f4") for s in signs], []),
            "fortran": ([np.asfortranarray(s) for s in signs], []),
            "outputs": ([s * rng.uniform(0.1, 2, s.shape) for s in signs], ["--layout", "outputs"]),
            "uint8, big": (packed, ["--bit-order", "big"]),
            "uint8, little": (little, []),
            "uint64, little": (wide, ["--bits", bits]),
        }
        for name, (sides, more) in forms.items():
            found = evaluate(save("codes", sides), labels, *more)
            told(f"mAP of {name}", found["value"], expected[0].mean())
            told(f"mAP over min(R, k) of {name}", found["value_min_rk"], expected[1].mean())
        found = evaluate(save("codes", signs), numbers)
        told("mAP of class numbers", found["value"], average_precisions(*signs, *one_hot, k)[0].mean())
        found = evaluate(save("codes", ternary), labels)
        told("mAP of ternary codes", found["value"], average_precisions(*ternary, *hot, k)[0].mean())

        import pyarrow.parquet

        codes = save("codes", signs)
        for form in ("jsonl", "parquet"):
            path = folder / f"results.{form}"
            evaluate(codes, labels, "--per-query", path, "--retrieved", 7)
            if form == "jsonl":
                rows = [json.loads(line) for line in path.read_text().splitlines()]
            else:
                rows = pyarrow.parquet.read_table(path).to_pylist()
            told(f"AP of each query, {form}", max(abs(np.array([row["ap"] for row in rows]) - expected[0])), 0)
            order = np.argsort(0.5 * (bits - signs[0] @ signs[1].T), axis=1, kind="stable")[:, :7]
            told(f"retrieved, {form}", abs(np.array([row["retrieved"] for row in rows]) - order).max(), 0)
        both = [np.concatenate([signs[0], signs[1]]), np.concatenate([hot[0], hot[1]])]
        codes = save("codes", [signs[0], both[0]])
        lists = []
        for name, side in (("query", hot[0]), ("database", both[1])):
            rows = [f"image{i} {' '.join(map(str, row))}" for i, row in enumerate(side)]
            lists.append(folder / f"{name}.txt")
            lists[-1].write_text("\n".join(rows) + "\n")
        found = evaluate(codes, lists, "--exclude-self")
        alone = average_precisions(signs[0], both[0], hot[0], both[1], k, without=[[i] for i in range(40)])
        whole = average_precisions(signs[0], both[0], hot[0], both[1], k)
        told("mAP without the query itself", found["value"], alone[0].mean())
        told("mAP with it", found["with_self"]["value"], whole[0].mean())
        of = of_codes((signs[1] > 0).astype(np.uint8))
        found = evaluate(save("codes", signs), labels)["codes"]["database"]
        told("effective bits", found["effective_bits"], of["effective_bits"], 1e-9)
        told("entropy", found["mean_entropy"], np.mean(of["entropy"]), 1e-9)
        distance = (0.5 * (bits - signs[0] @ signs[1].T)).astype(int)
        near = (hot[0].astype(int) @ hot[1].T.astype(int)) > 0
        found = evaluate(save("codes", signs), labels)["distances"]
        for name, pairs in (("relevant", near), ("other", ~near)):
            told(f"distances, {name}", found[name], np.bincount(distance[pairs], minlength=bits + 1))
        matches = run("search", "--codes", folder / "codes-database.npy", "--query", folder / "codes-query.npy", "--radius", 9, "--json")
        told("within 9 bits", [len(row["matches"]) for row in matches], (distance <= 9).sum(1))
    print(f"{failures} failures")
    return failures


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        sys.exit(check(sys.argv[2]) > 0)
    Path(sys.argv[1]).write_text(json.dumps(golden()) + "\n")
