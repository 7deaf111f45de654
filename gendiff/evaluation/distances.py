r"""Distances between two sets of vectors, free of any domain.

Fréchet   |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))                              of Gaussian fits
energy    2 E|x - y| - E|x - x'| - E|y - y'|                                     (Székely & Rizzo 2013)
KID       MMD^2 with the kernel (x.y/d + 1)^3, unbiased                          (Binkowski et al. 2018)
W1        integral of |F^-1 - G^-1|                                              in one dimension
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gendiff.errors import DataError

Vectors = NDArray[np.float64]


def vectors(x: ArrayLike) -> Vectors:
    """Float64 [n, d]; raises DataError if a number is not finite."""
    out = np.asarray(x, dtype=np.float64)
    out = out.reshape(len(out), -1)
    if not np.isfinite(out).all():
        raise DataError("A metric got values that are not finite", "finite feature vectors [n, d]")
    return out


def pair(x: ArrayLike, y: ArrayLike, least: int = 2) -> tuple[Vectors, Vectors]:
    """Two sets of vectors as float64 [n, d] and [m, d].

    Raises:
        DataError: For fewer than `least` vectors in either, another d, or numbers that are not finite.
    """
    if min(len(np.atleast_1d(x)), len(np.atleast_1d(y))) < least:
        sizes = " and ".join(str(len(np.atleast_1d(one))) for one in (x, y))
        raise DataError(f"A metric got sets of {sizes} vectors", f"at least {least} in each")
    a, b = vectors(x), vectors(y)
    if a.shape[1] != b.shape[1]:
        raise DataError(
            f"A metric got vectors of {a.shape[1]} and of {b.shape[1]} numbers", "the same features of both"
        )
    return a, b


def frechet(x: ArrayLike, y: ArrayLike) -> float:
    """Fréchet distance of Gaussians fitted to x [n, d] and y [m, d]; FID on the right features."""
    a, b = pair(x, y)
    ca, cb = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    # tr (Ca Cb)^(1/2) from the symmetric root of Ca, whose eigenvalues are real and not negative.
    values, basis = np.linalg.eigh(ca)
    root = basis * np.sqrt(np.clip(values, 0, None)) @ basis.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cb @ root), 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


def pairwise(a: Vectors, b: Vectors) -> Vectors:
    """Euclidean distances [n, m] by differences, in chunks."""
    return np.concatenate(
        [np.sqrt(((row[:, None] - b[None]) ** 2).sum(-1)) for row in np.array_split(a, max(1, len(a) // 64))]
    )


def energy(x: ArrayLike, y: ArrayLike) -> float:
    """Energy distance of x [n, d] and y [m, d], unbiased."""
    a, b = pair(x, y)
    n, m = len(a), len(b)
    within = pairwise(a, a).sum() / (n * (n - 1)) + pairwise(b, b).sum() / (m * (m - 1))
    return float(2 * pairwise(a, b).mean() - within)


def kid(x: ArrayLike, y: ArrayLike) -> float:
    """Kernel distance with the cubic polynomial kernel, unbiased."""
    a, b = pair(x, y)
    n, m, d = len(a), len(b), a.shape[1]

    def kernel(u: Vectors, v: Vectors) -> Vectors:
        return (u @ v.T / d + 1) ** 3

    kaa, kbb = kernel(a, a), kernel(b, b)
    within = (kaa.sum() - np.trace(kaa)) / (n * (n - 1)) + (kbb.sum() - np.trace(kbb)) / (m * (m - 1))
    return float(within - 2 * kernel(a, b).mean())


def wasserstein1(x: ArrayLike, y: ArrayLike) -> float:
    """W1 between two samples of numbers."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(vectors(x).ravel(), vectors(y).ravel()))


def nearest_distances(x: ArrayLike, y: ArrayLike) -> Vectors:
    """The distance of each x [n, d] to its nearest y [m, d]: how close samples come to copying."""
    return pairwise(*pair(x, y, 1)).min(1)
