"""Whether intervals are honest: how often two sets of real data differ by no more than their intervals say.

    python benchmarks/honesty.py --splits 100 -n 200          # results/honesty.json

Real artifacts are split at random into two sets A and B of n and a reference R of n (and T, in place of the training
set, where a measure asks for it). For every measure m with interval m +- h: the share of splits in which
|m(A, R) - m(B, R)| <= (h_A^2 + h_B^2)^(1/2), which 95 % intervals make .95; at least .90 is asked. GENDIFF_DATA names
the data folder.
"""

from __future__ import annotations

import argparse
import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendiff.domain import Domain
from gendiff.evaluation import Measure, measure_of, wilson
from gendiff.evaluation.scores import Described
from gendiff_recipes import audio, images, proteins
from gendiff_recipes.recipe import Recipe

DOMAINS: dict[str, Any] = {
    "pictures (fashion)": images.fashion,
    "sound (spoken digits)": audio.fsdd,
    "proteins (backbones)": proteins.backbones,
}


def measures_of(domain: Domain, judge: bool) -> list[tuple[str, Measure]]:
    """The domain's measures, and those of a classifier."""
    own = [measure_of(name, f) for name, f in domain.metrics().items() if name != "pairwise_tm"]
    found = [(m.name, m) for m in own]
    if judge and "classifier" in domain.judges():
        made = domain.judges()["classifier"](domain.dataset("train"), domain.dataset("test"))
        found += [(f"{m.name} ({made.name})", m) for m in made.measures]
    return found


def splits(recipe: Recipe, n: int, count: int, halves: int, judge: bool) -> dict[str, dict[str, Any]]:
    """By measure: the share of splits that agree, Wilson's interval of it, and the mean half width and difference."""
    domain = recipe.domain
    data = domain.dataset("test")
    pool = [data[i].artifact for i in np.random.default_rng(0).permutation(len(data))[: 8 * n]]
    if len(pool) < 4 * n:
        more = domain.dataset("train")
        pool += [more[i].artifact for i in np.random.default_rng(1).permutation(len(more))[: 8 * n - len(pool)]]
    known, out = Described(pool), {}
    for name, measure in measures_of(domain, judge):
        rows, agree, gaps, widths = known.by(measure.features), 0, [], []
        for k in range(count):
            order = np.random.default_rng(1000 + k).permutation(len(pool))[: 3 * n]
            a, b, r = ([rows[i] for i in order[s : s + n]] for s in (0, n, 2 * n))
            against = () if measure.against == "nothing" else r
            one, other = (measure.estimate(own, against, halves, seed=k) for own in (a, b))
            gap, width = abs(one.value - other.value), math.hypot(one.half, other.half)
            agree += bool(gap <= width or gap == 0)
            gaps.append(gap)
            widths.append(width)
        low, high = wilson(agree / count, count)
        out[name] = {
            "agree": agree / count, "low": low, "high": high,
            "mean difference": float(np.mean(gaps)), "mean width": float(np.mean(widths)),
        }  # fmt: skip
        print(
            f"  {name:28} {agree / count:.2f}  difference {np.mean(gaps):.3g}, interval {np.mean(widths):.3g}",
            flush=True,
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--halves", type=int, default=100)
    parser.add_argument("--judge", action="store_true", help="also the classifiers' measures")
    parser.add_argument("--only", nargs="*", default=list(DOMAINS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "honesty.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in args.only:
        print(name, flush=True)
        results[name] = splits(DOMAINS[name](), args.n, args.splits, args.halves, args.judge)
    facts = {"date": date.today().isoformat(), "n": args.n, "splits": args.splits, "halves": args.halves}
    args.out.write_text(json.dumps({**facts, "agreement": results}, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
