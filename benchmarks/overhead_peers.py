"""Time of a sampler's step beyond the network: ours and other libraries', state 1 x 4 x 64 x 64, float32, one thread.

    python benchmarks/overhead_peers.py [OUT.json]

The network hands back a tensor made beforehand. A run takes STEPS steps on a table that is set up before, which
pipelines do for each batch; the setup is given beside. Least of the repeats, in microseconds of processor time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peers.k_diffusion import k_sampling
from torch import Tensor

from gendiff import EDM, Gaussian, Linear, Noise, sample
from gendiff.sampling.grids import Karras
from gendiff.sampling.solvers import Adams, DPMpp2M, Euler, Solver, UniPC

STEPS, REPEATS = 50, 40


class Still:
    """A denoiser of ours that always predicts the same."""

    def __init__(self, process: Gaussian, x0: Tensor) -> None:
        self.process, self.x0 = process, x0

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        return self.x0


def least(run: Callable[[], Any]) -> float:
    """Processor time of a run in seconds."""
    times = []
    for _ in range(REPEATS):
        since = time.process_time()
        run()
        times.append(time.process_time() - since)
    return min(times)


def gendiff(solver: Solver, process: Gaussian, x0: Tensor, x: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(setup, run) of a solver of ours: the setup writes its rows, which the run finds written."""
    noise = Noise.of(0, 1)
    return lambda: solver.rows(process), lambda: sample(Still(process, x0), x, solver=solver, noise=noise, start=x)


def k_diffusion(x0: Tensor, x: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    ks = k_sampling()
    sigmas = ks.get_sigmas_karras(STEPS, 0.002, 80.0)
    return (
        lambda: ks.get_sigmas_karras(STEPS, 0.002, 80.0),
        lambda: ks.sample_dpmpp_2m(lambda y, sigma: x0, x, sigmas, disable=True),
    )


def diffusers(name: str, x0: Tensor, x: Tensor, **config: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    made = getattr(import_module("diffusers"), name)(**config)

    def walk() -> None:
        y = x
        for t in made.timesteps:
            y = made.step(x0, t, y, return_dict=False)[0]

    def both() -> None:
        made.set_timesteps(STEPS)
        walk()

    return lambda: made.set_timesteps(STEPS), both


def azula(x0: Tensor, x: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    denoise, noise, walk = (import_module(f"azula.{part}") for part in ("denoise", "noise", "sample"))

    class Constant(denoise.Denoiser):
        """A denoiser of azula's that always predicts the same."""

        schedule = noise.VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return denoise.DiracPosterior(x0)

    made = walk.xEABSampler(Constant(), steps=STEPS, silent=True)
    return lambda: None, lambda: made(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "results" / "overhead_peers.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x0, x = (torch.randn(1, 4, 64, 64, generator=generator) for _ in range(2))
    karras = Karras(0.002, 80.0)
    edm, linear = Gaussian(EDM()), Gaussian(Linear())
    cases = {
        "gendiff DPM++ 2M": gendiff(DPMpp2M(STEPS, karras), edm, x0, x),
        "gendiff UniPC 2": gendiff(UniPC(STEPS, 2, karras), edm, x0, x),
        "gendiff Adams 3": gendiff(Adams(STEPS), edm, x0, x),
        "gendiff Euler, flow": gendiff(Euler(STEPS), linear, x0, x),
        "k-diffusion dpmpp_2m": k_diffusion(x0, x),
        "diffusers DPM++ 2M": diffusers("DPMSolverMultistepScheduler", x0, x, prediction_type="sample"),
        "diffusers UniPC 2": diffusers("UniPCMultistepScheduler", x0, x, prediction_type="sample"),
        "diffusers FlowMatchEuler": diffusers("FlowMatchEulerDiscreteScheduler", x0, x),
        "azula xEAB 2": azula(x0, x),
    }
    result: dict[str, Any] = {
        "date": str(date.today()),
        "command": " ".join(["python", *sys.argv]),
        "hardware": f"{platform.processor() or platform.machine()}, one thread",
        "versions": {name: version(name) for name in ("torch", "diffusers", "k-diffusion", "azula")},
        "steps": STEPS,
        "microseconds of processor time": {},
    }
    for name, (setup, run) in cases.items():
        run()
        prepared, whole = least(setup), least(run)
        # diffusers' run has to set the table up again, since its schedulers remember where they are.
        walk = whole - prepared if name.startswith("diffusers") else whole
        row = {"a step": round(walk / STEPS * 1e6, 1), "setup": round(prepared * 1e6, 1)}
        result["microseconds of processor time"][name] = row
        print(f"{name:26} {row['a step']:7.1f} us a step   {row['setup']:9.1f} us setup", flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
