r"""What is known of a sample: an image around a hole, the sound beside a gap, a motif.

Replacement (Song et al. 2021, App. I.2) keeps the known sites on their own noised path,

    x_s <- where(known, noise(x0_known, s), x_s)

after each step. Alone it is biased: the rest is never told why the known part moved. On a grid that also goes up
(`sampling.grids.UpAndDown`, RePaint) the two parts are reconciled by walking each stretch again, and the bias goes with
the number of repeats. `with_resampling` wraps any solver's grid so.

On flat spaces the other way is a denoiser that agrees with what is known (`inverse.PosteriorMean`), by MMPS. Measured
with exact denoisers and DPM-Solver++(2M); a pass is one evaluation, or one product with the network's Jacobian:

    steps, method         passes   correlated pair   16-D smooth      16-D random      mixture
                                   0.900 +- 0.436    bias, spread     bias, spread     W1 (floor 0.009)
    30 replacement            30   0.458 +- 0.669    -                -                0.142
    30 repeated 10 times     291   0.856 +- 0.434    0.44, 1.13       0.25, 1.02       0.045
    30 repeated 30 times     871   0.885 +- 0.418    0.28, 1.02       0.15, 0.96       0.010
    30 PiGDM                  60   0.846 +- 0.482    0.15, 1.23       0.46, 1.24       0.134
    30 MMPS(1)                90   0.894 +- 0.433    0.48, 1.29       0.47, 1.12       0.071
    30 MMPS(3)               150   0.894 +- 0.433    0.08, 1.06       0.12, 1.03       0.071
    30 MMPS(5)               210   0.894 +- 0.433    0.04, 0.97       0.03, 1.02       0.072
    30 MMPS(5), twice        413   0.896 +- 0.427    0.04, 0.95       0.01, 0.95       0.046

(4000 samples. Pair: x_2 given x_1 = 1 at correlation 0.9. 16-D: ten known of a smooth Gaussian process, eight known of
a covariance of random axes; RMS of the error of the mean over the posterior's deviation, ratio of deviations. Mixture:
eight modes on a circle, x_1 known; Wasserstein-1 distance of x_2.) So much for exact denoisers.

On a trained network moments need a Jacobian that a briefly trained U-Net does not have: V = (sigma^2/alpha) J magnifies
its errors where there is much noise, and conjugate gradients follow them. The shipped Fashion-MNIST weights, 120 passes
for every method, the lower half or a 12 x 12 hole unknown, ten and five pictures, two draws of each (a first look: the
differences among the best are within chance; benchmarks/conditions.py):

    method               lower half:                        hole:
                         better draw's  class       share   better draw's  class       share
                         square error   recognised  white   square error   recognised  white
    the true pictures    0              0.90        0.011   0              0.80        0.029
    replacement          0.114          0.50        0.009   0.025          0.80        0.001
    repeated 5 times     0.073          0.70        0.005   0.046          0.70        0.012
    repeated 10 times    0.061          0.60        0.012   0.035          0.80        0.011
    repeated 20 times    0.067          0.55        0.010   0.036          0.80        0.014
    PiGDM                0.193          0.55        0.430   0.137          0.70        0.669
    MMPS(1)              0.063          0.80        0.009   0.022          0.80        0.010
    MMPS(3)              0.048          0.70        0.046   0.028          0.70        0.066
    MMPS(5)              0.137          0.45        0.219   0.136          0.80        0.328
    TMPD                 0.143          0.65        0.141   0.038          0.70        0.042
    DiffPIR              0.120          0.50        0.013   0.032          0.80        0.009
    DPS(0.5), DPS(1.5)   0.087, 0.072   0.60, 0.70  0.008   0.032, 0.021   0.70, 0.80  0.008

MMPS(5), nearest to the truth above, and PiGDM end in saturated patches (both tables: PiGDM without its paper's weight,
which it has since; see `inverse`). Repeated grids and MMPS(1) give pictures a
person would believe. On twenty other pictures, lower half, 191 passes: repeated 5 times 0.068, 0.60, 0.009; 10 times
0.064, 0.60, 0.010; MMPS(1) 0.071, 0.60, 0.019 (true pictures 0.80, 0.029). None is clearly better; the grids ask for no
gradient, work on every space, and meet what is known exactly. Hence `model.sample(given=...)` takes the grid repeated
ten times everywhere, and moments, in one iteration, are asked for by name: `given=guidance.known(given, process)`.

On `Centered` spaces a part is known up to a shift: what is replaced is the differences within it (`settled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from gendiff.denoisers import rows_of
from gendiff.errors import SamplerError, at_least, check, nearest
from gendiff.guidance.operators import boolean, fitting
from gendiff.guidance.wrappers import finite
from gendiff.processes import Process, pick
from gendiff.random import Noise
from gendiff.sampling.grids import UpAndDown
from gendiff.sampling.solvers import Solver
from gendiff.spaces import Centered, Product, Space, State, broadcast_mask, map_state, tensors


@dataclass(frozen=True)
class Given:
    """Known sites of the clean state.

    Args:
        x0: The clean state [B, ...]; read where `keep` is True.
        keep: bool [B, *sites] (or by part, or anything that broadcasts to the state): what is known. For bundles
            one of elements is enough: of a part on pairs, those are then known whose two elements are.
        shown: Whether what is known is there clean from the first step on, for a denoiser that was trained so
            (`training.known`), instead of as noisy as the rest; or this by part, False of those that are not named.
            All shown, it takes one pass of the grid.
        passes: How often each step of the grid is walked, to reconcile the rest with what is known; one is enough for
            a denoiser that is told what is known (`training.KnownSites`).
    """

    x0: State
    keep: Any
    shown: bool | Mapping[str, bool] = False
    passes: int = 10

    def __post_init__(self) -> None:
        check(self, passes=at_least(1))
        names = list(self.x0) if isinstance(self.x0, dict) else []
        for name in self.shown if isinstance(self.shown, Mapping) else ():
            if name not in names:
                raise SamplerError(
                    f"Given got shown={dict(self.shown)!r} and no part {name!r}",  # type: ignore[arg-type]
                    f"names among {', '.join(names) or 'none: it is no bundle'}.{nearest(name, names)}",
                )
        boolean(self)
        for part in tensors(self.x0):
            if not isinstance(part, Tensor):
                raise SamplerError(f"Given got x0 of {type(part).__name__}", "a state: a tensor, or a dict of tensors")

    def put(self, process: Process, x: State, s: float, noise: Noise) -> State:
        """x_s with its known sites replaced by a fresh noising of the known values; exact at s = 0."""
        own = Given(self.x0, process.space.spread(self.keep), self.shown, self.passes).at(x)
        known = own.x0 if s <= 0 or self.shown is True else process.noise(own.x0, s, noise)
        if s > 0 and isinstance(self.shown, Mapping) and isinstance(known, dict) and isinstance(own.x0, dict):
            known = {name: own.x0[name] if self.shown.get(name) else part for name, part in known.items()}
        return process.space.where(own.keep, settled(process.space, own.keep, known, x), x)

    def paced(self, solver: Solver) -> Solver:
        """The solver on a grid that walks each step as often as this needs."""
        return solver if self.shown is True or self.passes == 1 else with_resampling(solver, self.passes)

    def at(self, x: State) -> Given:
        """The same in the dtypes, on the device and of the samples of a state, whose shapes it must fit.

        Raises:
            SamplerError: For known values or a mask of another shape, or known values that are not finite.
        """
        device = tensors(x)[0].device

        def check(known: Tensor, part: Tensor) -> Tensor:
            if known.shape[1:] != part.shape[1:] or len(known) not in (1, len(part)):
                raise SamplerError(
                    f"Given got known values of shape {list(known.shape)} for samples of shape {list(part.shape)}",
                    "the same shape: sites that are not known are there, and not read",
                    "model.known(artifact, keep)",
                )
            return known.to(part)

        own = replace(self, x0=map_state(check, self.x0, x), keep=map_state(lambda k: k.to(device), self.keep))
        for name, part in x.items() if isinstance(x, dict) else [("", x)]:
            mask, known = pick(own.keep, name), pick(own.x0, name)
            fitting(mask, part, "Given")
            read = torch.where(broadcast_mask(mask, part), known, 0)  # type: ignore[arg-type]
            finite("Given got x0 with", read, "finite numbers where keep is True", "Given(x0, keep & x0.isfinite())")
        return own

    def expand(self, n: int) -> Self:
        """The same for n samples, of one for all or of one for each.

        Raises:
            SamplerError: For another number.
        """

        def grow(x: Tensor) -> Tensor:
            if len(x) not in (1, n):
                raise SamplerError(
                    f"Given holds {len(x)} samples, and {n} were asked for",
                    "one for each sample, or one for all",
                    f"model.sample({len(x)}, given=...)",
                )
            return x.expand(n, *x.shape[1:])

        return replace(self, x0=map_state(grow, self.x0), keep=map_state(grow, self.keep))

    def select(self, rows: Any, device: torch.device | None = None) -> Self:
        """Some of the samples, on a device."""
        return replace(self, x0=rows_of(self.x0, rows, device), keep=rows_of(self.keep, rows, device))


def settled(space: Space, keep: Any, known: State, x: State) -> State:
    """The known sites, on centred spaces moved to where the state has them: there the place of a part is unknown.

    Their mean stays the state's own, so what is replaced is exactly what is known, their differences.
    """
    if isinstance(space, Product):
        return space.each(lambda name, part: settled(part, pick(keep, name), known[name], x[name]))
    if not isinstance(space, Centered):
        return known
    kept = torch.where(broadcast_mask(keep, x), space.real(torch.ones_like(x)), 0.0) > 0  # type: ignore[arg-type]
    n = kept.sum(-2, keepdim=True).clamp_min(1)
    return known + torch.where(kept, x - known, 0.0).sum(-2, keepdim=True) / n


def with_resampling(solver: Solver, repeats: int = 10, length: int = 1) -> Solver:
    """The solver on its own grid, each stretch of `length` steps walked `repeats` times; loops without one pass."""
    if not isinstance(solver, Solver) or isinstance(solver.times, UpAndDown):
        return solver
    return replace(solver, times=UpAndDown(solver.times, length, repeats))  # type: ignore[type-var]
