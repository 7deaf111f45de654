"""What sampling costs beside the network: time per step, and state-sized tensors held, of every solver.

python benchmarks/overhead.py [OUT.json]

Time is that of the process (not of the clock on the wall), on one thread, for a state of 1 x 4 x 64 x 64 float32 and a
denoiser that returns a fixed tensor: the least of many runs, per step of the grid. One multiplication and one addition
of such tensors, measured in the same way, stand beside it: they are what a row is made of.

Tensors are counted, not sampled: a dispatch mode sees every operation, remembers each storage of the state's size or
more while a tensor of it lives, and keeps the largest sum, in states. The state and the predictions that the solver
remembers are among them. The network's inner tensors are not, nor those in which random numbers are made.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendiff import EDM, Gaussian, Noise, sample
from gendiff.sampling import table
from gendiff.sampling.solvers import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    RK4,
    Adams,
    Churn,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    DPMSolver,
    Euler,
    Heun,
    Midpoint,
    Points,
    SASolver,
    Solver,
    UniPC,
)
from gendiff.testing import Costs, Plain

STEPS = 50
SOLVERS: dict[str, Solver] = {
    "Euler": Euler(STEPS),
    "DDIM": DDIM(STEPS),
    "DPM++ 2M": DPMpp2M(STEPS),
    "DPM++ 3M": DPMpp3M(STEPS),
    "Adams (default: 4, corrected)": Adams(STEPS),
    "Adams 3": Adams(STEPS, 3, corrector=0),
    "Adams 2, corrected": Adams(STEPS, 2, corrector=3),
    "Adams 4 on points, corrected": Adams(STEPS, view=Points()),
    "UniPC 2": UniPC(STEPS, 2),
    "UniPC 3": UniPC(STEPS, 3),
    "UniPC 3, not corrected": UniPC(STEPS, 3, corrector=False),
    "DEIS 3": DEIS(STEPS),
    "LMS 4": LMS(STEPS),
    "iPNDM 4": IPNDM(STEPS),
    "PNDM": PNDM(STEPS),
    "Heun": Heun(STEPS),
    "Midpoint": Midpoint(STEPS),
    "DPM++ 2S": DPMpp2S(STEPS),
    "DPM-Solver 2": DPMSolver(STEPS),
    "DPM-Solver 3": DPMSolver(STEPS, 3),
    "RK4": RK4(STEPS),
    "DDPM": DDPM(STEPS),
    "DPM++ 2M, eta 1": DPMpp2M(STEPS, eta=1.0),
    "SA-Solver": SASolver(STEPS),
    "Churn(Heun)": Churn(STEPS),
}
LIKE = torch.empty(1, 4, 64, 64)


class Fixed:
    """A denoiser that returns one tensor, or copies of it."""

    def __init__(self, copies: bool = False) -> None:
        self.process = Gaussian(EDM())
        self.out = torch.linspace(-1, 1, LIKE.numel()).reshape(LIKE.shape)
        self.copies = copies

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        return self.out.clone() if self.copies else self.out


def least(f: Callable[[], Any], per: int, seconds: float = 1.5) -> float:
    """Microseconds of process time per unit: the least over as many runs as fit."""
    f()
    found, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.process_time()
        f()
        found = min(found, time.process_time() - began)
    return found / per * 1e6


def repeated(f: Callable[[], Any]) -> None:
    """A hundred calls, whose results are let go of at once."""
    for _ in range(100):
        f()


@torch.no_grad()
def measure(solver: Solver) -> dict[str, float]:
    """Time and tensors of one solver."""
    fixed = Fixed()
    rows = table(solver, fixed.process)
    steps = len(solver.times(fixed.process, solver.steps)) - 1
    noise, start = Noise.of(0, 1), torch.ones_like(LIKE)
    timed = least(lambda: sample(fixed, LIKE, solver=solver, noise=noise, start=start), steps)
    copies = Fixed(copies=True)
    with Costs(LIKE) as costs:
        sample(copies, LIKE, solver=solver, noise=Plain(0, torch.arange(1)))
    evaluations = solver.evaluations(fixed.process)
    return {
        "microseconds per step": round(timed, 1),
        "evaluations per step": round(evaluations / steps, 2),
        "predictions mixed at most": max(row.reach for row in rows),
        "operations per step": round((costs.operations - evaluations) / steps, 2),
        "states held at most": costs.peak,
    }


def processor() -> str:
    """The name of the processor, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "results" / "overhead.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    x, y = torch.ones_like(LIKE), torch.zeros_like(LIKE)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": f"python {' '.join(sys.argv)}",
        "hardware": f"{processor()}, one thread, other programs beside it",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "state": list(LIKE.shape),
        "steps": STEPS,
        "one multiplication, microseconds": round(least(lambda: repeated(lambda: x * 1.5), 100), 2),
        "one addition, microseconds": round(least(lambda: repeated(lambda: y.add_(x, alpha=0.5)), 100), 2),
        "solvers": {},
    }
    for name, solver in SOLVERS.items():
        result["solvers"][name] = found = measure(solver)
        print(f"{name:24}", *found.values(), flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
