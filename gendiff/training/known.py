r"""What a denoiser is shown of the clean state while it learns, so that it can be asked for the rest.

    x_t <- where(keep, x0, x_t)

A sample is then drawn from p(rest | known) by showing what is known, clean, at every time: conditioning by training
("amortised", Didi et al. 2023; Watson et al. 2023), beside replacement and particles, which ask it of a denoiser that
never saw the like (`guidance.given`: `Given(..., shown=True)` for this way). Classes tell by themselves what is known,
since masked ones are a class of their own. Of points and rotations, whose place among the rest is not known, the state
stays as noisy as it is and the network is told by a condition, a template (Jumper et al. 2021; Lin et al. 2024), of
which it reads what does not depend on the place: `KnownSites`.

To add a way: subclass `Known`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import SHARE, at_least, check, ordered
from gendiff.processes import Joint
from gendiff.random import Noise
from gendiff.spaces import State


class Known:
    """Draws what is known of the samples of a batch, and shows it in the state, or tells it as conditions."""

    def __call__(
        self, process: Joint, x0: State, noise: Noise, mask: Tensor | None = None
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """By part, of those of which anything is shown: where, bool [B] or [B, *sites], and what is shown there.

        `mask` is bool [B, *sites], True where real.
        """
        return {}

    def told(self, x0: State, mask: Tensor | None, noise: Noise) -> Mapping[str, Any]:
        """Conditions by name, beside those of the examples."""
        return {}


@dataclass(frozen=True)
class KnownParts(Known):
    """Whole parts of a bundle, in a share of the samples.

    Args:
        parts: Their names.
        share: In which share of the samples.
        level: The time at which they are shown, near 0: a little noise keeps a network from reading what real data
            say to the last digit, and designs do not (0.02 A to 0.2 A of ProteinMPNN, Dauparas et al. 2022).
    """

    parts: tuple[str, ...]
    share: float = 0.3
    level: float = 0.0

    def __post_init__(self) -> None:
        check(self, share=SHARE, level=SHARE)

    def __call__(
        self, process: Joint, x0: State, noise: Noise, mask: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        own = noise.fork(f"known {','.join(self.parts)}")
        keep, found = own.uniform((len(own.index),)) < self.share, {}
        for name in self.parts:
            clean = x0[name]
            found[name] = keep, process.parts[name].noise(clean, self.level, own.fork(name)) if self.level else clean
        return found


@dataclass(frozen=True)
class KnownSites(Known):
    """Runs of sites along one axis, told as a condition in a share of the samples; nothing is told of the others.

    The condition is a template: {"keep": bool [B, N], and each part with zeros where nothing is known}.

    Args:
        parts: The names of the parts that are told, [B, N, ...] each.
        name: The condition's.
        share: In which share of the samples.
        least: Least of all sites that are in a run, as a share.
        most: Most of them.
        runs: Most runs; how many there are is drawn, and they may overlap.
    """

    parts: tuple[str, ...]
    name: str = "template"
    share: float = 0.3
    least: float = 0.1
    most: float = 0.6
    runs: int = 3

    def __post_init__(self) -> None:
        check(self, share=SHARE, least=SHARE, most=SHARE, runs=at_least(1))
        ordered(self, "least", "most", equal=True)

    def told(self, x0: State, mask: Tensor | None, noise: Noise) -> Mapping[str, Any]:
        like = x0[self.parts[0]]
        count, sites = like.shape[:2]
        real = torch.ones(count, sites, dtype=torch.bool) if mask is None else mask.cpu()
        u = noise.fork(f"known sites {','.join(self.parts)}").uniform((count, 3 + self.runs))
        total = real.sum(1, keepdim=True)
        runs = (u[:, 1:2] * self.runs).long() + 1
        size = ((self.least + (self.most - self.least) * u[:, 2:3]) * total / runs).ceil()
        start = (u[:, 3:] * (total - size + 1)).floor()
        used = (torch.arange(self.runs) < runs) & (u[:, :1] < self.share)
        place = torch.arange(sites)[None, :, None]
        inside = (place >= start[:, None]) & (place < (start + size)[:, None]) & used[:, None]
        keep = inside.any(-1).to(like.device)
        return {self.name: template(keep, {name: x0[name] for name in self.parts})}


def template(keep: Tensor, parts: State) -> dict[str, Tensor]:
    """What is known as a condition: bool [B, N], and parts [B, N, ...] with zeros elsewhere."""
    return {"keep": keep, **{name: torch.where(per_site(keep, x), x, torch.zeros_like(x)) for name, x in parts.items()}}


def shown(
    ways: tuple[Known, ...], process: Joint, x0: State, x: State, noise: Noise, mask: Tensor | None = None
) -> State:
    """x_t with what any of the ways draws shown as it is clean."""
    for way in ways:
        for name, (keep, seen) in way(process, x0, noise, mask).items():
            x = {**x, name: torch.where(per_site(keep, x[name]), seen, x[name])}
    return x


def per_site(keep: Tensor, x: Tensor) -> Tensor:
    """bool [B, ...] with axes of one element for those that x has more."""
    return keep.view(*keep.shape, *[1] * (x.ndim - keep.ndim))
