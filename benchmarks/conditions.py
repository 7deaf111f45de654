"""How to fill in what is known of a picture: ways of sampling under a condition, on a trained network.

    python benchmarks/conditions.py [--passes 120] [--pictures 10] [--few 5] [--draws 2]

The shipped Fashion-MNIST model, no label given, test pictures it was not trained on. Four problems:

    lower     rows 14 to 27 are unknown
    hole      the 12 x 12 pixels in the middle are unknown
    small     means over 4 x 4 pixels are known, with noise 0.05
    blurred   a Gaussian blur of 1.5 pixels is known, with noise 0.05

Every way has the same number of passes: evaluations of the network and products with its Jacobian, which cost about as
much. Its steps are what it can afford. Numbers are of pixels in [0, 1], over the unknown ones (all, where none is known
as such), beside those of the true pictures:

    known       RMS of A x - A x_true (zero or the noise, where the condition is met)
    best, mean  mean square error of the better draw, and of the mean of the draws, a picture at a time
    class       share of draws in which a classifier that saw real pictures alone recognises the class of the true one
    white       share of pixels above 0.98; saturated patches raise it
    rough       mean square difference of neighbouring pixels
    spread      RMS difference of two draws for one picture

The data folder is named by GENDIFF_DATA. One thread. JSON and a picture go to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from quality import hardware
from torch import Tensor

import gendiff
from gendiff import DDPM, DPS, MMPS, TMPD, DiffPIR, Given, Measurement, Model, PiGDM
from gendiff.guidance import Average, Blur, LinearOperator, Mask, Method, with_resampling
from gendiff.random import Noise
from gendiff.sampling.solvers import Solver
from gendiff_images import Judge, write

ROOT = Path(__file__).resolve().parents[1]
Way = Callable[[Model, int], tuple[Solver, Method | None]]


def repeated(repeats: int, stochastic: bool = False) -> Way:
    """The model's sampler (or DDPM) on a grid walked up and down, as many steps as the passes allow."""

    def make(model: Model, passes: int) -> tuple[Solver, None]:
        solver: Any = DDPM() if stochastic else model.sampler
        best = 1
        for steps in range(1, passes + 1):
            tried = replace(solver, steps=steps)
            if repeats > 1:
                tried = with_resampling(tried, repeats)
            best = steps if tried.evaluations(model.denoiser.process) <= passes else best
        solver = replace(solver, steps=best)
        # One walk down is a grid that goes up nowhere, so that the model does not repeat it.
        return with_resampling(solver, repeats), None

    return make


def measured(method: Method, cost: int, stochastic: bool = False) -> Way:
    """A method that takes `cost` passes a step, with the model's sampler (or DDPM)."""
    return lambda model, passes: (replace(DDPM() if stochastic else model.sampler, steps=passes // cost), method)  # type: ignore[type-var]


GRIDS: dict[str, Way] = {
    "replacement": repeated(1),
    "repeated 5 times": repeated(5),
    "repeated 10 times": repeated(10),
    "repeated 20 times": repeated(20),
    "DDPM, repeated 5 times": repeated(5, True),
}
METHODS: dict[str, Way] = {
    "PiGDM": measured(PiGDM(), 2),
    "MMPS(1)": measured(MMPS(1), 3),
    "MMPS(3)": measured(MMPS(3), 5),
    "MMPS(5)": measured(MMPS(5), 7),
    "TMPD": measured(TMPD(), 3),
    "DiffPIR": measured(DiffPIR(), 1),
    "DiffPIR, DDPM": measured(DiffPIR(), 1, True),
    "DPS(0.5)": measured(DPS(0.5), 2),
    "DPS(1.5)": measured(DPS(1.5), 2),
}


def keep(rows: slice, columns: slice) -> Tensor:
    """All known but a rectangle: [1, 1, 28, 28]."""
    known = torch.ones(1, 1, 28, 28, dtype=torch.bool)
    known[..., rows, columns] = False
    return known


PROBLEMS: dict[str, tuple[LinearOperator, float]] = {
    "lower": (Mask(keep(slice(14, 28), slice(None))), 0.0),
    "hole": (Mask(keep(slice(8, 20), slice(8, 20))), 0.0),
    "small": (Average(4), 0.05),
    "blurred": (Blur.gaussian(1.5), 0.05),
}


def measures(x: Tensor, truth: Tensor, operator: LinearOperator, labels: Tensor, judge: Judge) -> dict[str, float]:
    """The numbers above, of pictures x [pictures, draws, 1, 28, 28]; truth [pictures, 1, 28, 28]."""
    hole = ~operator.keep[0] if isinstance(operator, Mask) else torch.ones(1, 28, 28, dtype=torch.bool)
    errors = (x - truth[:, None])[..., hole].square().mean(-1)
    average = (x.mean(1) - truth)[..., hole].square().mean(-1)
    seen = operator(x.flatten(0, 1)) - operator(truth.repeat_interleave(x.shape[1], 0))
    share = float(hole.float().mean()) if isinstance(operator, Mask) else 0.0
    both = hole[..., 1:] & hole[..., :-1]
    return {
        "known": float(seen.square().mean() / (1 - share)) ** 0.5,
        "best": float(errors.amin(1).mean()),
        "mean": float(average.mean()),
        "class": judge.accuracy(list(x.flatten(0, 1)), labels.repeat_interleave(x.shape[1])),
        "white": float((x[..., hole] > 0.98).float().mean()),
        "rough": float(x.diff(dim=-1)[..., both].square().mean()),
        "spread": float((x[:, 0] - x[:, -1])[..., hole].square().mean().sqrt()),
    }


def taught(model: Model, path: Path, steps: int, batch: int = 128, rate: float = 1e-2) -> Judge:
    """The judge, from its file where there is one; trained in float32, as bfloat16 crawls on some processors."""
    if path.is_file():
        return Judge.load(path)
    training, test = model.domain.dataset("train"), model.domain.dataset("test")
    torch.manual_seed(0)
    judge = Judge(model.domain.labels["label"], channels=1, width=16)
    x, y = torch.stack(list(training.artifacts)), torch.tensor([int(e.cond["label"]) for e in training])
    optimizer = torch.optim.AdamW(judge.network.train().parameters(), lr=rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for rows in torch.randperm(len(x))[: steps * batch].split(batch):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(judge.network(x[rows]), y[rows]).backward()
        optimizer.step()
        cycle.step()
    judge.network.eval()
    judge.examine(test.artifacts[:2000], [int(e.cond["label"]) for e in test][:2000])
    path.parent.mkdir(parents=True, exist_ok=True)
    judge.save(path)
    return judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=120)
    parser.add_argument("--pictures", type=int, default=10, help="of the problem `lower`")
    parser.add_argument("--few", type=int, default=5, help="pictures of the other problems")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="the test picture to begin with")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--ways", nargs="+", choices=[*GRIDS, *METHODS], default=[*GRIDS, *METHODS])
    parser.add_argument("--name", default="conditions", help="of the files to write")
    parser.add_argument("--judge", type=Path, default=Path("runs/fashion_judge.safetensors"))
    parser.add_argument("--judge-steps", type=int, default=400)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = gendiff.load(ROOT / "weights" / "images_fashion.safetensors")
    judge = taught(model, args.judge, args.judge_steps)
    test = model.domain.dataset("test")
    truths, labels = torch.stack(list(test.artifacts)), torch.tensor([int(e.cond["label"]) for e in test])
    begun, found = time.process_time(), dict[str, Any]()
    args.results.mkdir(parents=True, exist_ok=True)
    for problem in args.problems:
        operator, noise = PROBLEMS[problem]
        n = args.pictures if problem == "lower" else args.few
        truth, kinds = truths[args.first : args.first + n], labels[args.first : args.first + n]
        x0 = torch.stack([model.domain.encode(picture) for picture in truth])
        y = operator(x0)
        y = y + noise * Noise.of(1, n).normal(y.shape)
        ways = {**GRIDS, **METHODS} if isinstance(operator, Mask) else METHODS
        own = measures(truth[:, None], truth, operator, kinds, judge)
        found[problem] = {"truth": {k: own[k] for k in ("class", "white", "rough")}}
        grid = [torch.cat(list(truth[:6]), -1)]
        for name in (name for name in args.ways if name in ways):
            solver, method = ways[name](model, args.passes)
            many = lambda part: part.repeat_interleave(args.draws, 0)  # noqa: E731
            given: Any = None
            if method is not None:
                given = Measurement(operator, many(y), noise, method)
            elif isinstance(operator, Mask):
                given = Given(many(x0), operator.keep)
            since = time.process_time()
            drawn = model.sample(n * args.draws, given=given, sampler=solver, seed=0)
            seconds = time.process_time() - since
            x = torch.stack(drawn).unflatten(0, (n, args.draws))
            numbers = measures(x, truth, operator, kinds, judge)
            evaluations = solver.evaluations(model.denoiser.process)
            found[problem][name] = {"solver": repr(solver), "evaluations": evaluations, **numbers, "seconds": seconds}
            print(f"{problem:8} {name:24} {evaluations:4}", *(f"{k} {v:.4f}" for k, v in numbers.items()), flush=True)
            grid.append(torch.cat(list(x[:6, 0]), -1))
        write(torch.cat(grid, -2), args.results / f"{args.name}_{problem}.png")
        result = {
            "date": date.today().isoformat(),
            "command": f"python benchmarks/conditions.py {shlex.join(sys.argv[1:])}".strip(),
            "hardware": hardware(),
            "weights": "weights/images_fashion.safetensors",
            "judge_accuracy_on_real_test": judge.held_out,
            "passes": args.passes,
            "pictures": {"lower": args.pictures, "others": args.few},
            "draws": args.draws,
            "cpu_seconds": time.process_time() - begun,
            "problems": found,
        }
        (args.results / f"{args.name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
