r"""Denoisers known in closed form: what a sampler is measured against.

For data x0 ~ sum_k w_k N(mu_k, C_k) and x = alpha x0 + sigma z, with S_k = alpha^2 C_k + sigma^2 I,

    r_k(x)    = softmax_k(log w_k + log N(x; alpha mu_k, S_k))
    E[x0 | x] = sum_k r_k (mu_k + alpha C_k S_k^-1 (x - alpha mu_k))
    log p(x)  = logsumexp_k(log w_k + log N(x; alpha mu_k, S_k))

Covariances are kept as eigenvectors and eigenvalues, so that everything is exact down to sigma = 0 and alpha = 0.
Times are floats or tensors [B].
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import GendiffError
from gendiff.processes import BrownianSO3, Gaussian
from gendiff.processes.schedules import Time
from gendiff.spaces import IGSO3, per_sample


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
        if not bool((self.variances >= 0).all() & self.variances.isfinite().all() & means.isfinite().all()):
            raise GendiffError(
                f"A mixture got means {means} and variances {variances}", "finite numbers, no variance < 0"
            )
        if not bool((self.weights >= 0).all()) or not math.isclose(float(self.weights.sum()), 1.0, abs_tol=1e-9):
            raise GendiffError(f"The weights sum to {float(self.weights.sum())}", "1")

    @property
    def process(self) -> Gaussian:
        return self._process

    def parts(self, x: Tensor, alpha: Time, sigma: Time) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N(x; ...) [B, K], the residual along the axes [B, K, D], and the marginal variances [(B,) K, D]."""
        s = alpha * alpha * self.variances + sigma * sigma
        y = torch.einsum("kde,bkd->bke", self.axes, x[:, None] - alpha * self.means)
        log = -0.5 * (y * y / s + torch.log(2 * math.pi * s)).sum(-1) + torch.log(self.weights)
        return log, y, s

    def levels(self, x: Tensor, t: Time) -> tuple[Time, Time]:
        """(alpha, sigma): numbers at a time for all samples, [B, 1, 1] at times [B]."""
        alpha, sigma = self._process.schedule(t)
        return per_sample(alpha, x[:, None]), per_sample(sigma, x[:, None])

    def __call__(self, x: Tensor, t: Time, **cond: Any) -> Tensor:
        """E[x0 | x_t = x] for x [B, D]."""
        return self.predict(x, *self.levels(x, t))

    def predict(self, x: Tensor, alpha: Time, sigma: Time) -> Tensor:
        """E[x0 | alpha x0 + sigma z = x] for x [B, D], on whatever schedule."""
        log, y, s = self.parts(x, alpha, sigma)
        each = self.means + torch.einsum("kde,bke->bkd", self.axes, alpha * self.variances / s * y)
        return (torch.softmax(log, dim=1)[..., None] * each).sum(1)

    def log_density(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """log p_t(x) in nats, [B]."""
        return torch.logsumexp(self.parts(x, *self.levels(x, t))[0], dim=1)

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


class RotationMixture:
    """The exact denoiser of a mixture of IGSO(3) on the rotations: data R_k g, g ~ IGSO3(width).

    Brownian noise adds variances, so x_t is such a mixture of deviation sqrt(width^2 + sigma^2); the prediction is the
    clean rotation whose score is the mixture's, found on its near side by bisection.

    Args:
        process: A `BrownianSO3` process.
        centers: [K, 3, 3].
        width: Deviation of the components, 0 for a set of rotations.
        weights: [K], summing to one; uniform by default.
    """

    def __init__(
        self, process: BrownianSO3, centers: Tensor, width: float = 0.0, weights: Tensor | None = None
    ) -> None:
        self._process = process
        self.centers = centers
        self.width = width
        self.weights = centers.new_full((len(centers),), 1 / len(centers)) if weights is None else weights

    @property
    def process(self) -> BrownianSO3:
        return self._process

    def parts(self, x: Tensor, sigma: Time) -> tuple[Tensor, Tensor]:
        """Log densities w_k f(x; R_k) [B, K] by the uniform measure, and the components' scores [B, K, 3]."""
        if isinstance(sigma, Tensor):
            total: Time = torch.hypot(sigma.new_tensor(self.width), sigma)
        else:
            total = math.hypot(self.width, sigma)
        v = self._process.on.log(x[:, None].expand(-1, len(self.centers), 3, 3), self.centers)
        angle = (v * v).sum(-1).clamp_min(1e-24).sqrt()
        total = per_sample(total, angle)
        log = IGSO3(total).log_density(angle) + torch.log(self.weights)
        return log, v * (self._process.gain(angle, total) / total**2)[..., None]

    def __call__(self, x: Tensor, t: Time, **cond: Any) -> Tensor:
        """The effective clean rotation at x [B, 3, 3]."""
        sigma = self._process.schedule(t)[1]
        log, scores = self.parts(x, sigma)
        score = (torch.softmax(log, 1)[..., None] * scores).sum(1) * per_sample(sigma**2, x[..., 0])
        size = (score * score).sum(-1).clamp_min(1e-24).sqrt()
        # gain(w) w rises up to its largest value; the score is never longer.
        grid = torch.linspace(0, math.pi, 257, dtype=torch.float64).expand(len(x), 257)
        top = (self._process.gain(grid, per_sample(sigma, grid)) * grid).argmax(1)
        goal, low, high = size.detach(), torch.zeros_like(size), grid[0][top]
        for _ in range(50):
            middle = (low + high) / 2
            below = self._process.gain(middle, sigma) * middle < goal
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        angle = (low + high) / 2
        # One Newton step, in which derivatives with respect to x survive.
        h = 1e-6 + 1e-4 * angle
        up, down = (self._process.gain(w, sigma) * w for w in (angle + h, angle - h))
        slope = (up - down) / (2 * h)
        angle = angle + (size - self._process.gain(angle, sigma) * angle) / slope
        return self._process.on.exp(x, score * (angle / size)[..., None])

    def log_density(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """log p_t(x) in nats by the metric's volume (8 pi^2 in all), [B]."""
        log, _ = self.parts(x, self._process.schedule(t)[1])
        return torch.logsumexp(log, 1) - math.log(8 * math.pi**2)
