"""diffusers: its schedulers for noise levels and for flows.

It works in float32 whatever it is given; here the float32 of its modules is float64. Its sigma tables come from its own
functions, between the start's sigma and several lowest ones; n levels and then 0, or where a sampler has no limit at 0
n + 1 levels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, lru_cache, partial
from importlib import import_module
from math import log, sqrt
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from .shared import LOWS, Model, Peer, double, halves

SHIFTS = (0.3, 0.5, 1.0, 2.0, 3.0)


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


def peers(c: float) -> list[Peer]:
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


def flow_peers() -> list[Peer]:
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
