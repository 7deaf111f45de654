r"""Samplers of other libraries, run on our exact denoisers in float64 and counted.

A peer is one sampler of one library on one of its own grids. It is given starts and a number n of evaluations, takes
as many steps as n pays for, and returns its ends. Two kinds of start:

    scaled   y = x/alpha at sigma/alpha = c: VE, and whatever is VE up to a scale (VP at any alpha: x = y alpha)
    flow     x = z at t = 1 of the linear path

Where a library offers a choice (the lowest sigma, whether to denoise once more at the end), all are tried. diffusers
works in float32 whatever it is given; here the float32 of its modules is float64. Its sigma tables come from its own
functions, between the start's sigma and several lowest ones; n levels and then 0, or where a sampler has no limit at 0
n + 1 levels. What fails (an exception, a value that is not finite, too many evaluations) raises.

    python benchmarks/peers.py GOLDENS      every library against a trajectory that it gave by itself
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from math import isfinite, log, sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from problems import Cloud, Problem
from scipy.optimize import brentq
from torch import Tensor

from gendiff import Gaussian
from gendiff.errors import GendiffError
from gendiff.oracles import Mixture

LOWS = (0.002, 0.01, 0.05)
SHIFTS = (0.3, 0.5, 1.0, 2.0, 3.0)


class Model:
    """An exact denoiser that counts its evaluations and refuses more than its limit."""

    def __init__(self, denoiser: Mixture | Cloud, limit: float = float("inf")) -> None:
        self.denoiser, self.limit, self.calls = denoiser, limit, 0

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x0 | x = alpha x0 + sigma z]."""
        self.calls += 1
        if self.calls > self.limit:
            raise GendiffError("More evaluations than allowed", f"at most {self.limit}")
        return self.denoiser.predict(x, alpha, max(sigma, 1e-6))

    def velocity(self, x: Tensor, sigma: float) -> Tensor:
        """E[z - x0 | x] on the linear path."""
        sigma = max(sigma, 1e-6)
        return (x - self(x, 1 - sigma, sigma)) / sigma


@dataclass(frozen=True)
class Peer:
    """One sampler on one grid; run(model, starts, n) returns the ends."""

    library: str
    sampler: str
    grid: str
    run: Callable[[Model, Tensor, int], Tensor]

    @property
    def name(self) -> str:
        return f"{self.library} {self.sampler}, {self.grid}"

    def error(self, problem: Problem, n: int) -> float:
        """Root mean square per coordinate to the exact ends of the problem.

        Raises:
            GendiffError: If it evaluates more than n times, or ends in something that is not finite.
        """
        model = Model(problem.denoiser, n)
        alpha = problem.denoiser.process.schedule(1.0)[0]
        with double(), torch.no_grad():
            end = self.run(model, problem.x / alpha if alpha else problem.x, n)
        error = float(problem.distances(end).mean().sqrt())
        if not isfinite(error):
            raise GendiffError("Its ends are not finite", "numbers")
        return error


def level(problem: Problem) -> float:
    """sigma/alpha at the start, infinite for the flow."""
    alpha, sigma = problem.denoiser.process.schedule(1.0)
    return sigma / alpha if alpha else float("inf")


@contextmanager
def double() -> Iterator[None]:
    """float64 wherever a library takes torch's default."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def peers(c: float) -> list[Peer]:
    """All of them, from the noise level sigma/alpha = c."""
    if isfinite(c):
        return [*k_diffusion(c), *diffusers(c), *azula(c)]
    return [*diffusers_flow(), *azula(c), *flow_matching()]


def tuned(run: Callable[[Model, Tensor, float], Tensor], model: Model, x: Tensor, n: int) -> Tensor:
    """An adaptive sampler at the tightest tolerance, by bisection, that n evaluations pay for."""
    low, high = 1e-8, 10.0

    def fits(tolerance: float) -> bool:
        trial = Model(model.denoiser, n)
        try:
            run(trial, x, tolerance)
        except GendiffError:
            return False
        return True

    if not fits(high):
        raise GendiffError("More evaluations than allowed at any tolerance", f"at most {n}")
    for _ in range(9):
        middle = sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return run(model, x, high)


# k-diffusion


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


def k_diffusion(c: float) -> list[Peer]:
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

    half = halves
    samplers: dict[str, tuple[Any, Callable[[int], int]]] = {
        "euler": (ks.sample_euler, int),
        "heun": (ks.sample_heun, half),
        "dpm_2": (ks.sample_dpm_2, half),
        "dpmpp_2s": (partial(ks.sample_dpmpp_2s_ancestral, eta=0.0, noise_sampler=silent), half),
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


def halves(n: int) -> int:
    """Steps of two evaluations, the last of one."""
    return (n + 1) // 2


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


# diffusers


class Promoted(ModuleType):
    """A module whose float32 is its float64."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self.module, self.float32 = module, module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@cache
def library() -> Any:
    """diffusers, its schedulers promoted to float64."""
    found = import_module("diffusers")
    for name in (*TABLED, *EDMS, "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler",
                 "PNDMScheduler", "IPNDMScheduler"):  # fmt: skip
        module = sys.modules[getattr(found, name).__module__]
        module.torch, module.np = Promoted(torch), Promoted(np)  # type: ignore[attr-defined]
    found.utils.logging.set_verbosity_error()
    return found


TABLED = (
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
    "SASolverScheduler",
)  # fmt: skip
EDMS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
VE_FORM = TABLED[:4]


@cache
def last_beta(c: float) -> float:
    """The beta_end with which a linear table of 1000 betas ends at sigma/alpha = c."""

    def gap(end: float) -> float:
        return -np.log1p(-np.linspace(1e-4, end, 1000)).sum() - log(1 + c * c)

    found: Any = brentq(gap, 0.001, 0.5, xtol=1e-15)
    return found


def scheduler(name: str, c: float = 1.0, **config: Any) -> Any:
    """A scheduler whose table ends at sigma/alpha = c."""
    return getattr(library(), name)(beta_end=last_beta(c), **config)


Levels = tuple[float, ...]
Table = Callable[[int], Levels]


def tables(c: float) -> dict[str, Table]:
    """diffusers' own sigmas from c: n of them."""

    @lru_cache(maxsize=1000)
    def made(kind: str, low: float, n: int) -> Levels:
        source = scheduler("DPMSolverMultistepScheduler", c)
        ends = np.array([c, low])
        if kind == "lu":
            return tuple(np.exp(source._convert_to_lu(in_lambdas=np.log(ends), num_inference_steps=n)).tolist())
        convert = getattr(source, f"_convert_to_{kind}")
        return tuple(np.asarray(convert(in_sigmas=ends, num_inference_steps=n), dtype=np.float64).tolist())

    @lru_cache(maxsize=1000)
    def spaced(name: str, spacing: str, n: int) -> Levels:
        source = scheduler(name, c, timestep_spacing=spacing)
        source.set_timesteps(n)
        return tuple(source.sigmas[:-1].tolist())

    # "lu" is even in lambda, as "exponential" is.
    kinds = {"karras": LOWS, "exponential": LOWS, "beta": LOWS[1:], "lu": LOWS[1:2]}
    found: dict[str, Table] = {
        f"{kind} {low}": partial(made, kind, low) for kind, lows in kinds.items() for low in lows
    }
    found["linspace"] = partial(spaced, "DPMSolverMultistepScheduler", "linspace")
    found["trailing"] = partial(spaced, "DPMSolverMultistepScheduler", "trailing")
    found["linspace to the end"] = partial(spaced, "EulerDiscreteScheduler", "linspace")
    return found


def put(made: Any, levels: Levels, last: float) -> None:
    """Gives a scheduler these sigmas, by its own way of setting them, and replaces its last one."""
    made._convert_to_karras = lambda in_sigmas, num_inference_steps=None: np.array(levels)
    made._sigma_to_t = lambda sigma, log_sigmas: 0.0  # only a network would ask for the number of the time
    made.set_timesteps(len(levels))
    made.sigmas[-1] = last
    made.set_begin_index(0)


def walked(made: Any, model: Model, x: Tensor, form: str) -> Tensor:
    """The loop of a diffusers pipeline; `form` says how states are scaled and what the model gives."""
    for k, t in enumerate(made.timesteps):
        sigma = float(made.sigmas[k])
        if form == "ve":
            if "KDPM2" in type(made).__name__ and k % 2:
                sigma = float(made.sigmas_interpol[k])
            out = (x - model(x, 1.0, sigma)) / sigma
        elif form == "vp":
            alpha = 1 / sqrt(1 + sigma * sigma)
            out = model(x, alpha, alpha * sigma)
        elif form == "edm":
            out = (model(x, 1.0, sigma) - made.precondition_outputs(x, torch.zeros_like(x), sigma)) / float(
                made.precondition_outputs(torch.zeros(1), torch.ones(1), sigma)
            )
        else:
            out = model.velocity(x, sigma)
        x = made.step(out, t, x).prev_sample
    return x


@cache
def ve_form(name: str, c: float) -> Any:
    """A scheduler whose table ends at c, for sigmas of our choice; made once, since some take long to make."""
    return scheduler(name, c, use_karras_sigmas=True)


def tabled(name: str, c: float, table: Table, config: dict[str, Any], steps: Callable[[int], int], zero: bool) -> Any:
    """A sampler on a table; without `zero` it ends at the table's lowest sigma."""
    form = "ve" if name in VE_FORM else "vp"

    def run(model: Model, x: Tensor, n: int) -> Tensor:
        levels = table(steps(n) + (not zero))
        first = 1.0 if form == "ve" else 1 / sqrt(1 + c * c)
        made = ve_form(name, c) if form == "ve" else scheduler(name, c, use_karras_sigmas=True, **config)
        put(made, levels if zero else levels[:-1], 0.0 if zero else levels[-1])
        made.sigmas[0] = c
        end = walked(made, model, first * x, form)
        last = 0.0 if zero else levels[-1]
        return end if form == "ve" else end * sqrt(1 + last * last)

    return run


def no_noise(t: Any) -> int:
    """SA-Solver's tau of the probability flow."""
    return 0


def multistep() -> list[tuple[str, str, dict[str, Any], bool]]:
    """(label, scheduler, configuration, whether it has a limit at sigma = 0) of the samplers that predict x0."""
    dpm, single, unipc = TABLED[4:7]
    sample = {"prediction_type": "sample"}
    floor = {**sample, "final_sigmas_type": "sigma_min"}
    out: list[tuple[str, str, dict[str, Any], bool]] = [("DDIM (DPM++ 1)", dpm, {**sample, "solver_order": 1}, True)]
    for k in (2, 3):
        kinds = ("midpoint", "heun") if k == 2 else ("midpoint",)
        for kind in kinds:
            plus = {"solver_order": k, "solver_type": kind}
            rates = {**floor, **plus, "algorithm_type": "dpmsolver"}
            out.append((f"DPM++ {k} {kind}", dpm, {**sample, **plus}, True))
            out.append((f"DPM++ {k} {kind} euler_at_final", dpm, {**sample, **plus, "euler_at_final": True}, True))
            out.append((f"DPM++ {k} {kind}", dpm, {**floor, **plus, "lower_order_final": False}, False))
            out.append((f"DPM {k} {kind}", dpm, rates, False))
            out.append((f"DPM {k} {kind} full order", dpm, {**rates, "lower_order_final": False}, False))
            out.append((f"DPM++ {k}S {kind}", single, {**sample, **plus}, True))
            out.append((f"DPM {k}S {kind}", single, rates, False))
        out.append((f"DEIS {k}", "DEISMultistepScheduler", {**sample, "solver_order": k}, False))
        out.append((f"DEIS {k} full order", "DEISMultistepScheduler",
                    {**sample, "solver_order": k, "lower_order_final": False}, False))  # fmt: skip
        still = {"tau_func": no_noise, "predictor_order": k, "corrector_order": k}
        out.append((f"SA-Solver {k} tau 0", "SASolverScheduler", {**sample, **still}, False))
    for k in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            plus = {"solver_order": k, "solver_type": kind}
            out.append((f"UniPC {k} {kind}", unipc, {**sample, **plus}, True))
            out.append((f"UniPC {k} {kind}", unipc, {**floor, **plus}, False))
    return out


def diffusers(c: float) -> list[Peer]:
    """Its schedulers for noise levels, from sigma/alpha = c."""
    with double():
        grids = tables(c)
    out = []
    for label, name, steps in zip(("Euler", "Heun", "LMS", "KDPM2"), VE_FORM, (int, halves, int, halves), strict=True):
        out += [Peer("diffusers", label, g, tabled(name, c, t, {}, steps, True)) for g, t in grids.items()]
    for label, name, config, zero in multistep():
        end = "" if zero else ", not to 0"
        out += [Peer("diffusers", label, f"{g}{end}", tabled(name, c, t, config, int, zero)) for g, t in grids.items()]
    for low in LOWS:
        for kind, rho in (("karras", 3.0), ("karras", 5.0), ("karras", 7.0), ("exponential", 7.0)):
            edm = {"sigma_min": low, "sigma_max": c, "sigma_schedule": kind, "rho": rho}
            for name, label, plus in (
                ("EDMEulerScheduler", "EDM Euler", {}),
                ("EDMDPMSolverMultistepScheduler", "EDM DPM++ 2", {"solver_order": 2}),
                ("EDMDPMSolverMultistepScheduler", "EDM DPM++ 3", {"solver_order": 3}),
                ("EDMDPMSolverMultistepScheduler", "EDM DPM++ 2 heun", {"solver_order": 2, "solver_type": "heun"}),
            ):
                run = partial(edm_run, name, {**edm, **plus})
                out.append(Peer("diffusers", label, f"{kind} {low} {rho}", run))
    for spacing in ("linspace", "leading", "trailing"):
        out.append(Peer("diffusers", "PNDM", spacing, partial(plms, spacing, c)))
    return out


def edm_run(name: str, config: dict[str, Any], model: Model, x: Tensor, n: int) -> Tensor:
    """A sampler with EDM's scaling of the network."""
    made = getattr(library(), name)(**config)
    made.set_timesteps(n)
    made.set_begin_index(0)
    return walked(made, model, x, "edm")


def plms(spacing: str, c: float, model: Model, x: Tensor, n: int) -> Tensor:
    """PNDM without Runge-Kutta steps: n - 1 steps, the second time twice."""
    made = scheduler("PNDMScheduler", c, skip_prk_steps=True, timestep_spacing=spacing, set_alpha_to_one=True)
    made.set_timesteps(n - 1)
    table = made.alphas_cumprod
    x = x * float(table[made.timesteps[0]].sqrt())
    for t in made.timesteps:
        alpha, sigma = float(table[t].sqrt()), float((1 - table[t]).sqrt())
        x = made.step((x - alpha * model(x, alpha, sigma)) / sigma, t, x).prev_sample
    return x


def diffusers_flow() -> list[Peer]:
    """Its schedulers for flows, from t = 1."""
    out = []
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    for shift in SHIFTS:
        out.append(Peer("diffusers", "FlowMatchHeun", f"shift {shift}", partial(flow_heun, shift)))
        for kind in ("", "karras", "exponential", "beta"):
            run = partial(flow_euler, shift, kind)
            out.append(Peer("diffusers", "FlowMatchEuler", f"shift {shift} {kind}".strip(), run))
        for label, name, config, _ in multistep():
            merged = {**config, **flow, "flow_shift": shift}
            ends = ", to sigma_min" if config.get("final_sigmas_type") == "sigma_min" else ""
            out.append(Peer("diffusers", label, f"flow shift {shift}{ends}", partial(flow_multistep, name, merged)))
    for low in LOWS:
        for kind in ("karras", "exponential"):
            for label, name, config, zero in multistep():
                run = partial(flow_tabled, name, {**config, **flow}, kind, low, zero)
                out.append(Peer("diffusers", label, f"flow {kind} {low}{'' if zero else ', not to 0'}", run))
    out.append(Peer("diffusers", "IPNDM", "its own", ipndm))
    return out


def flow_euler(shift: float, kind: str, model: Model, x: Tensor, n: int) -> Tensor:
    """FlowMatchEuler; `kind` respaces its shifted sigmas."""
    made = library().FlowMatchEulerDiscreteScheduler(shift=shift, **({f"use_{kind}_sigmas": True} if kind else {}))
    made.set_timesteps(n)
    return walked(made, model, x, "flow")


def flow_heun(shift: float, model: Model, x: Tensor, n: int) -> Tensor:
    """FlowMatchHeun: two evaluations a step, the last of one."""
    made = library().FlowMatchHeunDiscreteScheduler(shift=shift)
    made.set_timesteps(halves(n))
    return walked(made, model, x, "flow")


def flow_multistep(name: str, config: dict[str, Any], model: Model, x: Tensor, n: int) -> Tensor:
    """A multistep scheduler on shifted flow sigmas."""
    made = getattr(library(), name)(**config)
    made.set_timesteps(n)
    made.set_begin_index(0)
    return walked(made, model, x, "flow")


@lru_cache(maxsize=4000)
def flow_levels(kind: str, low: float, n: int) -> Levels:
    """sigma/alpha from 500 by diffusers' own function, made flow times; the first is as near to 1 as it allows."""
    c = np.array(tables(500.0)[f"{kind} {low}"](n))
    return (1 - 1e-6, *(c / (1 + c)).tolist()[1:])


def flow_tabled(
    name: str, config: dict[str, Any], kind: str, low: float, zero: bool, model: Model, x: Tensor, n: int
) -> Tensor:
    """A multistep scheduler for flows on the sigmas of noise levels."""
    made = getattr(library(), name)(**config)
    levels = flow_levels(kind, low, n + (not zero))
    made.set_timesteps(n)
    made.sigmas[:n] = torch.tensor(levels[:n])
    made.sigmas[-1] = 0.0 if zero else levels[-1]
    made.set_begin_index(0)
    return walked(made, model, x, "flow")


def ipndm(model: Model, x: Tensor, n: int) -> Tensor:
    """Improved PNDM on its own path, alpha = sqrt(1 - sigma^2), sigma from 1 to 0."""
    made = library().IPNDMScheduler()
    made.set_timesteps(n)
    made.set_begin_index(0)
    for k, t in enumerate(made.timesteps):
        alpha, sigma = float(made.alphas[k]), float(made.betas[k])
        x0 = model(x, alpha, sigma)
        x = made.step(alpha * (x - alpha * x0) / sigma - sigma * x0, t, x).prev_sample
    return x


# azula


def azula(c: float) -> list[Peer]:
    """Its samplers, even in the time of its schedules, which begin at sigma/alpha = c, or at 1e6 for the flow."""
    noise, sample, denoise = (import_module(f"azula.{part}") for part in ("noise", "sample", "denoise"))

    class Exact(denoise.Denoiser):
        """Our denoiser as one of azula's."""

        def __init__(self, schedule: Any, model: Model) -> None:
            super().__init__()
            self.schedule, self.model = schedule, model

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            alpha, sigma = self.schedule(t)
            return denoise.DiracPosterior(self.model(x_t, float(alpha), float(sigma)))

    samplers: dict[str, tuple[Any, Callable[[int], int]]] = {
        "DDIM": (sample.DDIMSampler, int),
        "Heun": (sample.HeunSampler, lambda n: n // 2),
        **{
            f"{name} {k}": (partial(getattr(sample, f"{name}Sampler"), order=k), int)
            for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB")
            for k in (2, 3, 4)
        },
    }

    def runs(made: Any, steps: Callable[[int], int], schedule: Any, last: bool) -> Any:
        def run(model: Model, x: Tensor, n: int) -> Tensor:
            walker = made(Exact(schedule, model), steps=steps(n - last), silent=True, dtype=torch.float64)
            (first, _), (alpha, sigma) = (schedule(torch.tensor(u, dtype=torch.float64)) for u in (1.0, 0.0))
            y = walker(float(first) * x if isfinite(c) else x)
            return model(y, float(alpha), float(sigma)) if last else y / float(alpha)

        return run

    out = []
    for low in (1e-3, 1e-2, 3e-2):
        schedules: dict[str, Any] = {}
        if isfinite(c):
            least, cosine = 1 / c, sqrt((1 + low * low) / (1 + c * c))
            schedules[f"VE {low}"] = noise.VESchedule(low, c)
        else:
            least = cosine = 1e-6
        schedules[f"VP {low}"] = noise.VPSchedule(cosine, low)
        schedules[f"cosine {low}"] = noise.CosineSchedule(cosine, low)
        schedules[f"rectified {low}"] = noise.RectifiedSchedule(least, low)
        schedules[f"decay {low}"] = noise.DecaySchedule(least, low)
        for grid, schedule in schedules.items():
            for label, (made, steps) in samplers.items():
                for last in (False, True) if low > 1e-3 else (False,):
                    run = runs(made, steps, schedule, last)
                    out.append(Peer("azula", label, f"{grid}{', denoised' if last else ''}", run))
    return out


# flow_matching


def solved(model: Model, x: Tensor, **how: Any) -> Tensor:
    """Its ODE solver on the exact velocity; its time is 0 for noise."""
    solver = import_module("flow_matching.solver").ODESolver(lambda x, t: -model.velocity(x, 1 - float(t)))
    return solver.sample(x, step_size=None, **how)


def flow_matching() -> list[Peer]:
    """Its ODE solver with torchdiffeq's methods, even in time and on the grid of its picture example."""

    def grid(low: float, top: float, steps: int) -> Tensor:
        if not low:
            return torch.linspace(0, 1, steps + 1)
        sigma = k_sampling().get_sigmas_karras(steps, low, top)
        return torch.cat([torch.zeros(1), 1 - (sigma / (1 + sigma))[1:]])

    def fixed(method: str, cost: int, low: float, top: float) -> Any:
        def run(model: Model, x: Tensor, n: int) -> Tensor:
            return solved(model, x, method=method, time_grid=grid(low, top, n // cost))

        return run

    def free(method: str, model: Model, x: Tensor, tolerance: float) -> Tensor:
        whole = torch.linspace(0, 1, 2)
        return solved(model, x, method=method, rtol=tolerance, atol=tolerance, time_grid=whole)

    out = []
    for method, cost in (("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)):
        out.append(Peer("flow_matching", method, "even", fixed(method, cost, 0.0, 0.0)))
        for low in LOWS:
            out += [Peer("flow_matching", method, f"edm {low} {c}", fixed(method, cost, low, c)) for c in (10.0, 80.0)]
    for method in ("dopri5", "bosh3", "adaptive_heun"):
        run = partial(tuned, partial(free, method))
        out += [Peer("flow_matching", method, "adaptive", run)]
    return out


def apart(goldens: Path) -> dict[str, float]:
    """The largest differences of the ends reached here from those in files that the libraries filled by themselves."""

    def read(name: str) -> dict[str, Tensor]:
        with np.load(goldens / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    g = read("mixture_denoiser")
    model = Model(Mixture(Gaussian(), g["means"], float(g["std"]) ** 2, g["weights"]))
    out = {}

    def compare(name: str, end: Tensor, golden: Tensor) -> None:
        out[name] = float((end - golden).abs().max())

    def named(found: list[Peer], sampler: str, grid: str) -> Peer:
        return next(peer for peer in found if (peer.sampler, peer.grid) == (sampler, grid))

    g = read("traj_k_diffusion")
    for sampler, n in (("euler", 7), ("heun", 13), ("dpmpp_2m", 7)):
        end = named(k_diffusion(50.0), sampler, "karras 0.01 7.0").run(model, g["x_start"], n)
        compare(f"k-diffusion {sampler}", end, g[f"{sampler}__states"][-1])
    end = named(k_diffusion(50.0), "dpm_fast", "to 0.01").run(model, g["x_start"], 7)
    compare("k-diffusion dpm_fast", end, g["dpm_fast__end_at_sigma_min"])

    sample = {"prediction_type": "sample"}
    unipc, dpm = "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"
    for file, tag, name, config, steps in (
        ("traj_unipc", "unipc2_bh2_karras", unipc, {**sample, "solver_order": 2}, int),
        ("traj_unipc", "unipc3_bh2_linspace", unipc, {**sample, "solver_order": 3}, int),
        ("traj_dpmpp_multistep", "2M_linspace", dpm, sample, int),
        ("traj_dpmpp_multistep", "2M_karras", dpm, sample, int),
        ("traj_dpmpp_multistep", "2M_heun_karras", dpm, {**sample, "solver_type": "heun"}, int),
        ("traj_euler_heun_lms_diffusers", "euler_karras", "EulerDiscreteScheduler", {}, int),
        ("traj_euler_heun_lms_diffusers", "heun_karras", "HeunDiscreteScheduler", {}, halves),
    ):
        g = read(file)
        sigma, states = g[f"{tag}__model_sigma"], g[f"{tag}__states"]
        levels = tuple(dict.fromkeys(sigma.tolist()))
        scale = 1.0 if name in VE_FORM else float((1 + sigma[0] ** 2).sqrt())
        run = tabled(name, levels[0], lambda n, levels=levels: levels, config, steps, True)
        compare(f"diffusers {tag}", run(model, scale * states[0], len(sigma)), states[-1])
    g = read("traj_edm_diffusers")
    edm = {"sigma_min": 0.002, "sigma_max": 80.0}
    for tag, name in (("edm_euler", EDMS[0]), ("edm_dpmpp2m", EDMS[1])):
        compare(f"diffusers {tag}", edm_run(name, edm, model, g[f"{tag}__states"][0], 7), g[f"{tag}__states"][-1])
    g = read("traj_flow_diffusers")
    for tag, run, n in (
        ("euler_shift1", partial(flow_euler, 1.0, ""), 7),
        ("euler_shift2", partial(flow_euler, 2.0, ""), 7),
        ("heun_shift3", partial(flow_heun, 3.0), 13),
    ):
        compare(f"diffusers {tag}", run(model, g[f"{tag}__states"][0], n), g[f"{tag}__states"][-1])

    grid = torch.cat([1 - g["euler_shift1__model_sigma"], torch.ones(1)])
    end = solved(model, g["euler_shift1__states"][0], method="euler", time_grid=grid)
    compare("flow_matching euler", end, g["euler_shift1__states"][-1])

    g = read("traj_azula")
    for name, grid in (("VPSchedule", "VP 0.001"), ("CosineSchedule", "cosine 0.001")):
        first = g[f"{name}__alpha"][0]
        for tag, sampler, n in (("DDIMSampler", "DDIM", 7), ("HeunSampler", "Heun", 14), ("zABSampler3", "zAB 3", 7),
                                ("xEABSampler2", "xEAB 2", 7)):  # fmt: skip
            peer = named(azula(float(g[f"{name}__sigma"][0] / first)), sampler, grid)
            end = peer.run(model, g[f"{name}__x_start"] / first, n)
            compare(f"azula {name} {tag}", end, g[f"{name}__{tag}__end"] / g[f"{name}__alpha"][-1])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("goldens", type=Path)
    with double(), torch.no_grad():
        found = apart(parser.parse_args().goldens)
    for name, difference in found.items():
        print(f"{name:45} {difference:.1e}")
    if max(found.values()) > 1e-8:
        raise GendiffError(f"An adapter is {max(found.values()):.1e} from its library", "1e-8 or less")


if __name__ == "__main__":
    main()
