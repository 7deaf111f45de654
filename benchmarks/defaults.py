"""How the default `Adams` does by order, grid and what it is told of the data: the figures its default was chosen by.

    python benchmarks/defaults.py problems GOLDENS   orders 1 to 4, grids and others' rules on all problems, 64 starts
    python benchmarks/defaults.py proteins           the shipped proteins: shares of right CA-CA steps and C-N bonds
    python benchmarks/defaults.py model FILE         a model's own fine trajectories, RMS per degree of freedom

Numbers are printed and written to --out as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import gendiff
from gendiff import Adams, DPMpp2M, Heun, Karras, PowerGrid
from gendiff.sampling.solvers import DEIS, IPNDM, Circle, Points, Soft, Solver, UniPC
from gendiff_recipes.evaluation import default_request

EVALUATIONS = (8, 10, 12, 15, 20)


def candidates() -> dict[str, Callable[[int, float], Solver]]:
    """Solvers by name, of a number of steps and the first sigma/alpha."""
    found: dict[str, Callable[[int, float], Solver]] = {
        "default": lambda n, c: Adams(n, times=PowerGrid(1.65, c)),  # the problems' starts stand at t = 1
        "Heun": lambda n, c: Heun(n // 2, PowerGrid(1.5, c)),
    }
    for power in (1.2, 1.5, 1.65, 1.8, 2.1):
        for k in (2, 3, 4):
            for share in (0.35, 0.4, 0.5, 0.7, 1.0):
                found[f"A{k} {share} p{power}"] = lambda n, c, k=k, p=power, d=share: Adams(
                    n, k, PowerGrid(p, c), Circle(share=d)
                )
    for power in (1.5, 1.8, 2.1):
        found[f"2M p{power}"] = lambda n, c, p=power: DPMpp2M(n, PowerGrid(p, c))
        found[f"UniPC2 p{power}"] = lambda n, c, p=power: UniPC(n, 2, PowerGrid(p, c))
        found[f"iPNDM3 p{power}"] = lambda n, c, p=power: IPNDM(n, 3, PowerGrid(p, c))
        found[f"Soft3 p{power}"] = lambda n, c, p=power: Adams(n, 3, PowerGrid(p, c), Points(Soft(0.3)), 3)
        for k in (2, 3):
            found[f"DEIS{k} p{power}"] = lambda n, c, k=k, p=power: DEIS(n, k, PowerGrid(p, c))
    return found


def problems(goldens: Path, starts: int, only: str = "") -> dict[str, Any]:
    """RMS per coordinate to the exact ends, by problem, solver and evaluations; and how the default stands."""
    from problems import Problem, named, others

    cut = [
        Problem(p.name, p.start, p.denoiser, p.x[:starts], None if p.known is None else p.known[:starts])
        for p in named(goldens)
    ]
    out: dict[str, dict[str, float]] = {}
    medians: dict[str, float] = {}
    for problem in [*cut, *others(starts)]:
        if only not in problem.name:
            continue
        alpha, sigma = problem.denoiser.process.schedule(1.0)
        c = sigma / alpha if alpha > 0 else math.inf
        out[f"{problem.name} {problem.start}"] = {
            f"{k}|{n}": problem.error(f(n, c)) for k, f in candidates().items() for n in EVALUATIONS
        }
        few, many = (problem.distances(problem.ends(candidates()["default"](n, c))).median() for n in (12, 20))
        medians[f"{problem.name} {problem.start}"] = float((many / few).sqrt())
        print(problem.name, problem.start, flush=True)
    means = {
        k: {n: statistics.geometric_mean(found[f"{k}|{n}"] for found in out.values()) for n in EVALUATIONS}
        for k in candidates()
    }
    return {
        "default": {**standing(out), "20 steps over 12, medians of the starts": medians},
        "RMS per coordinate, geometric mean over the starts": means,
        "RMS per coordinate of the default": {
            name: {n: found[f"default|{n}"] for n in EVALUATIONS} for name, found in out.items()
        },
    }


def standing(errors: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The default against the one best solver of all, the best of each cell, and itself at fewer steps."""

    def mean(solver: str, counts: tuple[int, ...] = EVALUATIONS) -> float:
        return statistics.geometric_mean(found[f"{solver}|{n}"] for found in errors.values() for n in counts)

    best = min(candidates(), key=mean)
    cells = [
        found[f"default|{n}"] / min(v for k, v in found.items() if k.endswith(f"|{n}"))
        for found in errors.values()
        for n in EVALUATIONS
    ]
    return {
        "best solver": best,
        "over the best solver": mean("default") / mean(best),
        "over the best solver, by evaluations": {n: mean("default", (n,)) / mean(best, (n,)) for n in EVALUATIONS},
        "over the best of each cell": statistics.geometric_mean(cells),
        "20 steps over 12": {name: found["default|20"] / found["default|12"] for name, found in errors.items()},
    }


def proteins(n: int, seed: int) -> dict[str, Any]:
    """Shares of CA-CA steps within 0.1 A of 3.8, and of C-N bonds within 0.1 A of 1.33."""
    from gendiff_proteins.metrics import bonds, steps

    model = gendiff.load("weights/proteins_backbones.safetensors")
    asked = {**default_request(model.domain, n), "fold": None}
    out = {}
    grids = [PowerGrid(power) for power in (1.2, 1.35, 1.5, 1.65)]
    for solver in (*(Adams(k, times=grid) for grid in grids for k in (8, 12, 20)), Adams(20, 4), DPMpp2M(20)):
        found = model.sample(n, sampler=solver, seed=seed, **asked)
        right = [float((abs(x - m) < 0.1).mean()) for x, m in ((steps(found), 3.8), (bonds(found)["C-N"], 1.33))]
        out[repr(solver)] = dict(zip(("CA-CA", "C-N"), right, strict=True))
        print(repr(solver), right, flush=True)
    return out


def trajectories(path: Path, n: int) -> dict[str, Any]:
    """RMS per degree of freedom to the ends of Heun(48) on PowerGrid(1.3), by grid, order and steps."""
    model = gendiff.load(path)
    asked = default_request(model.domain, n)
    truth, masks = model.states(n, batch=n, sampler=Heun(48, times=PowerGrid(1.3)), **asked)
    space = model.denoiser.process.masked(masks[0]).space
    freedom = float(space.dim(truth[0]).sum())
    out = {}
    for grid in (PowerGrid(1.1), PowerGrid(1.2), PowerGrid(1.35), PowerGrid(1.65), Karras(0.01, 40.0)):
        for solver in (*(Adams(steps, times=grid) for steps in (8, 12, 20)), Adams(20, 4, grid), DPMpp2M(12, grid)):
            x, _ = model.states(n, batch=n, sampler=solver, **asked)
            out[repr(solver)] = float((space.dist2(x[0], truth[0]).double().sum() / freedom).sqrt())
            print(repr(solver), out[repr(solver)], flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("problems", "proteins", "model"))
    parser.add_argument("path", type=Path, nargs="?", help="the folder of problems.npz, or a model")
    parser.add_argument("--only", default="", help="problems with this in their name")
    parser.add_argument("-n", type=int, help="starts (64), chains (12), samples (8)")
    parser.add_argument("--out", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "proteins":
        found = proteins(args.n or 12, 1)
    elif args.path is None:
        parser.error(f"{args.what} needs a path")
    elif args.what == "problems":
        found = problems(args.path, args.n or 64, args.only)
    else:
        found = trajectories(args.path, args.n or 8)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
