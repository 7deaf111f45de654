"""Edges asked of the shipped model of clothes by a side branch (`Control`): does it follow them, and draw clothes?

    python benchmarks/edges.py --minutes 10 --judge runs/judge.safetensors --sheet edges.png

Edges are the Sobel magnitude of a picture, sqrt(gx^2 + gy^2) / 2, one number a pixel. The base is frozen; the branch
trains on pictures of the training set with their own edges. Asked are edges and classes of test pictures. `agreement`
is Pearson's correlation of asked edges with those of the sample, its mean over samples: 1 for the picture itself.
Beside it the base, by the same classes and seeds and told no edges; real pictures of the same class; and samples
beside the edges of others of their class. Classes are told by the judge of benchmarks/adapt.py. Numbers go to
benchmarks/results/edges.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import gendiff
from gendiff import Control, Examples
from gendiff.conditions import Field
from gendiff.evaluation import Estimate, measures, wilson
from gendiff_images import Fashion, Images
from gendiff_images.judge import Judge
from gendiff_images.sources import Look, Pictures
from gendiff_recipes import images
from gendiff_recipes.recipe import Optimizer

try:
    from benchmarks.adapt import taught
    from benchmarks.adapting import adapted, arguments, written
except ModuleNotFoundError:  # run as a file
    from adapt import taught  # type: ignore[import-not-found,no-redef]
    from adapting import adapted, arguments, written  # type: ignore[import-not-found,no-redef]


def edges_of(pictures: Tensor) -> Tensor:
    """Sobel magnitudes [n, H, W, 1] of pictures [n, 1, H, W] in [0, 1]."""
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 2
    both = F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None])
    return both.square().sum(1).sqrt()[..., None]


@dataclass(frozen=True)
class Edged(Fashion):
    """Fashion-MNIST with the edges of each picture.

    Args:
        count: Of the pictures of a split, the first so many.
    """

    count: int = 20_000

    def look(self, root: Path | None = None) -> Look:
        return replace(super().look(root), asked={"edges": Field(1)})

    def load(self, split: str, root: Path | None = None) -> Examples:
        items = super().load(split, root).items
        assert isinstance(items, Pictures)
        values = np.asarray(items.values[: self.count])
        found = torch.cat([edges_of(torch.from_numpy(v)[:, None] / 255) for v in np.array_split(values, 40)])
        cond = [{**c, "edges": e} for c, e in zip(items.cond[: self.count], found, strict=True)]
        return Examples(Pictures(values, cond, items.names[: self.count]))


def correlation(pair: tuple[Tensor, Tensor]) -> float:
    """Pearson's, of two maps."""
    a, b = (one.flatten().double() - one.double().mean() for one in pair)
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12))


AGREEMENT = measures.mean("agreement", correlation)


def agreement(asked: Sequence[Tensor], pictures: Sequence[Tensor]) -> dict[str, float]:
    """Its mean over samples, with the interval."""
    pairs = list(zip(asked, edges_of(torch.stack(list(pictures))), strict=True))
    found: Estimate = AGREEMENT.estimate(AGREEMENT.features(pairs), ())
    return {name: round(getattr(found, name), 4) for name in ("value", "low", "high", "n")}


def main() -> None:
    parser = arguments(__doc__, "edges", "images_fashion", minutes=10.0, rate=1e-3)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--judge", type=Path, help="a file where the judge is kept")
    parser.add_argument("--judge-steps", type=int, default=500)
    parser.add_argument("--sheet", type=Path, help="a picture to look at: what the edges are of, samples, the base's")
    args = parser.parse_args()
    torch.set_num_threads(1)

    recipe = replace(
        images.fashion(), name="images.edged", domain=Images.of(Edged()), adapter=Control("edges"),
        optimizer=Optimizer(lr=args.rate, warmup=20, decay=0.5), ema=0.99,
    )  # fmt: skip
    model, facts = adapted(recipe, args, "trainer.batch=64")

    test = model.domain.dataset("test")
    rng = np.random.default_rng(0)
    picked = [test[int(i)] for i in rng.permutation(len(test))[: 2 * args.n]]
    own, others = picked[: args.n], picked[args.n :]
    labels = [int(e.cond["label"]) for e in own]
    asked = [e.cond["edges"] for e in own]
    samples = model.sample(args.n, label=labels, edges=asked, seed=1)
    plain = gendiff.load(args.base).sample(args.n, label=labels, seed=1)
    place = {k: [i for i, label in enumerate(labels) if label == k] for k in set(labels)}
    turned = {i: rows[(j + 1) % len(rows)] for rows in place.values() for j, i in enumerate(rows)}
    beside = [next((e for e in others if int(e.cond["label"]) == k), others[0]).artifact for k in labels]

    judge = Judge.load(args.judge) if args.judge is not None and args.judge.is_file() else taught(args.judge_steps)
    if args.judge is not None and not args.judge.is_file():
        judge.save(args.judge)

    def told(pictures: Sequence[Tensor]) -> dict[str, float]:
        share = judge.accuracy(pictures, labels)
        low, high = wilson(share, len(labels))
        return {"share": round(share, 4), "low": round(low, 4), "high": round(high, 4), "n": len(labels)}

    other = [asked[turned[i]] for i in range(args.n)]
    result = {
        "agreement": {
            "told the edges": agreement(asked, samples),
            "the base, not told": agreement(asked, plain),
            "told, beside the edges of others of its class": agreement(other, samples),
            "real pictures of its class": agreement(asked, beside),
        },
        "class": {"told the edges": told(samples), "the base": told(plain), "real": told([e.artifact for e in own])},
        "judge_held_out": judge.held_out, "training": facts,
    }  # fmt: skip
    assert all(math.isfinite(one["value"]) for one in result["agreement"].values())
    written(result, args)
    if args.sheet is not None:
        rows = [[e.artifact for e in own[:16]], samples[:16], plain[:16]]
        model.domain.plot([picture for row in rows for picture in row], args.sheet)


if __name__ == "__main__":
    main()
