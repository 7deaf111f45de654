r"""Rotations of R^3: exponential, logarithm, quaternions, uniform draws and the isotropic Gaussian IGSO(3).

A rotation vector v = w a (unit axis a, angle w) and its matrix, with K = hat(v):

    exp(v) = I + sin(w)/w K + 2 sin^2(w/2)/w^2 K^2
    log(R) = 2 atan2(|q|, q0) q/|q|        for the unit quaternion (q0, q) of R with q0 >= 0

Both are finite with their gradients at w = 0 (series behind a double `where`), and the logarithm goes through the
quaternion's largest component, so nothing is lost near w = pi. Tangents are rotation vectors in the body frame.

IGSO(3) with variance parameter s^2 has the density, with respect to the normalised Haar measure,

    f(w) = sum_l (2l+1) exp(-l(l+1) s^2/2) sin((l+1/2) w)/sin(w/2)                                  (series)
         = sqrt(2 pi) s^-3 exp(s^2/8)/sin(w/2) sum_k (-1)^k (w - 2 pi k) exp(-(w - 2 pi k)^2/(2 s^2))   (images)

(Nikolayev & Savyolova 1997; the images are its theta-function dual.) For small s the rotation vector is N(0, s^2 I).
The angle has density (1 - cos w)/pi f(w). The images converge for s < 1.5 with five terms, the series above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.random import Noise


def hat(v: Tensor) -> Tensor:
    """The skew matrix [..., 3, 3] with hat(v) u = v x u."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def exp_so3(v: Tensor) -> Tensor:
    """Rotation vectors [..., 3] (radian) to matrices [..., 3, 3]; smooth at 0."""
    w2 = (v * v).sum(-1)[..., None, None]
    small = w2 < 1e-6
    safe = torch.where(small, torch.ones_like(w2), w2)
    w = safe.sqrt()
    half = torch.sin(w / 2)
    a = torch.where(small, 1 - w2 / 6 + w2 * w2 / 120, torch.sin(w) / w)
    b = torch.where(small, 0.5 - w2 / 24 + w2 * w2 / 720, 2 * half * half / safe)
    k = hat(v)
    return torch.eye(3, dtype=v.dtype, device=v.device) + a * k + b * (k @ k)


def quaternion(rot: Tensor) -> Tensor:
    """Matrices [..., 3, 3] to unit quaternions [..., 4], real part first and not negative."""
    m = rot.flatten(-2).unbind(-1)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m
    one = torch.ones_like(m00)
    # Four columns of 4 q q^T; the one with the largest diagonal is well conditioned.
    table = torch.stack(
        [
            torch.stack([one + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, one + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, one - m00 + m11 - m22, m21 + m12], -1),
            torch.stack([m10 - m01, m02 + m20, m21 + m12, one - m00 - m11 + m22], -1),
        ],
        -2,
    )
    best = torch.diagonal(table, dim1=-2, dim2=-1).argmax(-1)
    q = torch.gather(table, -2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def from_quaternion(q: Tensor) -> Tensor:
    """Quaternions [..., 4], real part first, of any non-zero length, to matrices [..., 3, 3]."""
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def log_so3(rot: Tensor) -> Tensor:
    """Matrices [..., 3, 3] to rotation vectors [..., 3] with angle in [0, pi]; smooth at 0, accurate up to pi."""
    q = quaternion(rot)
    w, v = q[..., :1], q[..., 1:]
    n2 = (v * v).sum(-1, keepdim=True)
    small = n2 < 1e-8
    n = torch.where(small, torch.ones_like(n2), n2).sqrt()
    safe = torch.where(small, w, torch.ones_like(w))
    return torch.where(small, 2 / safe * (1 - n2 / (3 * safe * safe)), 2 * torch.atan2(n, w) / n) * v


def orthonormal(rot: Tensor) -> Tensor:
    """The proper rotation nearest to each matrix [..., 3, 3] that already is one up to rounding.

    One Newton step of the polar decomposition, R (3 I - R^T R) / 2, which squares the error.
    """
    return 1.5 * rot - 0.5 * rot @ (rot.mT @ rot)


def uniform(shape: tuple[int, ...], noise: Noise, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rotations [*shape, 3, 3] uniform under the Haar measure: normalised Gaussian quaternions (shape[0] = B)."""
    return from_quaternion(noise.normal((*shape, 4), dtype))


def images(w: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The second sum at the top: log scale, sum and derivative in w, float64."""
    w, s = w[..., None], s[..., None]
    k = torch.arange(-3, 4, dtype=torch.float64, device=w.device)
    sign = 1 - 2 * (k.long() % 2).double()
    u = w - 2 * math.pi * k
    # Factor out the k = 0 exponential: nothing under- or overflows.
    e = sign * torch.exp((w * w - u * u) / (2 * s * s))
    scale = 0.5 * math.log(2 * math.pi) - 3 * torch.log(s) + s * s / 8 - w * w / (2 * s * s)
    return scale[..., 0], (e * u).sum(-1), (e * (1 - u * u / (s * s))).sum(-1)


def series(w: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first sum at the top, likewise; its scale is 1."""
    order = torch.arange(0, 12, dtype=torch.float64, device=w.device)
    e = (2 * order + 1) * torch.exp(-order * (order + 1) * s[..., None] ** 2 / 2)
    half = (order + 0.5) * w[..., None]
    return torch.zeros_like(w), (e * torch.sin(half)).sum(-1), (e * (order + 0.5) * torch.cos(half)).sum(-1)


@dataclass(frozen=True)
class IGSO3:
    """The isotropic Gaussian on SO(3) with standard deviation parameter `sigma` (see the top of the file).

    Leach et al. (2022), "Denoising diffusion probabilistic models on SO(3)", call sigma^2/2 our exponent's factor.
    """

    sigma: float | Tensor  # a tensor broadcasts to the angles

    def _terms(self, omega: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log |scale|, the sum and its derivative in omega, so that f = exp(scale) sum / sin(omega/2)."""
        w = omega.double()
        s = torch.as_tensor(self.sigma, dtype=torch.float64, device=w.device)
        if not isinstance(self.sigma, Tensor):
            return images(w, s) if self.sigma < 1.5 else series(w, s)
        near, far = images(w, s.clamp_max(1.5)), series(w, s.clamp_min(1.5))
        a, b, c = (torch.where(s < 1.5, x, y) for x, y in zip(near, far, strict=True))
        return a, b, c

    def log_density(self, omega: Tensor) -> Tensor:
        """log f at rotation angles in [0, pi], float64, with respect to the normalised Haar measure."""
        omega = omega.double().clamp_min(1e-7)
        scale, total, _ = self._terms(omega)
        return scale + torch.log(total) - torch.log(torch.sin(omega / 2))

    def score(self, omega: Tensor) -> Tensor:
        """d/d omega log f, float64: the length of the score, along the rotation axis."""
        # Below `least` both terms grow like 1/omega and cancel; there the score is linear.
        least = 2e-4 * torch.as_tensor(self.sigma, dtype=torch.float64, device=omega.device).clamp_max(1.0)
        w = torch.maximum(omega.double(), least)
        _, total, slope = self._terms(w)
        return (slope / total - 0.5 / torch.tan(w / 2)) * (omega.double() / w)

    def angle_density(self, omega: Tensor) -> Tensor:
        """The density of the angle on [0, pi]: (1 - cos omega)/pi f(omega)."""
        return 2 * torch.sin(omega.double() / 2) ** 2 / math.pi * torch.exp(self.log_density(omega))

    def angle_cdf(self, omega: Tensor) -> Tensor:
        """P(angle <= omega) for one sigma, by Gauss-Legendre quadrature of the density with 64 nodes."""
        import numpy as np

        x, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(64))
        omega = omega.double()
        sigma = float(self.sigma)
        top = omega.clamp(max=max(14 * sigma, 1e-6)) if sigma < 0.2 else omega
        nodes = top[..., None] * (x + 1) / 2
        return (self.angle_density(nodes) * weight).sum(-1) * top / 2

    def sample(self, shape: tuple[int, ...], noise: Noise, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rotations [*shape, 3, 3] (shape[0] = B) by a table of the angle's inverse CDF; sigma a number or [B]."""
        device, panels = noise.index.device, 512 if isinstance(self.sigma, Tensor) else 2048
        sigma = torch.as_tensor(self.sigma, dtype=torch.float64, device=device).reshape(-1, 1)
        top = (10 * sigma).clamp_max(math.pi)
        grid = top * torch.linspace(0, 1, panels + 1, dtype=torch.float64, device=device)
        each = IGSO3(sigma if isinstance(self.sigma, Tensor) else self.sigma)
        density = each.angle_density(grid)
        density[:, 0] = 0
        # Simpson's rule on each panel.
        middle = each.angle_density((grid[:, 1:] + grid[:, :-1]) / 2)
        mass = (density[:, 1:] + 4 * middle + density[:, :-1]) * (top / panels / 6)
        cdf = torch.nn.functional.pad(mass.cumsum(1), (1, 0))
        cdf = cdf / cdf[:, -1:]
        u = noise.fork("angle").uniform(shape).reshape(len(sigma), -1)
        right = torch.searchsorted(cdf, u).clamp(1, panels)
        c0, c1 = cdf.gather(1, right - 1), cdf.gather(1, right)
        w0, w1 = grid.gather(1, right - 1), grid.gather(1, right)
        omega = (w0 + (w1 - w0) * ((u - c0) / (c1 - c0).clamp_min(1e-300)).clamp(0, 1)).reshape(shape)
        axis = noise.fork("axis").normal((*shape, 3), torch.float64)
        axis = axis / axis.norm(dim=-1, keepdim=True)
        return exp_so3(axis * omega[..., None]).to(dtype)
