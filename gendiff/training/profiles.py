r"""Averages of weights whose length is chosen after training (Karras et al. 2024, "EDM2", Section 3 and Appendix C).

A power-function average grows with training and forgets its start. At update t, with the weights theta_t,

    average <- beta_t average + (1 - beta_t) theta_t,    beta_t = (1 - 1/t)^(gamma + 1)

The product of betas telescopes: after T updates theta_k counts with exactly

    p_k = (k/T)^(gamma + 1) - ((k - 1)/T)^(gamma + 1),    k = 1 .. T,

a profile on [0, T] of relative width sigma_rel = sqrt((gamma + 1)/((gamma + 2)^2 (gamma + 3))). A few such averages,
kept as snapshots during training, span many others: the average with any other width and end is sum_j c_j snapshot_j,
with c the least-squares fit of its profile by theirs. Everything is float32 or better; fits are float64.

Rebuilding weights of size 1 from 50 snapshots of two widths (0.05, 0.10) errs by 1e-5 for widths between them, and the
more the farther outside: by 6e-3 at 0.28. With three widths, between them, it errs by 2e-8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.errors import GendiffError, Range, whole
from gendiff.training.ema import wide


def gamma_of(sigma_rel: float) -> float:
    """The exponent whose profile has this relative width: the largest root of their Algorithm 2's cubic.

    Raises:
        GendiffError: Outside (0, 0.28]; the mean of all weights has 0.2887.
    """
    if sigma_rel not in Range(0, 0.28, "(]"):
        raise GendiffError(
            f"A relative width of {sigma_rel}", "a number in (0, 0.28]", "Profiles(network, (0.05, 0.1))"
        )
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def sigma_rel_of(gamma: float) -> float:
    """The relative width of a profile."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


@dataclass(frozen=True)
class Snapshot:
    """An average as it was after some updates.

    Attributes:
        sigma_rel: The relative width of its profile.
        updates: How many updates it had seen.
        weights: The averages by parameter name, float32 or better, on the host.
    """

    sigma_rel: float
    updates: int
    weights: dict[str, Tensor]


class Profiles:
    """Running power-function averages of a module's parameters, for snapshots.

    Args:
        module: Whose weights to average.
        sigma_rels: Relative widths; two let those between them be rebuilt.
    """

    def __init__(self, module: nn.Module, sigma_rels: Sequence[float] = (0.05, 0.10)) -> None:
        for sigma_rel in sigma_rels:
            gamma_of(sigma_rel)  # refuses other widths
        self.sigma_rels = tuple(sigma_rels)
        self.updates = 0
        self.averages = [{name: wide(p) for name, p in module.named_parameters()} for _ in self.sigma_rels]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights of `module`, once per optimiser step."""
        self.updates += 1
        for sigma_rel, average in zip(self.sigma_rels, self.averages, strict=True):
            share = -math.expm1((gamma_of(sigma_rel) + 1) * math.log1p(-1 / self.updates)) if self.updates > 1 else 1.0
            old = list(average.values())
            new = [p.detach().to(a.dtype) for a, p in zip(old, module.parameters(), strict=True)]
            torch._foreach_lerp_(old, new, share)  # pyright: ignore[reportPrivateImportUsage]

    def snapshots(self) -> list[Snapshot]:
        """The averages as they are now, copied; keep some dozens over a training."""
        return [
            Snapshot(sigma_rel, self.updates, {name: a.detach().to("cpu", copy=True) for name, a in average.items()})
            for sigma_rel, average in zip(self.sigma_rels, self.averages, strict=True)
        ]

    def to(self, device: Any) -> Profiles:
        self.averages = [{name: a.to(device) for name, a in average.items()} for average in self.averages]
        return self

    def state_dict(self) -> dict[str, Any]:
        return {"sigma_rels": self.sigma_rels, "updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if tuple(state["sigma_rels"]) != self.sigma_rels:
            raise GendiffError(f"Profiles of the widths {state['sigma_rels']}", f"{self.sigma_rels}, as constructed")
        self.updates = state["updates"]
        self.averages = [
            {name: saved[name].to(a, copy=True) for name, a in average.items()}
            for average, saved in zip(self.averages, state["averages"], strict=True)
        ]


def profile(sigma_rel: float, updates: int, k: np.ndarray) -> np.ndarray:
    """p_k of the average after so many updates, at the steps k (1 is the first); 0 beyond them."""
    power = gamma_of(sigma_rel) + 1
    with np.errstate(divide="ignore"):
        p = (np.minimum(k, updates) / updates) ** power * -np.expm1(power * np.log1p(-1 / k))
    return np.where(k <= updates, p, 0.0)


def fit(profiles: Sequence[tuple[float, int]], sigma_rel: float, updates: int, chunk: int = 1 << 15) -> np.ndarray:
    """The coefficients of the profiles (sigma_rel, updates) nearest to the one wanted, float64 [S].

    Least squares over all steps, by a QR factorisation in pieces: normal equations would lose half of the digits, and
    neighbouring snapshots are nearly parallel.
    """
    wanted = [*profiles, (sigma_rel, updates)]
    triangle: Any = np.zeros((0, len(wanted)))
    last = max(steps for _, steps in wanted)
    for first in range(1, last + 1, chunk):
        k = np.arange(first, min(first + chunk, last + 1), dtype=np.float64)
        rows = np.stack([profile(width, steps, k) for width, steps in wanted], axis=1)
        triangle = np.linalg.qr(np.concatenate([triangle, rows]), mode="r")
    matrix, target = triangle[:, :-1], triangle[:, -1]
    lengths = np.linalg.norm(matrix, axis=0)
    return np.linalg.lstsq(matrix / lengths, target, rcond=None)[0] / lengths


def reconstruct(snapshots: Sequence[Snapshot], sigma_rel: float, updates: int | None = None) -> dict[str, Tensor]:
    """The weights that an average of this width would have, from snapshots of others.

    Args:
        snapshots: Of one training, of any widths and times.
        sigma_rel: The relative width wanted.
        updates: After how many updates; the last snapshot's by default.

    Returns:
        The averages by parameter name, in the snapshots' dtype (float32 or better).

    Raises:
        GendiffError: Without snapshots, or after the last of them.
    """
    last = max((s.updates for s in snapshots), default=0)
    updates = last if updates is None else updates
    whole("reconstruct", "updates", updates, 0)
    if not 0 < updates <= last:
        raise GendiffError(f"An average after {updates} updates, from snapshots that end at {last}", "an earlier time")
    coefficients = fit([(s.sigma_rel, s.updates) for s in snapshots], sigma_rel, updates)
    out = {}
    for name, like in snapshots[0].weights.items():
        total = torch.zeros_like(like, dtype=torch.float64)
        for c, snapshot in zip(coefficients.tolist(), snapshots, strict=True):
            total.add_(snapshot.weights[name].double(), alpha=c)
        out[name] = total.to(like.dtype)
    return out
