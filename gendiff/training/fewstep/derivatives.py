r"""The derivative of a curve tau -> y(tau) of states at tau = 0, by one of three ways.

    Forward   dual numbers: exact, about one more forward pass, and nothing is kept for going back
    Reverse   two reverse passes, J v = d/du <J^T u, v>: exact where an operator has no forward derivative
    Finite    (3 y(0) - 4 y(-h) + y(-2h))/(2h): three passes and an error of order h^2, for everything that can be run

On curved spaces the derivative is the tangent d/dtau log_{y(0)}(y(tau)). Fused attention has no forward derivative
(pytorch issue 165530): `Forward` and `Reverse` take the written-out one. All compute under torch.no_grad: what they
give is a number, not a node.
"""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from gendiff.errors import POSITIVE, check
from gendiff.spaces import Space, State, map_state, tensors

Curve = Callable[[Tensor], State]
"""tau, one number or [B], to a state."""


class Derivative(ABC):
    """A way to differentiate a curve; see the top of the file."""

    @abstractmethod
    def __call__(self, space: Space, curve: Curve, like: Tensor, room: Tensor) -> tuple[State, State]:
        """y(0) and the tangent dy/dtau there.

        Args:
            space: Of the states.
            curve: y; it is never asked for a tau above 0.
            like: Gives the device and the precision of tau.
            room: [B], how far below 0 tau may go for each sample.
        """


@dataclass(frozen=True)
class Forward(Derivative):
    """Dual numbers (forward-mode differentiation)."""

    def __call__(self, space: Space, curve: Curve, like: Tensor, room: Tensor) -> tuple[State, State]:
        prepare()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            tau = forward_ad.make_dual(like.new_zeros(()), like.new_ones(()))
            y = curve(tau)
            here = map_state(lambda part: forward_ad.unpack_dual(part).primal, y)
            slope = map_state(tangent_of, space.log(here, y))
        return here, slope


@functools.cache
def prepare() -> None:
    """Has torch make its rules of forward derivatives, once: it does so by means that it warns of itself."""
    with warnings.catch_warnings(), torch.no_grad(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.nn.functional.layer_norm(forward_ad.make_dual(torch.zeros(2), torch.ones(2)), (2,))


def tangent_of(v: Tensor) -> Tensor:
    """The derivative that a dual tensor carries; zero for none."""
    slope = forward_ad.unpack_dual(v).tangent
    return torch.zeros_like(v) if slope is None else slope


@dataclass(frozen=True)
class Reverse(Derivative):
    """Two reverse passes."""

    def __call__(self, space: Space, curve: Curve, like: Tensor, room: Tensor) -> tuple[State, State]:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            tau = like.new_zeros(()).requires_grad_()
            y = curve(tau)
            here = map_state(Tensor.detach, y)
            v = space.log(here, y)
            u = map_state(lambda part: torch.zeros_like(part, requires_grad=True), v)
            (back,) = torch.autograd.grad(tensors(v), tau, tensors(u), create_graph=True)
            slopes = torch.autograd.grad(back, tensors(u))
        names = list(v) if isinstance(v, dict) else None
        return here, slopes[0] if names is None else dict(zip(names, slopes, strict=True))


@dataclass(frozen=True)
class Finite(Derivative):
    """Differences backwards in tau.

    Args:
        step: h, in units of time; at most half the room of a sample. The error falls with its square, and rounding
            grows with its inverse: 1e-4 for float64, 1e-2 for float32.
    """

    step: float = 1e-2

    def __post_init__(self) -> None:
        check(self, step=POSITIVE)

    @torch.no_grad()
    def __call__(self, space: Space, curve: Curve, like: Tensor, room: Tensor) -> tuple[State, State]:
        h = torch.minimum(room.to(like) / 2, like.new_tensor(self.step))
        here, once, twice = curve(0 * h), curve(-h), curve(-2 * h)
        a, b = space.log(here, once), space.log(here, twice)
        slope = map_state(torch.sub, space.scale(b, 1 / (2 * h)), space.scale(a, 2 / h))
        return here, slope
