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
padded batch: mask [B, *sites] is True where an element is real, and what the sites are of them, each one or pairs, is
the space's own (`sites`). Noise, distances and centres then see real sites only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from gendiff.errors import SamplerError, refuse
from gendiff.random import Noise
from gendiff.spaces.sites import ELEMENTS, SiteKind

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


def widened(x: State) -> State:
    """A state in float32 or better: in half precision no sum over a sample holds. Classes stay classes."""
    return map_state(lambda p: p.float() if p.is_floating_point() and p.dtype.itemsize < 4 else p, x)


def require_shape(what: str, value: Any, *shapes: Sequence[int], fix: str = "") -> None:
    """Refuses what a user's function gave unless it is a tensor of one of these shapes; others might broadcast.

    Raises:
        SamplerError: With what came.
    """
    if not isinstance(value, Tensor) or not any(value.shape == torch.Size(shape) for shape in shapes):
        got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise SamplerError(f"{what} {got}", f"a tensor of shape {wanted}", fix)


def inner(u: State, v: State) -> Tensor:
    """<u, v> of each sample, over all its numbers: [B]."""
    each = [(a * b)[..., None].flatten(1).sum(1) for a, b in zip(tensors(u), tensors(v), strict=True)]
    return each[0] if len(each) == 1 else torch.stack(each).sum(0)


def per_sample(w: float | Tensor, x: Tensor) -> float | Tensor:
    """A number per sample, ready to multiply x [B, ...]; floats pass."""
    if not isinstance(w, Tensor) or w.ndim == 0:
        return w
    return w.to(device=x.device, dtype=x.dtype, non_blocking=True).reshape(-1, *(1,) * (x.ndim - 1))


def broadcast_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask [B, *sites] broadcast over the components of x [B, *sites, ...]."""
    return None if mask is None else mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


@dataclass(frozen=True)
class Space(ABC):
    """The interface; see the top of the file.

    Attributes:
        mask: None, or bool [B, *sites]: the real sites of one padded batch.
        sites: What its sites are: each element of a state (the default), or `Pairs()` of them.
        flat: Whether exp is addition, so that mixes are linear.
        framed: Whether tangents are written in a frame that geodesics carry along: from every point of the geodesic to
            y, log leads the same way, so that tangents of different points may be added. Spheres have none.
    """

    mask: Tensor | None = None
    sites: SiteKind = field(default=ELEMENTS, kw_only=True)
    flat: ClassVar[bool] = False
    framed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.sites, SiteKind):
            refuse(self, "sites", "a kind of sites", "sites=Pairs()")

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

    def arrows(self, x: State) -> Sequence[int]:
        """The shape of a tangent at x."""
        return x.shape

    @abstractmethod
    def dim(self, like: State) -> Tensor:
        """Degrees of freedom per sample, float64 [B]."""

    @abstractmethod
    def log_random(self, x: State) -> Tensor:
        """The log density [B] of `random` at x, by the space's own volume: Lebesgue's, or the metric's."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.told()})"

    def told(self, *words: str) -> str:
        """Arguments as text, with the kind of sites if it is not the usual one."""
        return ", ".join([*words, *([] if self.sites == ELEMENTS else [f"sites={self.sites!r}"])])

    def masked(self, mask: Any) -> Space:
        """The space of one padded batch, from the mask of its elements; None gives the unpadded one."""
        if mask is None:
            return self if self.mask is None else replace(self, mask=None)
        return replace(self, mask=self.sites.mask(mask))

    def scale(self, v: State, w: Weight) -> State:
        """The tangent w v, w a number, [B], or by part."""
        return v * per_sample(w, v)  # type: ignore[arg-type]

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

    def require(self, what: str, x: State, y: State) -> None:
        """Refuses as a point, or a prediction, at x what has another shape.

        Raises:
            SamplerError: With what came.
        """
        require_shape(what, y, x.shape)
        if not y.is_floating_point():
            raise SamplerError(f"{what} {y.dtype}", "numbers of floating point")

    def norm2(self, x: State, v: State) -> Tensor:
        """|v|^2 of a tangent at x, summed over real sites: [B]."""
        mask = broadcast_mask(self.mask, v)
        square = v * v if mask is None else torch.where(mask, v * v, 0.0)
        return square[..., None].flatten(1).sum(1)

    def dist2(self, x: State, y: State) -> Tensor:
        """Squared geodesic distance per sample, summed over real sites: [B]."""
        return self.norm2(x, self.log(x, y))

    def spread(self, keep: Any) -> Any:
        """Which sites of the state are meant by a choice of elements; for bundles by part, where parts differ."""
        return keep

    def where(self, keep: Any, x: State, y: State) -> State:
        """x at the sites that `keep` names, y elsewhere; keep is bool [B, *sites] or broadcasts to the state."""
        return torch.where(broadcast_mask(keep, x), x, y)  # type: ignore[arg-type]

    def real(self, x: Tensor) -> Tensor:
        """x with padded sites set to zero."""
        mask = broadcast_mask(self.mask, x)
        return x if mask is None else torch.where(mask, x, 0.0)


def count(like: Tensor, mask: Tensor | None, per_site: int) -> Tensor:
    """Sites times `per_site` degrees of freedom, per sample: float64 [B]."""
    if mask is None:
        return torch.full((like.shape[0],), float(like[0].numel()) if like.shape[0] else 0.0, dtype=torch.float64)
    return mask.flatten(1).sum(1).double() * per_site


def standard(space: Space, x: State) -> Tensor:
    """log N(x; 0, I) in the space's own dimension, [B]."""
    square = space.norm2(x, x)
    return -0.5 * (square + per_sample(space.dim(x) * math.log(2 * math.pi), square))


def components(like: Tensor, mask: Tensor | None) -> int:
    """Numbers per site of a masked state."""
    return math.prod(like.shape[mask.ndim :]) if mask is not None else 1
