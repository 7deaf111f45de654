r"""Distributions with exact denoisers, three starts for each, and the exact end of the probability flow from there.

    ve      x = 80 z,  alpha = 1, sigma = 80
    flow    x = z,     alpha = 0, sigma = 1 (t = 1 of the linear path)
    vp      x = z,     t = 1 of VP, sigma/alpha = 152

z and the first two ends of `gmm2d` and `gauss16` come from a file. All else is made by formula and seed. One Gaussian
keeps (x - alpha mu)/sqrt(alpha^2 C + sigma^2) along its axes, so its end is closed form. Mixtures are integrated,

    dy/dlog kappa = y - E[x0 | x],   y = x/alpha, kappa = sigma/alpha   or, for the flow,   y = x, kappa = sigma,

down to kappa = 1e-7, where the prediction is the end to rounding, by DOP853 at two tolerances that have to agree. Ends
are kept in .cache/benchmarks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from gendiff import EDM, VP, Gaussian, Linear, Noise, sample
from gendiff.denoisers import Mixture
from gendiff.errors import GendiffError
from gendiff.processes.schedules import Schedule
from gendiff.sampling import Loop
from gendiff.sampling.solvers import Solver

F64 = torch.float64
SCHEDULES: dict[str, Schedule] = {"ve": EDM(80.0, 7.0), "flow": Linear(), "vp": VP()}
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks"


class Cloud:
    """The exact denoiser of points, each a Gaussian of the same width: a `Mixture` whose cost is one matrix product.

    Args:
        process: A `Gaussian` process on Euclidean space.
        means: [K, D].
        width: The deviation around each point.
    """

    def __init__(self, process: Gaussian, means: Tensor, width: float) -> None:
        self.process, self.means, self.width = process, means, width

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        """E[x0 | x_t = x] for x [B, D]."""
        return self.predict(x, *self.process.schedule(t))

    def predict(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x0 | alpha x0 + sigma z = x] for x [B, D]."""
        v = (alpha * self.width) ** 2 + sigma**2
        # -|x - alpha mu|^2/2v, less what all points share.
        log = (alpha * x @ self.means.mT - 0.5 * alpha**2 * self.means.square().sum(1)) / v
        mean = torch.softmax(log, dim=1) @ self.means
        return mean + alpha * self.width**2 / v * (x - alpha * mean)


@dataclass(frozen=True)
class Problem:
    """One distribution and one start.

    Attributes:
        name: Of the distribution.
        start: "ve", "flow" or "vp": the process is on that schedule, from t = 1.
        denoiser: E[x0 | x_t], exact.
        x: The starts, float64 [B, D].
        known: The exact ends [B, D], where a file gave them.
    """

    name: str
    start: str
    denoiser: Mixture | Cloud
    x: Tensor
    known: Tensor | None = None

    @cached_property
    def end(self) -> Tensor:
        """The exact ends of the probability flow, [B, D]."""
        if self.known is not None:
            return self.known
        alpha, sigma = self.denoiser.process.schedule(1.0)
        if isinstance(self.denoiser, Mixture) and len(self.denoiser.means) == 1:
            return gaussian_end(self.denoiser, self.x, alpha, sigma)
        return kept(self, lambda: integrated(self.denoiser, self.x, alpha, sigma))

    def first(self, count: int) -> Problem:
        """The problem with its first `count` starts."""
        count = min(count, len(self.x))
        return Problem(self.name, self.start, self.denoiser, self.x[:count], self.end[:count])

    def distances(self, end: Tensor) -> Tensor:
        """Mean square per coordinate of what a sampler reached to the exact ends, [B]."""
        return (end - self.end).square().mean(1)

    def ends(self, solver: Solver | Loop) -> Tensor:
        """What a solver of ours reaches from the starts, [B, D]."""
        return sample(self.denoiser, self.x, solver=solver, noise=Noise.of(0, len(self.x)), start=self.x)

    def error(self, solver: Solver | Loop) -> float:
        """Root mean square per coordinate to the exact ends."""
        return float(self.distances(self.ends(solver)).mean().sqrt())


def gaussian_end(model: Mixture, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """The end of the probability flow of one Gaussian, from x at (alpha, sigma)."""
    mean, axes, c = model.means[0], model.axes[0], model.variances[0]
    y = (x - alpha * mean) @ axes
    return mean + (y * (c / (alpha**2 * c + sigma**2)).sqrt()) @ axes.mT


def integrated(model: Mixture | Cloud, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """The end of the probability flow from x at (alpha, sigma), by DOP853 at two tolerances."""
    flow = alpha == 0
    y = x if flow else x / alpha
    span = (math.log(sigma if flow else sigma / alpha), math.log(1e-7))

    def predicted(log_kappa: float, y: Tensor) -> Tensor:
        kappa = math.exp(log_kappa)
        return model.predict(y, 1 - kappa if flow else 1.0, kappa)

    def ended(y: Tensor, rtol: float) -> Tensor:
        def slope(log_kappa: float, flat: np.ndarray) -> np.ndarray:
            now = torch.from_numpy(flat).reshape(y.shape)
            return (now - predicted(log_kappa, now)).flatten().numpy()

        found = solve_ivp(slope, span, y.flatten().numpy(), "DOP853", rtol=rtol, atol=rtol / 10)
        if not found.success:
            raise GendiffError(f"The reference integration stopped: {found.message}", "an end at kappa = 1e-7")
        return predicted(span[1], torch.from_numpy(found.y[:, -1]).reshape(y.shape))

    ends, coarse = (torch.cat([ended(part, rtol) for part in y.split(64)]) for rtol in (1e-11, 1e-10))
    apart = float((ends - coarse).abs().max())
    if apart > 1e-7:
        raise GendiffError(f"Two tolerances of the reference differ by {apart:.1e}", "1e-7 or less", "a finer rtol")
    return ends


def kept(problem: Problem, made: Callable[[], Tensor]) -> Tensor:
    """What was computed once for this denoiser and these starts, from the cache."""
    model = problem.denoiser
    widths = [model.variances, model.weights, model.axes] if isinstance(model, Mixture) else [torch.tensor(model.width)]
    text = hashlib.sha256(repr(model.process).encode())
    for a in (problem.x, model.means, *widths):
        text.update(np.ascontiguousarray(a).tobytes())
    path = CACHE / f"{problem.name}_{problem.start}_{text.hexdigest()[:12]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, made().numpy())
    return torch.from_numpy(np.load(path))


@dataclass(frozen=True)
class Data:
    """The numbers of a mixture: means [K, D], variances [K, D], weights [K], axes [K, D, D]."""

    means: Tensor
    variances: Tensor
    weights: Tensor | None = None
    axes: Tensor | None = None

    def on(self, schedule: Schedule) -> Mixture:
        return Mixture(Gaussian(schedule), self.means, self.variances, self.weights, self.axes)


def random_mixture(
    seed: int, modes: int, dim: int, *, scale: float, widths: tuple[float, float], rank: int | None = None
) -> Data:
    """Means N(0, scale^2), unequal weights, random axes, widths log-uniform; beyond `rank` all widths are the least."""
    g = np.random.default_rng(seed)
    means = scale * g.standard_normal((modes, dim))
    low, high = (math.log(w) for w in widths)
    spread = np.exp(g.uniform(low, high, (modes, dim)))
    spread[:, dim if rank is None else rank :] = widths[0]
    weights = g.dirichlet(np.full(modes, 3.0))
    axes = np.linalg.qr(g.standard_normal((modes, dim, dim)))[0]
    weights, axes = torch.from_numpy(weights / weights.sum()), torch.from_numpy(axes)
    return Data(torch.from_numpy(means), torch.from_numpy(spread**2), weights, axes)


def lattice() -> Data:
    """50 modes of width 0.05 on a lattice of 5 x 10 in [-1, 1]^2, their weights growing along it."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 5, dtype=F64), torch.linspace(-1, 1, 10, dtype=F64), indexing="ij")
    weights = torch.linspace(1, 4, 50, dtype=F64)
    means = torch.stack([x.flatten(), y.flatten()], 1)
    return Data(means, torch.full((50, 2), 0.05**2, dtype=F64), weights / weights.sum())


def spiral() -> Data:
    """40 modes along a spiral of two turns, 0.12 long and 0.02 wide."""
    angle = torch.linspace(0.5, 2, 40, dtype=F64) * 2 * math.pi
    radius = angle / (4 * math.pi) * 1.5
    per_sample = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    step = per_sample / angle[:, None] + torch.stack([-torch.sin(angle), torch.cos(angle)], 1)
    step = step / step.norm(dim=1, keepdim=True)
    across = torch.stack([-step[:, 1], step[:, 0]], 1)
    variances = torch.tensor([0.12**2, 0.02**2], dtype=F64).expand(40, 2)
    return Data(radius[:, None] * per_sample, variances, None, torch.stack([step, across], 2))


def line() -> Data:
    """Five modes on a line, widths 0.02 to 0.3."""
    means = torch.tensor([-1.5, -0.6, 0.0, 0.3, 1.2], dtype=F64)
    widths = torch.tensor([0.3, 0.05, 0.02, 0.1, 0.2], dtype=F64)
    return Data(means[:, None], widths[:, None] ** 2, torch.tensor([0.3, 0.2, 0.1, 0.15, 0.25], dtype=F64))


DATA: dict[str, Callable[[], Data]] = {
    "gauss1": lambda: Data(torch.tensor([[0.7]], dtype=F64), torch.tensor([[0.3**2]], dtype=F64)),
    "gauss64": lambda: random_mixture(1, 1, 64, scale=0.5, widths=(0.02, 2.0)),
    "line5": line,
    "lattice50": lattice,
    "spiral40": spiral,
    "mix3": lambda: random_mixture(2, 10, 3, scale=1.0, widths=(0.05, 0.5)),
    "small8": lambda: random_mixture(3, 20, 8, scale=0.25, widths=(0.02, 0.1)),
    "large16": lambda: random_mixture(4, 8, 16, scale=4.0, widths=(0.1, 0.5)),
    "lowrank32": lambda: random_mixture(5, 4, 32, scale=0.7, widths=(0.02, 0.5), rank=5),
    "mix64": lambda: random_mixture(6, 10, 64, scale=0.5, widths=(0.02, 0.5)),
}


def digits(schedule: Schedule) -> Cloud:
    """500 pictures of digits, 8 x 8 in [-1, 1], each a Gaussian of width 0.05."""
    from sklearn.datasets import load_digits

    pictures, _ = load_digits(return_X_y=True)
    return Cloud(Gaussian(schedule), torch.from_numpy(pictures[:500] / 8 - 1), 0.05)


def started(name: str, start: str, denoiser: Mixture | Cloud, z: Tensor, known: Tensor | None = None) -> Problem:
    return Problem(name, start, denoiser, 80.0 * z if start == "ve" else z, known)


def named(goldens: Path) -> list[Problem]:
    """`gmm2d` and `gauss16`: 4096 starts where problems.npz gives the ends, and 512 from vp."""
    out = []
    with np.load(goldens / "problems.npz") as arrays:
        for name in ("gmm2d", "gauss16"):
            keys = ("means", "eigvals", "weights", "eigvecs", "z", "end_ve_from_80", "end_flow_from_t1")
            means, variances, weights, axes, z, ve, flow = (torch.from_numpy(arrays[f"{name}__{key}"]) for key in keys)
            data = Data(means, variances, weights, axes)
            out.append(started(name, "ve", data.on(SCHEDULES["ve"]), z, ve))
            out.append(started(name, "flow", data.on(SCHEDULES["flow"]), z, flow))
            out.append(started(name, "vp", data.on(SCHEDULES["vp"]), z[:512]))
    return out


def others(count: int = 512) -> list[Problem]:
    """The problems made by formula and seed, `count` starts each."""
    out = []
    for seed, name in enumerate([*DATA, "digits500"]):
        data = DATA[name]() if name in DATA else None
        for start, schedule in SCHEDULES.items():
            denoiser = digits(schedule) if data is None else data.on(schedule)
            z = np.random.default_rng(1000 + seed).standard_normal((count, denoiser.means.shape[1]))
            out.append(started(name, start, denoiser, torch.from_numpy(z)))
    return out


def load(goldens: Path) -> list[Problem]:
    """All problems: those of problems.npz, and the others."""
    return [*named(goldens), *others()]
