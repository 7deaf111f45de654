"""k-diffusion: its samplers on its own sigmas. Only its `sampling` is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor

from .shared import LOWS, Model, Peer, halves, tuned


@cache
def k_sampling() -> Any:
    """k_diffusion.sampling, without what the rest of the package would import."""
    package = ModuleType("k_diffusion")
    spec = find_spec("k_diffusion")
    if spec is None:
        raise ImportError("k_diffusion is not installed; see benchmarks/README.md")
    package.__path__ = list(spec.submodule_search_locations or [])
    pictures = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    missing = [name for name in pictures if name not in sys.modules]
    sys.modules["k_diffusion"] = package
    sys.modules.update({name: ModuleType(name) for name in missing})
    sys.modules["torchvision.transforms"].functional = sys.modules[pictures[-1]]  # type: ignore[attr-defined]
    sampling = import_module("k_diffusion.sampling")
    for name in missing:
        del sys.modules[name]
    return sampling


def peers(c: float) -> list[Peer]:
    """Its samplers on its own sigmas, from sigma = c."""
    ks = k_sampling()

    def runs(sample: Any, steps: Callable[[int], int], sigmas: Callable[[int], Tensor]) -> Any:
        def run(model: Model, x: Tensor, n: int) -> Tensor:
            levels = sigmas(steps(n))
            # Powers and exponentials miss the start by rounding.
            levels[0] = c
            return sample(lambda y, sigma: model(y, 1.0, float(sigma[0])), x, levels, disable=True)

        return run

    def silent(a: Any, b: Any) -> float:
        return 0.0

    samplers: dict[str, tuple[Any, Callable[[int], int]]] = {
        "euler": (ks.sample_euler, int),
        "heun": (ks.sample_heun, halves),
        "dpm_2": (ks.sample_dpm_2, halves),
        "dpmpp_2s": (partial(ks.sample_dpmpp_2s_ancestral, eta=0.0, noise_sampler=silent), halves),
        "dpmpp_2m": (ks.sample_dpmpp_2m, int),
        "dpmpp_2m_sde heun eta 0": (
            partial(ks.sample_dpmpp_2m_sde, eta=0.0, solver_type="heun", noise_sampler=silent), int,
        ),
        "dpmpp_3m_sde eta 0": (partial(ks.sample_dpmpp_3m_sde, eta=0.0, noise_sampler=silent), int),
        **{f"lms {k}": (partial(ks.sample_lms, order=k), int) for k in (2, 3, 4)},
    }  # fmt: skip
    grids: dict[str, Callable[[int], Tensor]] = {}
    for low in LOWS:
        for rho in (3.0, 5.0, 7.0):
            grids[f"karras {low} {rho}"] = partial(ks.get_sigmas_karras, sigma_min=low, sigma_max=c, rho=rho)
        grids[f"exponential {low}"] = partial(ks.get_sigmas_exponential, sigma_min=low, sigma_max=c)
        for rho in (0.7, 1.5):
            grids[f"polyexponential {low} {rho}"] = partial(
                ks.get_sigmas_polyexponential, sigma_min=low, sigma_max=c, rho=rho
            )
    out = [
        Peer("k-diffusion", label, grid, runs(sample, steps, sigmas))
        for label, (sample, steps) in samplers.items()
        for grid, sigmas in grids.items()
    ]
    for low in LOWS:
        for last in (False, True):
            out.append(Peer("k-diffusion", "dpm_fast", ended(low, last), partial(fast, c, low, last)))
            for order in (2, 3):
                run = partial(adaptive, c, low, last, order)
                out.append(Peer("k-diffusion", f"dpm_adaptive {order}", ended(low, last), partial(tuned, run)))
    return out


def ended(low: float, last: bool) -> str:
    return f"to {low}{', denoised' if last else ''}"


def fast(c: float, low: float, last: bool, model: Model, x: Tensor, n: int) -> Tensor:
    """DPM-Solver-fast to sigma = low, with the last evaluation kept for a denoising where asked for."""
    y = k_sampling().sample_dpm_fast(
        lambda y, sigma: model(y, 1.0, float(sigma[0])), x, low, c, n - last, disable=True,
        noise_sampler=lambda a, b: 0.0,
    )  # fmt: skip
    return model(y, 1.0, low) if last else y


def adaptive(c: float, low: float, last: bool, order: int, model: Model, x: Tensor, tolerance: float) -> Tensor:
    """DPM-Solver-12 or 23 to sigma = low."""
    y = k_sampling().sample_dpm_adaptive(
        lambda y, sigma: model(y, 1.0, float(sigma[0])), x, low, c, disable=True, order=order, rtol=tolerance,
        atol=tolerance * 0.156, noise_sampler=lambda a, b: 0.0,
    )  # fmt: skip
    return model(y, 1.0, low) if last else y
