"""Distances between two sets of pictures, without a trained network.

    energy     2 E|a - b| - E|a - a'| - E|b - b'|  on pixels pooled to at most 8 x 8: zero for equal laws, unbiased
    texture    Frechet distance |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) between features of a fixed random network
    copies     share of samples whose nearest reference is nearer than a third of the second nearest (Yoon et al. 2023)
    novelty    median over samples of |s - r| / |r - r'|, r nearest to s, r' to r: 1 for fresh data, 0 for copies

Sets are lists of pictures [C, H, W] in [0, 1]. Sums run in float64, the neighbour search in float32
on differences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gendiff.errors import RequestError
from gendiff.evaluation import Measure, measures
from gendiff.evaluation import distances as metrics


def stack(pictures: Sequence[Tensor], *, least: int = 1) -> Tensor:
    """A list of pictures to one tensor [N, C, H, W].

    Raises:
        RequestError: fewer than `least` pictures, or unequal shapes.
    """
    if len(pictures) < least:
        raise RequestError(f"{len(pictures)} pictures", f"at least {least}")
    shapes = sorted({tuple(p.shape) for p in pictures})
    if len(shapes) > 1:
        raise RequestError(f"pictures of shapes {shapes}", "pictures of one shape")
    return torch.stack([p.to(torch.float32) for p in pictures])


def pooled(pictures: Sequence[Tensor]) -> list[np.ndarray]:
    """Pixels pooled to at most 8 x 8, a vector for each picture."""
    x = stack(pictures).double()
    return list(F.adaptive_avg_pool2d(x, min(8, *x.shape[2:])).flatten(1).numpy())


def energy_of(a: np.ndarray, b: np.ndarray) -> float:
    """Energy distance of vectors; of more than 2,000 the first 2,000 count."""
    return metrics.energy(a[:2000], b[:2000])


def random_features(pictures: Tensor, *, width: int = 32, seed: int = 0) -> Tensor:
    """Features [N, 2 width] of a fixed random two-layer convolutional network: mean and spread of each channel.

    Weights come from a seeded generator of ours, so numbers agree between machines.
    """
    rng = np.random.default_rng(seed)
    h = pictures.double() * 2 - 1
    for outputs in (width // 2, width):
        inputs = h.shape[1]
        w = torch.from_numpy(rng.standard_normal((outputs, inputs, 3, 3)) / np.sqrt(9 * inputs))
        h = torch.tanh(2 * F.conv2d(h, w, padding=1))
        h = F.avg_pool2d(h, 2) if min(h.shape[2:]) >= 4 else h
    return torch.cat((h.mean((2, 3)), h.std((2, 3), correction=0)), dim=1)


def textured(pictures: Sequence[Tensor]) -> list[np.ndarray]:
    """`random_features` of each picture."""
    return list(torch.cat([random_features(part) for part in stack(pictures).split(64)]).numpy())


def _neighbours(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Distances from each of a [N, D] to up to eight of b [M, D], nearest first, and which they are: [N, K] each."""
    # |a - b|^2 = |a|^2 - 2 a.b + |b|^2 loses digits: it names candidates, differences decide between them
    near = torch.cat(
        [(b.square().sum(1) - 2 * part @ b.T).topk(min(8, len(b)), largest=False)[1] for part in a.split(512)]
    )
    true = torch.stack([(a - b[near[:, k]]).norm(dim=1) for k in range(near.shape[1])], dim=1)
    order = true.argsort(dim=1)
    return true.gather(1, order), near.gather(1, order)


def copied(samples: Sequence[Tensor], reference: Sequence[Tensor]) -> list[bool]:
    """Whether each sample is a copy of one reference picture."""
    gap, _ = _neighbours(stack(samples).flatten(1), stack(reference, least=2).flatten(1))
    return (gap[:, 0] < gap[:, 1] / 3).tolist()


def distances_to(samples: Sequence[Tensor], reference: Sequence[Tensor]) -> list[float]:
    """Of each sample the distance to the nearest reference, in units of the distance between references there."""
    b = stack(reference, least=2).flatten(1)
    gap, index = _neighbours(stack(samples).flatten(1), b)
    there = index[:, 0]
    others, who = _neighbours(b[there], b)
    own = others.masked_fill(who == there[:, None], torch.inf).min(1).values
    return (gap[:, 0] / own.clamp_min(1e-12)).tolist()


def median(own: Sequence[float], other: Sequence[float] = ()) -> float:
    """The middle of numbers, the lower one of two."""
    return float(torch.tensor(own).median())


energy = measures.between(
    "energy", pooled, energy_of, within=(-np.inf, np.inf),
    about="Energy distance of pictures pooled to 8 x 8, unbiased, may be slightly negative. Sees layout, no detail.",
)  # fmt: skip
texture = measures.between(
    "texture", textured, metrics.frechet, least=65,
    about="Frechet distance between random convolutional features; grows with blur, noise and a wrong palette.",
)  # fmt: skip
novelty = Measure(
    "novelty", median, rows=distances_to, against="training", least=2,
    about="Distance to the nearest training picture over the distance between training pictures there, median.",
)  # fmt: skip
copies = Measure(
    "copies", measures.finite_mean, rows=copied, against="training", better="lower", least=2, counts=True,
    about="Share of samples three times nearer to one training picture than to any other.",
)  # fmt: skip
MEASURES = (energy, texture, novelty, copies)
