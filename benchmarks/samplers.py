"""Error of every solver and grid on two problems with exact answers, and of tables calibrated to them.

python benchmarks/samplers.py GOLDENS [OUT.json] [--starts 512]

For each start (sigma = 80, and t = 1 of the linear flow) and number of evaluations: the least error of all, by whom,
the default's, and the calibrated table's, as RMS per coordinate to the exact end of the probability flow, in float64.
Peers' best numbers on the same problems are given beside them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendiff import EDM, Gaussian, Heun, Karras, Linear, LinearGrid, LogSNRGrid, Noise, sample
from gendiff.calibration import calibrate
from gendiff.oracles import Mixture
from gendiff.solvers import (
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    Adams,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    Midpoint,
    Soft,
    SoftGrid,
    Solver,
    UniPC,
    recommended,
)
from gendiff.times import Grid

EVALUATIONS = (5, 8, 10, 15, 20, 30, 50)
PEERS = {
    "gmm2d": (6.9e-2, 3.1e-2, 2.0e-2, 6.0e-3, 3.4e-3, 1.1e-3, 5.2e-4),
    "gauss16": (1.9e-2, 5.2e-3, 3.6e-3, 2.6e-3, 9.2e-4, 4.5e-4, 4.4e-5),
}
SOLVERS: dict[str, Callable[[int, Grid], Solver]] = {
    "DPM++ 2M": DPMpp2M,
    "DPM++ 3M": DPMpp3M,
    **{f"DEIS {k}": lambda n, g, k=k: DEIS(n, k, g) for k in (2, 3, 4)},
    **{f"iPNDM {k}": lambda n, g, k=k: IPNDM(n, k, g) for k in (2, 3, 4)},
    **{f"LMS {k}": lambda n, g, k=k: LMS(n, k, g) for k in (3, 4)},
    **{f"UniPC {k}": lambda n, g, k=k: UniPC(n, k, g) for k in (2, 3)},
    **{
        f"Adams {k}{' corrected' if c else ''} in Soft({w})": lambda n, g, k=k, c=c, w=w: Adams(
            n, k, g, Soft(w), corrector=c
        )
        for k, c, w in [(2, 3, 0.2), (2, 3, 0.3), (3, 0, 0.3), (3, 3, 0.1), (3, 3, 0.2), (3, 3, 0.3), (4, 4, 0.3)]
    },
    "rates in Soft(0.1)": lambda n, g: Adams(n, 3, g, Soft(0.1), rates=True),
    "rates in Soft(0.3) corrected": lambda n, g: Adams(n, 3, g, Soft(0.3), rates=True, corrector=3),
    "PNDM": lambda n, g: PNDM(n - 1, g),
    "Heun": lambda n, g: Heun((n + 1) // 2, g),
    "Midpoint": lambda n, g: Midpoint((n + 1) // 2, g),
    "DPM++ 2S": lambda n, g: DPMpp2S((n + 1) // 2, g),
}
GRIDS: list[Grid] = [
    *(SoftGrid(scale, power) for scale in (0.02, 0.05, 0.1, 0.2) for power in (1.0, 1.3, 1.6)),
    *(Karras(low, 80.0, rho) for low in (0.002, 0.01, 0.03, 0.08) for rho in (3.0, 5.0, 7.0)),
    *(LogSNRGrid(low, 80.0) for low in (0.01, 0.05)),
    LinearGrid(),
]


class Problem:
    """One data distribution, one start, and the exact ends."""

    def __init__(self, arrays: Any, name: str, start: str, count: int) -> None:
        def read(key: str) -> Tensor:
            return torch.from_numpy(arrays[f"{name}__{key}"])

        schedule = EDM(80.0, 7.0) if start == "ve_from_80" else Linear()
        self.denoiser = Mixture(Gaussian(schedule), read("means"), read("eigvals"), read("weights"), read("eigvecs"))
        self.x = read("z")[:count] * (80.0 if start == "ve_from_80" else 1.0)
        self.end = read(f"end_{start}")[:count]

    def distances(self, solver: Solver) -> Tensor:
        noise = Noise.of(0, len(self.x))
        return (sample(self.denoiser, self.x, solver=solver, noise=noise, start=self.x) - self.end).square().mean(1)

    def error(self, solver: Solver) -> float:
        return float(self.distances(solver).mean().sqrt())

    def measure(self) -> dict[str, Any]:
        out: dict[str, Any] = {"evaluations": EVALUATIONS, "best": [], "by": [], "default": [], "calibrated": []}
        for n in EVALUATIONS:
            tried = {}
            for grid in GRIDS:
                for label, make in SOLVERS.items():
                    solver = make(n, grid)
                    if solver.evaluations(self.denoiser.process) <= n:
                        tried[f"{label}, {grid!r}"] = self.error(solver)
            best = min(tried, key=lambda k: tried[k] if np.isfinite(tried[k]) else np.inf)
            out["best"].append(tried[best])
            out["by"].append(best)
            out["default"].append(self.error(recommended(self.denoiser.process, n)))
        out["calibrated"] = self.calibrated((5, 8, 10))
        return out

    def calibrated(self, counts: Sequence[int]) -> list[dict[str, float]]:
        began = time.perf_counter()
        like = torch.empty(256, self.x.shape[1], dtype=torch.float64)
        # The pilots are drawn from the prior, another seed than the starts that are measured.
        solver = calibrate(self.denoiser, like, evaluations=counts, noise=Noise.of(77, 256), refine=2)
        seconds = time.perf_counter() - began
        out = []
        for n in counts:
            square = self.distances(replace(solver, steps=n))
            out.append(
                {
                    "evaluations": n,
                    "rms": float(square.mean().sqrt()),
                    "median": float(square.sqrt().median()),
                    "seconds for all": round(seconds, 1),
                }
            )
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("goldens", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "results" / "samplers.json")
    parser.add_argument("--starts", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"starts": args.starts}
    with np.load(args.goldens / "problems.npz") as arrays:
        for name, peers in PEERS.items():
            result[name] = {"best peer": peers}
            for start in ("ve_from_80", "flow_from_t1"):
                found = Problem(arrays, name, start, args.starts).measure()
                result[name][start] = found
                print(name, start)
                for key in ("best", "default"):
                    print(f"  {key:10}", *(f"{v:.1e} ({v / p:.2f})" for v, p in zip(found[key], peers, strict=True)))
                print("  calibrated", *(f"{v['rms']:.1e} (median {v['median']:.1e})" for v in found["calibrated"]))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
