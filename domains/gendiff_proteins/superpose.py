"""Superposition and TM-score for a fixed correspondence, batched and differentiable; TM-align for diversity.

Kabsch: with centred x, y and X^T Y = U S V^T the proper rotation from x to y is R = V diag(1, 1, det(V U^T)) U^T;
without the determinant mirror images would fit. TM-score (Zhang and Skolnick 2004), d0 = 1.24 (L - 15)^(1/3) - 1.8,

    TM = max over R, c of 1/L sum_i 1 / (1 + |R x_i + c - y_i|^2 / d0^2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import MissingExtra
from gendiff.evaluation import Measure

from .structure import Structure


def kabsch(x: Tensor, y: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The proper rotation R `[..., 3, 3]` and shift c `[..., 3]` with R x + c nearest to y, in weighted least squares.

    Args:
        x: points `[..., N, 3]`.
        y: points `[..., N, 3]`.
        weight: `[..., N]`, not negative; a mask will do.
    """
    w = torch.ones_like(x[..., 0]) if weight is None else weight.to(x.dtype)
    w = (w / w.sum(-1, keepdim=True).clamp_min(1e-12))[..., None]
    cx, cy = (w * x).sum(-2, keepdim=True), (w * y).sum(-2, keepdim=True)
    u, _, vt = torch.linalg.svd((w * (x - cx)).mT @ (y - cy))
    sign = torch.ones_like(cx[..., 0, :])
    sign = torch.cat([sign[..., :2], torch.linalg.det(u @ vt).sign()[..., None]], -1)
    rotation = vt.mT @ (sign[..., None] * u.mT)
    return rotation, (cy - cx @ rotation.mT).squeeze(-2)


def rmsd(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean square deviation `[...]` after superposition, in the unit of x `[..., N, 3]`."""
    rotation, shift = kabsch(x, y, mask)
    error = (x @ rotation.mT + shift[..., None, :] - y).square().sum(-1)
    w = torch.ones_like(error) if mask is None else mask.to(error.dtype)
    return ((error * w).sum(-1) / w.sum(-1)).clamp_min(1e-12).sqrt()


def tm_scale(length: int) -> float:
    """d0 in angstrom; 0.5 for short chains, as TM-align has it."""
    return max(1.24 * max(length - 15, 0) ** (1 / 3) - 1.8, 0.5)


def tm_score(x: Tensor, y: Tensor, *, rounds: int = 20) -> Tensor:
    """TM-score `[...]` of x against y `[..., N, 3]`, angstrom, residue i to residue i.

    Started from the superposition of the whole and of every third, refined by reweighted superposition with
    w = 1 / (1 + d^2 / d0^2)^2, whose fixed points are the maxima; differentiable through the last one.
    """
    size = x.shape[-2]
    d0 = tm_scale(size)
    starts = [torch.ones_like(x[..., 0])]
    width = max(size // 3, 4)
    for first in range(0, max(size - width, 0) + 1, max(width // 2, 1)):
        window = torch.zeros_like(x[..., 0])
        window[..., first : first + width] = 1
        starts.append(window)
    best = None
    for w in starts:
        distance2 = x[..., 0]
        for _ in range(rounds):
            rotation, shift = kabsch(x, y, w.detach())
            distance2 = (x @ rotation.mT + shift[..., None, :] - y).square().sum(-1)
            w = 1 / (1 + distance2 / d0**2) ** 2
        score = (1 / (1 + distance2 / d0**2)).mean(-1)
        best = score if best is None else torch.maximum(best, score)
    assert best is not None
    return best


def tm_align(a: Structure, b: Structure) -> float:
    """TM-score of the best alignment (TM-align), the mean of both normalisations. Needs tmtools."""
    try:
        from tmtools import tm_align as align
    except ImportError:
        raise MissingExtra("TM-align", "tmtools", "proteins") from None
    found = align(np.ascontiguousarray(a.ca), np.ascontiguousarray(b.ca), a.sequence, b.sequence)
    return float(found.tm_norm_chain1 + found.tm_norm_chain2) / 2


def linked(samples: Sequence[Structure], other: object = (), *, most: int = 120) -> list[tuple[int, dict[int, float]]]:
    """Of each structure its number, and the TM-scores (TM-align) with some of those before it, by their numbers.

    Up to `most` pairs in all, drawn with a fixed seed.
    """
    pairs = [(i, j) for i in range(len(samples)) for j in range(i)]
    rows: list[tuple[int, dict[int, float]]] = [(i, {}) for i in range(len(samples))]
    for k in np.random.default_rng(0).permutation(len(pairs))[:most]:
        i, j = pairs[k]
        rows[i][1][j] = tm_align(samples[i], samples[j])
    return rows


def mean_link(rows: Sequence[tuple[int, dict[int, float]]], other: object = ()) -> float:
    """The mean of the scores of pairs that are both there."""
    there = {i for i, _ in rows}
    scores = [score for _, links in rows for j, score in links.items() if j in there]
    return float(np.mean(scores)) if scores else float("nan")


diversity = Measure(
    "pairwise_tm", mean_link,
    rows=linked, against="nothing", least=2,
    about="Mean pairwise TM-score (TM-align) of up to 120 pairs drawn with a fixed seed; lower is more diverse.",
)  # fmt: skip
