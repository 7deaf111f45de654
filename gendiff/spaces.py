r"""Where a state lives, and how to move there.

A space knows, at points x and y and a tangent v at x (in the space's own coordinates),

    exp(x, v)     follow the geodesic that leaves x with velocity v for unit time
    log(x, y)     the tangent at x that leads to y:  exp(x, log(x, y)) = y
    random(like)  the reference noise: N(0, I) on flat spaces, the uniform measure on compact ones

and from these all that samplers, losses and guidance need:

    lerp(x, y, w)     = exp(x, w log(x, y))
    mix(points, w)    = exp(p, sum_j w_j log(p, p_j)),  p = points[0], the newest; sum_j w_j = 1
    dist2(x, y)       = sum over real sites of |log(x, y)|^2, one number per sample

A state is a tensor [B, *sites, *point] or a dict of such tensors (a bundle). `masked(mask)` gives the space of one
padded batch: mask [B, *sites] is True where a site is real. Noise, distances and centres then see real sites only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from gendiff import rotations
from gendiff.errors import GendiffError
from gendiff.random import Noise

State: TypeAlias = Any
"""A tensor [B, ...] or a dict of name to tensor [B, ...]."""
Weight: TypeAlias = "float | Tensor | Mapping[str, Any]"
"""A number for all samples, a tensor [B], or a dict of these by part."""


def map_state(f: Callable[..., Any], x: State, *others: State) -> State:
    """f on a tensor, or on every part of a bundle."""
    if isinstance(x, Mapping):
        return {name: f(part, *(other[name] for other in others)) for name, part in x.items()}
    return f(x, *others)


def tensors(x: State) -> list[Tensor]:
    """The tensors of a state, in order."""
    return list(x.values()) if isinstance(x, Mapping) else [x]


def leaves(value: Any) -> list[Any]:
    """The values of a nested dict, in order; of anything else itself."""
    return [leaf for part in value.values() for leaf in leaves(part)] if isinstance(value, Mapping) else [value]


def inner(u: State, v: State) -> Tensor:
    """<u, v> of each sample, over all its numbers: [B]."""
    each = [(a * b)[..., None].flatten(1).sum(1) for a, b in zip(tensors(u), tensors(v), strict=True)]
    return each[0] if len(each) == 1 else torch.stack(each).sum(0)


def along(w: float | Tensor, x: Tensor) -> float | Tensor:
    """A number per sample, ready to multiply x [B, ...]; floats pass."""
    if not isinstance(w, Tensor) or w.ndim == 0:
        return w
    return w.to(device=x.device, dtype=x.dtype, non_blocking=True).reshape(-1, *(1,) * (x.ndim - 1))


def over(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask [B, *sites] broadcast over the components of x [B, *sites, ...]."""
    return None if mask is None else mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


@dataclass(frozen=True)
class Space(ABC):
    """The interface; see the top of the file.

    Attributes:
        mask: None, or bool [B, *sites]: the real sites of one padded batch.
        flat: Whether exp is addition, so that mixes are linear.
    """

    mask: Tensor | None = None
    flat: ClassVar[bool] = False

    @abstractmethod
    def exp(self, x: State, v: State) -> State:
        """The end of the unit-time geodesic from x with tangent v."""

    @abstractmethod
    def log(self, x: State, y: State) -> State:
        """The tangent at x that leads to y."""

    @abstractmethod
    def random(self, like: State, noise: Noise) -> State:
        """Reference noise of the shape, dtype and device of `like`."""

    @abstractmethod
    def project(self, x: State) -> State:
        """The point of the space nearest to x (removes rounding; centres; normalises)."""

    @abstractmethod
    def tangent(self, x: State, v: State) -> State:
        """The tangent at x nearest to an arbitrary array of tangent shape: what a network emits."""

    @abstractmethod
    def dim(self, like: State) -> Tensor:
        """Degrees of freedom per sample, float64 [B]."""

    @abstractmethod
    def log_random(self, x: State) -> Tensor:
        """The log density [B] of `random` at x, by the space's own volume: Lebesgue's, or the metric's."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def masked(self, mask: Any) -> Space:
        """The space of one padded batch; None gives the unpadded one."""
        return self if mask is None and self.mask is None else replace(self, mask=mask)

    def scale(self, v: State, w: Weight) -> State:
        """The tangent w v, w a number, [B], or by part."""
        return v * along(w, v)  # type: ignore[arg-type]

    def lerp(self, x: State, y: State, w: Weight) -> State:
        """The point a share w along the geodesic from x to y; w outside [0, 1] extrapolates."""
        return self.exp(x, self.scale(self.log(x, y), w))

    def mix(self, points: Sequence[State], weights: Sequence[float]) -> State:
        """The affine mix of points with weights that sum to one, taken at the first point."""
        moves = [(w, p) for w, p in zip(weights[1:], points[1:], strict=False) if w != 0]
        if not moves:
            return points[0]
        base = points[0]
        if self.flat:
            y = base * weights[0]
            for w, p in moves:
                y = torch.add(y, p, alpha=w)
            return y
        v = self.scale(self.log(base, moves[0][1]), moves[0][0])
        for w, p in moves[1:]:
            v = map_state(torch.add, v, self.scale(self.log(base, p), w))
        return self.exp(base, v)

    def carry(self, x: State, y: State, v: State) -> State:
        """A tangent at y as one at x, in the normal chart there: the derivative of log_x at y along v."""
        if self.flat:
            return v
        with torch.enable_grad():  # J v = d/du <J^T u, v>, by reverse mode alone
            w, u = (torch.zeros_like(v, requires_grad=True) for _ in range(2))
            (back,) = torch.autograd.grad(self.log(x, self.exp(y, w)), w, u, create_graph=True)
            return torch.autograd.grad(back, u, v)[0]

    def norm2(self, x: State, v: State) -> Tensor:
        """|v|^2 of a tangent at x, summed over real sites: [B]."""
        mask = over(self.mask, v)
        square = v * v if mask is None else torch.where(mask, v * v, 0.0)
        return square[..., None].flatten(1).sum(1)

    def dist2(self, x: State, y: State) -> Tensor:
        """Squared geodesic distance per sample, summed over real sites: [B]."""
        return self.norm2(x, self.log(x, y))

    def where(self, keep: Any, x: State, y: State) -> State:
        """x at the sites that `keep` names, y elsewhere; keep is bool [B, *sites] or broadcasts to the state."""
        return torch.where(over(keep, x), x, y)  # type: ignore[arg-type]

    def real(self, x: Tensor) -> Tensor:
        """x with padded sites set to zero."""
        mask = over(self.mask, x)
        return x if mask is None else torch.where(mask, x, 0.0)


def count(like: Tensor, mask: Tensor | None, per_site: int) -> Tensor:
    """Sites times `per_site` degrees of freedom, per sample: float64 [B]."""
    if mask is None:
        return torch.full((like.shape[0],), float(like[0].numel()) if like.shape[0] else 0.0, dtype=torch.float64)
    return mask.flatten(1).sum(1).double() * per_site


def standard(space: Space, x: State) -> Tensor:
    """log N(x; 0, I) in the space's own dimension, [B]."""
    square = space.norm2(x, x)
    return -0.5 * (square + along(space.dim(x) * math.log(2 * math.pi), square))


def components(like: Tensor, mask: Tensor | None) -> int:
    """Numbers per site of a masked state."""
    return math.prod(like.shape[mask.ndim :]) if mask is not None else 1


@dataclass(frozen=True, repr=False)
class Euclidean(Space):
    """R^n: exp is addition, mixing is linear, noise is N(0, I)."""

    flat: ClassVar[bool] = True

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.real(noise.normal(like.shape, like.dtype))

    def project(self, x: Tensor) -> Tensor:
        return self.real(x)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def dim(self, like: Tensor) -> Tensor:
        return count(like, self.mask, components(like, self.mask))

    def log_random(self, x: Tensor) -> Tensor:
        return standard(self, x)


@dataclass(frozen=True, repr=False)
class Centered(Space):
    """Clouds of points [B, N, D] with zero centre of mass: the subspace of dimension (N - 1) D.

    Translations are divided out by projection (Köhler et al. 2020; Hoogeboom et al. 2022, EDM): states, noise and
    predictions all lie in the subspace, under the mask.
    """

    flat: ClassVar[bool] = True

    def center(self, x: Tensor) -> Tensor:
        if self.mask is None:
            return x - x.mean(dim=-2, keepdim=True)
        real = self.mask[..., None]
        n = real.sum(dim=-2, keepdim=True).clamp_min(1)
        mean = torch.where(real, x, 0.0).sum(dim=-2, keepdim=True) / n
        return torch.where(real, x - mean, 0.0)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.center(noise.normal(like.shape, like.dtype))

    def project(self, x: Tensor) -> Tensor:
        return self.center(x)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.center(v)

    def dim(self, like: Tensor) -> Tensor:
        sites = count(like[..., 0], self.mask, 1)
        return (sites - 1).clamp_min(0) * like.shape[-1]

    def log_random(self, x: Tensor) -> Tensor:
        return standard(self, x)


@dataclass(frozen=True, repr=False)
class SO3(Space):
    """Rotations [B, *sites, 3, 3]; tangents are body-frame rotation vectors [B, *sites, 3], exp(R, v) = R exp(v)."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return rotations.orthonormal(x @ rotations.exp_so3(v))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return rotations.log_so3(x.mT @ y)

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.project(rotations.uniform(tuple(like.shape[:-2]), noise, like.dtype))

    def project(self, x: Tensor) -> Tensor:
        mask = over(self.mask, x)
        x = rotations.orthonormal(x)
        return x if mask is None else torch.where(mask, x, torch.eye(3, dtype=x.dtype, device=x.device))

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def carry(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The inverse right Jacobian at w = log_x(y): v + w x v/2 + (1 - |w|/2 cot(|w|/2)) w x (w x v)/|w|^2."""
        w = self.log(x, y)
        w2 = (w * w).sum(-1, keepdim=True)
        small = w2 < 1e-3
        half = torch.where(small, torch.ones_like(w2), w2).sqrt() / 2
        near = 1 / 12 + w2 / 720 + w2 * w2 / 30240
        share = torch.where(small, near, (1 - half / torch.tan(half)) / (4 * half**2))
        turn = torch.linalg.cross(w, v)
        return v + turn / 2 + share * torch.linalg.cross(w, turn)

    def dim(self, like: Tensor) -> Tensor:
        return count(like[..., 0], self.mask, 3)

    def log_random(self, x: Tensor) -> Tensor:
        return (-math.log(8 * math.pi**2) / 3 * self.dim(x)).to(x)


@dataclass(frozen=True, repr=False)
class Torus(Space):
    """Angles in [-pi, pi), each on its own circle."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.wrap(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.wrap(y - x)

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.real(noise.uniform(like.shape, like.dtype) * (2 * math.pi) - math.pi)

    def project(self, x: Tensor) -> Tensor:
        return self.real(self.wrap(x))

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def carry(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v

    def dim(self, like: Tensor) -> Tensor:
        return count(like, self.mask, components(like, self.mask))

    def log_random(self, x: Tensor) -> Tensor:
        return (-math.log(2 * math.pi) * self.dim(x)).to(x)

    @staticmethod
    def wrap(x: Tensor) -> Tensor:
        return torch.remainder(x + math.pi, 2 * math.pi) - math.pi


@dataclass(frozen=True, repr=False)
class Sphere(Space):
    """Unit vectors [B, *sites, D]; tangents are ambient vectors [B, *sites, D] orthogonal to the point."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        n2 = (v * v).sum(-1, keepdim=True)
        small = n2 < 1e-8
        n = torch.where(small, torch.ones_like(n2), n2).sqrt()
        y = torch.where(small, 1 - n2 / 2, torch.cos(n)) * x + torch.where(small, 1 - n2 / 6, torch.sin(n) / n) * v
        return y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # the zeros of padding stay zero

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        cosine = (x * y).sum(-1, keepdim=True)
        u = y - cosine * x
        n2 = (u * u).sum(-1, keepdim=True)
        small = n2 < 1e-12
        n = torch.where(small, torch.ones_like(n2), n2).sqrt()
        near = torch.where(small, torch.ones_like(n), torch.atan2(n, cosine) / n) * u
        # From the opposite point all ways are shortest: take the one by the axis farthest from x.
        axis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[x.detach().abs().argmin(-1)]
        side = self.tangent(x, axis)
        return torch.where(small & (cosine < 0), math.pi * side / side.norm(dim=-1, keepdim=True), near)

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.project(noise.normal(like.shape, like.dtype))

    def project(self, x: Tensor) -> Tensor:
        mask = over(self.mask, x)
        if mask is not None:
            x = torch.where(mask, x, torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[0])
        return x / x.norm(dim=-1, keepdim=True)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - (x * v).sum(-1, keepdim=True) * x

    def carry(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """a n + (v - a r) w/sin w: n the direction from x to y, r that of arrival, w the angle between, a = <v, r>."""
        u = self.log(x, y)
        w2 = (u * u).sum(-1, keepdim=True)
        small = w2 < 1e-12
        w = torch.where(small, torch.ones_like(w2), w2).sqrt()
        n = u / w
        r = torch.cos(w) * n - torch.sin(w) * x
        a = (v * r).sum(-1, keepdim=True)
        return torch.where(small, self.tangent(x, v), a * n + (v - a * r) * (w / torch.sin(w)))

    def dim(self, like: Tensor) -> Tensor:
        return count(like[..., 0], self.mask, 1) * (like.shape[-1] - 1)

    def log_random(self, x: Tensor) -> Tensor:
        half = x.shape[-1] / 2
        area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        return (-area * count(x[..., 0], self.mask, 1)).to(x)


class Product(Space):
    """A bundle of named parts, each in its own space.

    Args:
        parts: name to space, as keywords: `Product(pos=Centered(), rot=SO3())`.
    """

    parts: dict[str, Space]

    def __init__(self, parts: Mapping[str, Space] | None = None, /, **named: Space) -> None:
        object.__setattr__(self, "mask", None)
        object.__setattr__(self, "parts", {**(parts or {}), **named})
        if not self.parts:
            raise GendiffError(
                "Product() got no parts", "at least one named space", "Product(pos=Centered(), rot=SO3())"
            )

    def __repr__(self) -> str:
        return f"Product({', '.join(f'{name}={part!r}' for name, part in self.parts.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Product) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(tuple(self.parts))

    def each(self, f: Callable[[str, Space], Any]) -> dict[str, Any]:
        """f(name, space) for every part."""
        return {name: f(name, space) for name, space in self.parts.items()}

    def masked(self, mask: Any) -> Product:
        """One mask for all parts, or a dict of masks by part."""
        pick = mask.get if isinstance(mask, Mapping) else lambda _: mask
        return Product(self.each(lambda name, space: space.masked(pick(name))))

    def exp(self, x: State, v: State) -> State:
        return self.each(lambda name, space: space.exp(x[name], v[name]))

    def log(self, x: State, y: State) -> State:
        return self.each(lambda name, space: space.log(x[name], y[name]))

    def random(self, like: State, noise: Noise) -> State:
        return self.each(lambda name, space: space.random(like[name], noise.fork(name)))

    def project(self, x: State) -> State:
        return self.each(lambda name, space: space.project(x[name]))

    def tangent(self, x: State, v: State) -> State:
        return self.each(lambda name, space: space.tangent(x[name], v[name]))

    def dim(self, like: State) -> Tensor:
        return torch.stack(list(self.each(lambda name, space: space.dim(like[name])).values())).sum(0)

    def log_random(self, x: State) -> Tensor:
        return torch.stack(list(self.each(lambda name, space: space.log_random(x[name])).values())).sum(0)

    def scale(self, v: State, w: Weight) -> State:
        pick = w.__getitem__ if isinstance(w, Mapping) else lambda _: w
        return self.each(lambda name, space: space.scale(v[name], pick(name)))

    def carry(self, x: State, y: State, v: State) -> State:
        return self.each(lambda name, space: space.carry(x[name], y[name], v[name]))

    def norm2(self, x: State, v: State) -> Tensor:
        return torch.stack(list(self.each(lambda name, space: space.norm2(x[name], v[name])).values())).sum(0)

    def where(self, keep: Any, x: State, y: State) -> State:
        pick = keep.__getitem__ if isinstance(keep, Mapping) else lambda _: keep
        return self.each(lambda name, space: space.where(pick(name), x[name], y[name]))
