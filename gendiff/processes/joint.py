r"""Named parts of a bundle side by side, each with its own process and clock, on one shared time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import SamplerError, named_parts, nearest
from gendiff.processes.base import Process, pick
from gendiff.processes.schedules import Time
from gendiff.random import Noise
from gendiff.spaces import Product, State, Weight


class Joint(Process):
    """Named parts side by side, each with its own process and clock, on one shared time.

    Args:
        parts: name to process, as keywords: `Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3()))`.
    """

    def __init__(self, parts: Mapping[str, Process] | None = None, /, **named: Process) -> None:
        self.parts: dict[str, Process] = named_parts("Joint", Process, parts, named, "Joint(pos=Gaussian())")
        self._space = Product({name: part.space for name, part in self.parts.items()})

    def __repr__(self) -> str:
        return f"Joint({', '.join(f'{name}={part!r}' for name, part in self.parts.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Joint) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(tuple(self.parts))

    @property
    def space(self) -> Product:
        return self._space

    def match(self, setting: Any, what: str = "a setting", *, whole: bool = False) -> None:
        """Refuses a setting by part, a mapping, that names parts which do not exist; other settings pass.

        Args:
            whole: Whether it must name every part.

        Raises:
            SamplerError: With the nearest name.
        """
        if not isinstance(setting, Mapping):
            return
        wrong = [name for name in setting if name not in self.parts]
        missing = [name for name in self.parts if name not in setting] if whole else []
        if wrong or missing:
            fault = f"no part {wrong[0]!r}" if wrong else f"nothing for {', '.join(missing)}"
            raise SamplerError(
                f"{what[0].upper()}{what[1:]} by part {dict(setting)!r}: there is {fault}",
                f"{'every' if whole else 'some'} of {', '.join(self.parts)}"
                f"{nearest(wrong[0], self.parts) if wrong else ''}",
            )

    def each(self, f: Callable[[str, Process], Any]) -> dict[str, Any]:
        """f(name, process) for every part."""
        return {name: f(name, part) for name, part in self.parts.items()}

    def noise(self, x0: State, t: Time, noise: Noise) -> State:
        return self.each(lambda name, part: part.noise(x0[name], pick(t, name), noise.fork(name)))

    def noised(self, x0: State, z: State, t: Time) -> State:
        return self.each(lambda name, part: part.noised(x0[name], z[name], pick(t, name)))

    def renoise(self, x: State, t: float, s: float, noise: Noise, noise_scale: Any = 1.0) -> State:
        def one(name: str, part: Process) -> State:
            return part.renoise(x[name], pick(t, name), pick(s, name), noise.fork(name), pick(noise_scale, name))

        return self.each(one)

    def move(self, t: Time, s: Time, churn: Weight = 0.0, noise_scale: Any = 1.0) -> dict[str, Any]:
        self.match(noise_scale, "noise_scale", whole=True)
        return self.each(
            lambda name, part: part.move(pick(t, name), pick(s, name), pick(churn, name), pick(noise_scale, name))
        )

    def take(self, x: State, target: State, move: Any, noise: Noise | None = None) -> State:
        def one(name: str, part: Process) -> State:
            return part.take(x[name], target[name], move[name], None if noise is None else noise.fork(name))

        return self.each(one)

    def prior(self, like: State, noise: Noise, t: float = 1.0) -> State:
        return self.each(lambda name, part: part.prior(like[name], noise.fork(name), pick(t, name)))

    def log_prior(self, x: State, t: float = 1.0, data_std: Any = 0.0) -> Tensor:
        self.match(data_std, "data_std", whole=True)
        parts = self.each(lambda name, part: part.log_prior(x[name], pick(t, name), pick(data_std, name)))
        return torch.stack(list(parts.values())).sum(0)

    def masked(self, mask: Any) -> Joint:
        return Joint(self.each(lambda name, part: part.masked(pick(mask, name))))

    def per_part(self, f: Callable[..., Any], *settings: Any) -> dict[str, Any]:
        for setting in settings:
            self.match(setting, whole=True)
        return self.each(lambda name, part: part.per_part(f, *(pick(setting, name) for setting in settings)))

    def mix(self, predictions: Sequence[State], weights: Any) -> State:
        return self.each(lambda name, part: part.mix([p[name] for p in predictions], pick(weights, name)))

    def redone(self, move: Any, u: float, s: float, again: int) -> dict[str, Any]:
        return self.each(lambda name, part: part.redone(move[name], u, s, again))

    def resume(self, x: State, base: State) -> State:
        return self.each(lambda name, part: part.resume(x[name], base[name]))

    def lead(self, x: State, x0: State, norms: Any) -> State:
        return self.each(lambda name, part: part.lead(x[name], x0[name], norms[name]))

    def advance(
        self, x: State, history: Sequence[State], weights: Any, norms: Any, move: Any, noise: Noise | None = None
    ) -> State:
        def one(name: str, part: Process) -> State:
            past, own = [p[name] for p in history], None if noise is None else noise.fork(name)
            return part.advance(x[name], past, pick(weights, name), norms and norms[name], move[name], own)

        return self.each(one)
