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


def energy(samples: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Energy distance on pooled pixels (Szekely & Rizzo 2013), the unbiased U-statistic; may be slightly negative.

    Of more than 2,000 pictures the first 2,000 count.
    """
    a, b = stack(samples, least=2), stack(reference, least=2)
    side = min(8, *a.shape[2:])
    pooled = (F.adaptive_avg_pool2d(v.double(), side).flatten(1)[:2000].numpy() for v in (a, b))
    return metrics.energy(*pooled)


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


def texture(samples: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Frechet distance between random convolutional features; grows with blur, noise and a wrong palette."""
    a, b = (torch.cat([random_features(part) for part in stack(v, least=2).split(256)]) for v in (samples, reference))
    return metrics.frechet(a.numpy(), b.numpy())


def _neighbours(samples: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Distances to the two nearest references [N, 2], the nearest one's index [N], and the references [M, D]."""
    a, b = stack(samples).flatten(1), stack(reference, least=2).flatten(1)
    # |a - b|^2 = |a|^2 - 2 a.b + |b|^2 loses digits: it names eight candidates, differences decide between them
    near = torch.cat(
        [(b.square().sum(1) - 2 * part @ b.T).topk(min(8, len(b)), largest=False)[1] for part in a.split(512)]
    )
    true = torch.stack([(a - b[near[:, k]]).norm(dim=1) for k in range(near.shape[1])], dim=1)
    order = true.argsort(dim=1)[:, :2]
    return true.gather(1, order), near.gather(1, order[:, :1])[:, 0], b


def copies(samples: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Share of samples that are copies of one reference picture; `reference` should be the training set."""
    gap, _, _ = _neighbours(samples, reference)
    return float((gap[:, 0] < gap[:, 1] / 3).double().mean())


def novelty(samples: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Distance to the nearest reference in units of the distance between references there (median)."""
    gap, index, b = _neighbours(samples, reference)
    own = torch.stack([torch.cat(((b[:i] - b[i]), (b[i + 1 :] - b[i]))).norm(dim=1).min() for i in index.tolist()])
    return float((gap[:, 0] / own.clamp_min(1e-12)).median())
