r"""Denoisers: a network, a head and a process that together predict the clean state.

`denoiser(x_t, t, **cond)` is an estimate of x0. What the network itself emits, F, is the head's secret; with
x = alpha x0 + sigma z, and y^2 = alpha^2 + sigma^2, each head is an affine map of F and its inverse:

    Eps        F = z                  x0 = (x - sigma F)/alpha                            c_out = sigma/alpha
    X0         F = x0                 x0 = F                                              c_out = 1
    V          F = alpha z - sigma x0 x0 = (alpha x - sigma F)/y^2                        c_out = sigma/y^2
    Velocity   F = z - x0             x0 = (x - sigma F)/(alpha + sigma)                  c_out = sigma/(alpha + sigma)
    EDMHead    Karras et al. (2022)   x0 = (d^2 alpha x + sigma d n F)/n^2                c_out = sigma d/n
                                      n^2 = sigma^2 + d^2 alpha^2, d = sigma_data, input x/n, time log(sigma/alpha)/4
    Tangent    any space              x0 = exp_x(c(t) F), F a tangent at x                c_out = c(t), the clock
    Logits     categories             log p(x0) = log softmax F, x0 itself where x_t shows it   c_out = rate^(-1/2)

A regression on F has the weight 1/c_out^2 on x0; that is all a loss needs to know of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gendiff.errors import POSITIVE, SamplerError, check, named_parts
from gendiff.processes import Gaussian, Joint, Leaf, Process, pick
from gendiff.processes.schedules import Time, maths
from gendiff.spaces import State, per_sample, require_shape

if TYPE_CHECKING:
    from gendiff.processes import Categories


EMITTED = "The network emitted"


class Head(ABC):
    """The map between what a network emits and the clean state; see the top of the file."""

    @abstractmethod
    def clean(self, process: Any, x: State, out: State, t: Time) -> State:
        """x0 from the network's output."""

    @abstractmethod
    def raw(self, process: Any, x: State, x0: State, t: Time) -> State:
        """The output a network must emit for this x0: the inverse of `clean`."""

    @abstractmethod
    def scale(self, process: Any, t: Time) -> Any:
        """c_out: how far x0 moves per unit of output."""

    def informed(self, process: Any) -> Any:
        """The process, with what the head knows of the data where the process does not."""
        return process

    @abstractmethod
    def inputs(self, process: Any, x: State, t: Time) -> tuple[State, Time]:
        """What the network sees of x_t and of the time."""

    def check(self, process: Any, t: Time) -> None:  # noqa: B027
        """Raises SamplerError where the head cannot give x0, at a time given as a float; most heads always can."""


class Flat(Head):
    """Heads of flat spaces, affine in F with coefficients from (alpha, sigma): x0 = skip x + out F."""

    @abstractmethod
    def coefficients(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        """(skip, out)."""

    def clean(self, process: Leaf, x: Tensor, out: Tensor, t: Time) -> Tensor:
        require_shape(EMITTED, out, x.shape)
        skip, scale = self.coefficients(*process.schedule(t))
        return process.space.project(per_sample(skip, x) * x + per_sample(scale, x) * out)

    def raw(self, process: Leaf, x: Tensor, x0: Tensor, t: Time) -> Tensor:
        skip, scale = self.coefficients(*process.schedule(t))
        return (x0 - per_sample(skip, x) * x) / per_sample(scale, x)

    def scale(self, process: Leaf, t: Time) -> Time:
        return abs(self.coefficients(*process.schedule(t))[1])

    def inputs(self, process: Leaf, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        return x, t


@dataclass(frozen=True)
class Eps(Flat):
    """The network predicts the noise (Ho et al. 2020). Refused where alpha = 0."""

    def coefficients(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        return 1 / alpha, -sigma / alpha

    def check(self, process: Leaf, t: Time) -> None:
        if not isinstance(t, Tensor) and process.schedule(t)[0] <= 0:
            raise SamplerError(
                f"The Eps head was asked for x0 at t = {t}, where {process.schedule!r} has alpha = 0",
                "a head that is defined there (V, Velocity, X0 or EDMHead), or a grid that starts below",
                "LinearGrid(start=0.999)",
            )


@dataclass(frozen=True)
class X0(Flat):
    """The network predicts the clean state."""

    def coefficients(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        return 0.0 * alpha, alpha * 0 + 1.0


@dataclass(frozen=True)
class V(Flat):
    """The network predicts alpha z - sigma x0 (Salimans & Ho 2022)."""

    def coefficients(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        y2 = alpha * alpha + sigma * sigma
        return alpha / y2, -sigma / y2


@dataclass(frozen=True)
class Velocity(Flat):
    """The network predicts z - x0, the velocity of the straight path (Lipman et al. 2023)."""

    def coefficients(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        n = alpha + sigma
        return 1 / n, -sigma / n


@dataclass(frozen=True)
class EDMHead(Flat):
    """Preconditioning of Karras et al. (2022), Table 1, in a form that is finite for every alpha and sigma.

    Args:
        sigma_data: The standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check(self, sigma_data=POSITIVE)

    def informed(self, process: Any) -> Any:
        told = isinstance(process, Gaussian) and process.data_std is None and self.sigma_data != 1
        return replace(process, data_std=self.sigma_data) if told else process

    def coefficients(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        d = self.sigma_data
        n2 = sigma * sigma + d * d * alpha * alpha
        return d * d * alpha / n2, sigma * d / n2**0.5

    def inputs(self, process: Leaf, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        alpha, sigma = process.schedule(t)
        n = (sigma * sigma + self.sigma_data**2 * alpha * alpha) ** 0.5
        m = maths(t)
        noise = m.clip(m.log(sigma) - m.log(alpha), -12.0, 12.0) / 4
        return per_sample(1 / n, x) * x, noise


@dataclass(frozen=True)
class Tangent(Head):
    """The network predicts the tangent home per unit of clock: velocity regression on any space.

    Off R^n a network that emits clean points finds the modes and loses the spread; this one does not.
    """

    def clean(self, process: Leaf, x: State, out: State, t: Time) -> State:
        space = process.space
        require_shape(EMITTED, out, space.arrows(x))
        v = space.scale(space.tangent(x, out), process.schedule.clock(t))
        return space.project(space.exp(x, v))

    def raw(self, process: Leaf, x: State, x0: State, t: Time) -> State:
        space = process.space
        return space.scale(space.log(x, x0), 1 / process.schedule.clock(t))

    def scale(self, process: Leaf, t: Time) -> Time:
        return process.schedule.clock(t)

    def inputs(self, process: Leaf, x: State, t: Time) -> tuple[State, Time]:
        return x, t


@dataclass(frozen=True)
class Logits(Head):
    """The network sees the classes, int64, and predicts logits of the clean ones [B, *sites, K]."""

    def clean(self, process: Categories, x: Tensor, out: Tensor, t: Time) -> Tensor:
        process.space.require(EMITTED, x, out)
        return process.carry(x, process.space.project(out))

    def raw(self, process: Categories, x: Tensor, x0: Tensor, t: Time) -> Tensor:
        return process.on.logs(x0)

    def scale(self, process: Categories, t: Time) -> Time:
        return process.rate(t) ** -0.5

    def inputs(self, process: Categories, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        return x, t


class Heads(Head):
    """One head per part of a bundle: `Heads(pos=Velocity(), rot=Tangent())`. The network sees t itself."""

    def __init__(self, parts: Mapping[str, Head] | None = None, /, **named: Head) -> None:
        self.parts: dict[str, Head] = named_parts("Heads", Head, parts, named, "Heads(pos=Velocity())")

    def __repr__(self) -> str:
        return f"Heads({', '.join(f'{name}={part!r}' for name, part in self.parts.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Heads) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(tuple(self.parts))

    def informed(self, process: Joint) -> Joint:
        return Joint(
            {k: self.parts[k].informed(part) if k in self.parts else part for k, part in process.parts.items()}
        )

    def clean(self, process: Joint, x: State, out: State, t: Time) -> State:
        absent = [name for name in self.parts if not isinstance(out, Mapping) or name not in out]
        if absent:
            got = f"the parts {', '.join(out)}" if isinstance(out, Mapping) else f"a {type(out).__name__}"
            raise SamplerError(f"{EMITTED} {got}", f"a dict that has {', '.join(absent)} too")
        return {
            name: head.clean(process.parts[name], x[name], out[name], pick(t, name))
            for name, head in self.parts.items()
        }

    def raw(self, process: Joint, x: State, x0: State, t: Time) -> State:
        return {
            name: head.raw(process.parts[name], x[name], x0[name], pick(t, name)) for name, head in self.parts.items()
        }

    def scale(self, process: Joint, t: Time) -> dict[str, Any]:
        return {name: head.scale(process.parts[name], pick(t, name)) for name, head in self.parts.items()}

    def inputs(self, process: Joint, x: State, t: Time) -> tuple[State, Time]:
        seen = {name: head.inputs(process.parts[name], x[name], pick(t, name))[0] for name, head in self.parts.items()}
        return seen, t

    def check(self, process: Joint, t: Time) -> None:
        for name, head in self.parts.items():
            head.check(process.parts[name], pick(t, name))


def default_head(process: Process) -> Head:
    """Velocity on bounded flat schedules, EDM preconditioning on other flat ones, Logits, Tangent; by part."""
    from gendiff.processes import Categories, Gaussian

    if isinstance(process, Joint):
        return Heads({name: default_head(part) for name, part in process.parts.items()})
    if isinstance(process, Gaussian):
        return Velocity() if process.schedule.bounded else EDMHead()
    return Logits() if isinstance(process, Categories) else Tangent()
