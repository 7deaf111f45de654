r"""Denoisers known in closed form: what a sampler is measured against.

For data x0 ~ sum_k w_k N(mu_k, C_k) and x = alpha x0 + sigma z, with S_k = alpha^2 C_k + sigma^2 I,

    r_k(x)    = softmax_k(log w_k + log N(x; alpha mu_k, S_k))
    E[x0 | x] = sum_k r_k (mu_k + alpha C_k S_k^-1 (x - alpha mu_k))
    log p(x)  = logsumexp_k(log w_k + log N(x; alpha mu_k, S_k))

Covariances are kept as eigenvectors and eigenvalues, so that everything is exact down to sigma = 0 and alpha = 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import GendiffError
from gendiff.processes import Gaussian


class Mixture:
    """The exact denoiser of a mixture of Gaussians on R^D.

    Args:
        process: A `Gaussian` process on Euclidean space.
        means: [K, D].
        variances: Eigenvalues of the covariances, [K, D], or what broadcasts to it.
        weights: [K], summing to one; uniform by default.
        axes: Eigenvectors as columns, [K, D, D]; the identity by default.
    """

    def __init__(
        self,
        process: Gaussian,
        means: Tensor,
        variances: Any,
        weights: Tensor | None = None,
        axes: Tensor | None = None,
    ) -> None:
        k, d = means.shape
        self._process = process
        self.means = means
        self.variances = torch.as_tensor(variances, dtype=means.dtype).expand(k, d)
        self.weights = means.new_full((k,), 1 / k) if weights is None else weights
        self.axes = torch.eye(d, dtype=means.dtype).expand(k, d, d) if axes is None else axes
        if not math.isclose(float(self.weights.sum()), 1.0, abs_tol=1e-9):
            raise GendiffError(f"The weights sum to {float(self.weights.sum())}", "1")

    @property
    def process(self) -> Gaussian:
        return self._process

    def parts(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N(x; ...) [B, K], the residual along the axes [B, K, D], and the marginal variances [K, D]."""
        s = alpha * alpha * self.variances + sigma * sigma
        y = torch.einsum("kde,bkd->bke", self.axes, x[:, None] - alpha * self.means)
        log = -0.5 * (y * y / s + torch.log(2 * math.pi * s)).sum(-1) + torch.log(self.weights)
        return log, y, s

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        """E[x0 | x_t = x] for x [B, D]."""
        alpha, sigma = self._process.schedule(t)
        log, y, s = self.parts(x, alpha, sigma)
        each = self.means + torch.einsum("kde,bke->bkd", self.axes, alpha * self.variances / s * y)
        return (torch.softmax(log, dim=1)[..., None] * each).sum(1)

    def log_density(self, x: Tensor, t: float = 0.0) -> Tensor:
        """log p_t(x) in nats, [B]."""
        return torch.logsumexp(self.parts(x, *self._process.schedule(t))[0], dim=1)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        """n exact samples of the data, [n, D]."""
        generator = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + torch.einsum("bde,be->bd", self.axes[k], self.variances[k].sqrt() * z)


class Normal(Mixture):
    """The exact denoiser of one Gaussian N(mean, covariance)."""

    def __init__(self, process: Gaussian, mean: Tensor, covariance: Tensor) -> None:
        values, axes = torch.linalg.eigh(covariance)
        super().__init__(process, mean[None], values[None].clamp_min(0), None, axes[None])
