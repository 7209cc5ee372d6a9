#!/usr/bin/env python3
"""Writes metrics.json: every retrieval metric of small random cases, by NumPy, scikit-learn and exact fractions.

    python -m venv /tmp/env && /tmp/env/bin/pip install numpy scikit-learn
    /tmp/env/bin/python tests/golden/make_metrics.py

Nothing here knows hashpipe. Distances are (b - q.d) / 2 of signs -1, 0, +1, as in the reference. Made with NumPy 2.4.6
and scikit-learn 1.9.1.
"""

import json
import pathlib
import warnings
from fractions import Fraction
from math import comb

import numpy as np
from sklearn.metrics import average_precision_score, ndcg_score

CUTS = [1, 3, 8, 25, 60]
RANKS = [1, 2, 5, 8, 20, 50, 60]


def stable(distance, relevant, k):
    """AP@k in a stable order: divided by the hits, and by min(R, k)."""
    hits = relevant[np.argsort(distance, kind="stable")][:k]
    ranks = np.flatnonzero(hits) + 1
    total = float(np.sum(np.arange(1, len(ranks) + 1) / ranks))
    ideal = min(int(relevant.sum()), k)
    return [total / len(ranks) if len(ranks) else 0.0, total / ideal if ideal else 0.0]


def expected(distance, relevant, k):
    """The same two, as fractions, averaged over all orders of equal distances.

    Every number of hits that the group at the cut may bring has its hypergeometric probability; given it, each choice
    of ranks within the cut is equally likely.
    """
    before = hits = 0
    total = Fraction(0)
    relevant_in_all = int(relevant.sum())
    for value in np.unique(distance):
        here = distance == value
        n, r = int(here.sum()), int(relevant[here].sum())
        room = min(n, k - before)

        def sum_given(t):
            inside = Fraction(0)
            for i in range(room):
                others = Fraction(i * (t - 1), room - 1) if room > 1 else 0
                inside += Fraction(t, room) * (hits + 1 + others) / (before + 1 + i) if t else 0
            return inside

        if room < n:
            by_hits = by_sum = Fraction(0)
            for t in range(max(0, room - (n - r)), min(r, room) + 1):
                chance = Fraction(comb(r, t) * comb(n - r, room - t), comb(n, room))
                by_sum += chance * (total + sum_given(t))
                by_hits += chance * (total + sum_given(t)) / (hits + t) if hits + t else 0
            return [float(by_hits), float(by_sum / min(relevant_in_all, k)) if relevant_in_all else 0.0]
        total += sum_given(r)
        before, hits = before + n, hits + r
        if before == k:
            break
    ideal = min(relevant_in_all, k)
    return [float(total / hits) if hits else 0.0, float(total / ideal) if ideal else 0.0]


def expected_hits(distance, relevant, n):
    """Relevant items among the first n, averaged over all orders of equal distances."""
    edge = np.sort(distance)[n - 1]
    inside, at = distance < edge, distance == edge
    share = (n - inside.sum()) / at.sum()
    return float(relevant[inside].sum() + relevant[at].sum() * share)


def case(rng, bits, items, classes, signs, density):
    """One case: signs, labels, and the metrics of each query."""
    side = lambda n: (rng.choice(signs, (n, bits)), (rng.random((n, classes)) < density).astype(int))
    (q, ql), (d, dl) = side(12), side(items)
    cuts, ranks = [k for k in CUTS if k <= items], [n for n in RANKS if n <= items]
    queries = []
    for code, labels in zip(q, ql):
        distance = 0.5 * (bits - d @ code)
        shared = dl @ labels
        relevant = shared > 0
        found = int(relevant.sum())
        within = [distance <= radius for radius in range(bits + 1)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ndcg = [ndcg_score([2.0**shared - 1], [-distance], k=k) if found else 0.0 for k in cuts]
            # scikit-learn's AP takes equal scores as one step; without ties it is AP over the whole database.
            whole = average_precision_score(relevant, -distance) if found and len(set(distance)) == items else None
        queries.append({
            "relevant": found,
            "stable": [stable(distance, relevant, k) for k in cuts],
            "expected": [expected(distance, relevant, k) for k in cuts],
            "whole": whole,
            "ndcg": ndcg,
            "precision": [expected_hits(distance, relevant, n) / n for n in ranks],
            "recall": [expected_hits(distance, relevant, n) / max(found, 1) for n in ranks],
            "lookup": [int(within[2].sum()), int((within[2] & relevant).sum())],
            "radius_precision": [float(relevant[w].mean()) if w.any() else 0.0 for w in within],
            "radius_recall": [float(relevant[w].sum() / max(found, 1)) for w in within],
        })
    return {
        "bits": bits, "classes": classes, "cuts": cuts, "ranks": ranks,
        "query_codes": q.tolist(), "database_codes": d.tolist(),
        "query_labels": [np.flatnonzero(row).tolist() for row in ql],
        "database_labels": [np.flatnonzero(row).tolist() for row in dl],
        "queries": queries,
    }


def main():
    """Writes the cases."""
    rng = np.random.default_rng(20261129)
    cases = [
        case(rng, 6, 60, 5, [-1, 1], 0.3),
        case(rng, 16, 60, 7, [-1, 1], 0.25),
        case(rng, 5, 60, 4, [-1, 0, 1], 0.3),
        case(rng, 400, 8, 4, [-1, 1], 0.4),
    ]
    text = json.dumps(cases, separators=(",", ":"))
    (pathlib.Path(__file__).parent / "metrics.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
