"""Every adapter against a trajectory that its library gave by itself.

python -m benchmarks.peers GOLDENS
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendiff import Gaussian
from gendiff.denoisers import Mixture
from gendiff.errors import GendiffError

from . import azula, diffusers, flow_matching, k_diffusion
from .shared import Model, Peer, double, halves


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
        end = named(k_diffusion.peers(50.0), sampler, "karras 0.01 7.0").run(model, g["x_start"], n)
        compare(f"k-diffusion {sampler}", end, g[f"{sampler}__states"][-1])
    end = named(k_diffusion.peers(50.0), "dpm_fast", "to 0.01").run(model, g["x_start"], 7)
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
        scale = 1.0 if name in diffusers.VE_FORM else float((1 + sigma[0] ** 2).sqrt())
        run = diffusers.tabled(name, levels[0], lambda n, levels=levels: levels, config, steps, True)
        compare(f"diffusers {tag}", run(model, scale * states[0], len(sigma)), states[-1])
    g = read("traj_edm_diffusers")
    edm = {"sigma_min": 0.002, "sigma_max": 80.0}
    for tag, name in (("edm_euler", diffusers.EDMS[0]), ("edm_dpmpp2m", diffusers.EDMS[1])):
        states = g[f"{tag}__states"]
        compare(f"diffusers {tag}", diffusers.edm_run(name, edm, model, states[0], 7), states[-1])
    g = read("traj_flow_diffusers")
    for tag, run, n in (
        ("euler_shift1", partial(diffusers.flow_euler, 1.0, ""), 7),
        ("euler_shift2", partial(diffusers.flow_euler, 2.0, ""), 7),
        ("heun_shift3", partial(diffusers.flow_heun, 3.0), 13),
    ):
        compare(f"diffusers {tag}", run(model, g[f"{tag}__states"][0], n), g[f"{tag}__states"][-1])

    grid = torch.cat([1 - g["euler_shift1__model_sigma"], torch.ones(1)])
    end = flow_matching.solved(model, g["euler_shift1__states"][0], method="euler", time_grid=grid)
    compare("flow_matching euler", end, g["euler_shift1__states"][-1])

    g = read("traj_azula")
    for name, grid in (("VPSchedule", "VP 0.001"), ("CosineSchedule", "cosine 0.001")):
        first = g[f"{name}__alpha"][0]
        for tag, sampler, n in (("DDIMSampler", "DDIM", 7), ("HeunSampler", "Heun", 14), ("zABSampler3", "zAB 3", 7),
                                ("xEABSampler2", "xEAB 2", 7)):  # fmt: skip
            peer = named(azula.peers(float(g[f"{name}__sigma"][0] / first)), sampler, grid)
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
