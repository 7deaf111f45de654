"""Error by number of evaluations: every sampler and grid of four other libraries, ours, and tables calibrated by us.

    python benchmarks/samplers.py GOLDENS [OUT.json]

From each start of each problem with exact ends (`problems`): the best of the peers (`peers`), the best of ours, our
default, and a table calibrated to the model, as RMS per coordinate in float64. A run counts where it evaluates the
denoiser at most so often. All solvers and grids are tried on `gmm2d` and `gauss16`; those that came first there, or
near it, are tried on all other problems, theirs and ours by the same rule: the FIRST best for each number, and the best
of each library. Who errs more than FAR times as much as the best at 20 is not tried at 30 and 50. Samplers are ranked
on SCREEN starts, the first SECOND of them again on MANY, the first FINAL of these on all. With --beside, the peers'
numbers are taken from an earlier run on the same problems, and ours alone are measured.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peers import Peer, level, peers
from problems import Problem, load

from gendiff import Heun, Karras, LinearGrid, LogSNRGrid, Noise, PowerGrid
from gendiff.errors import GendiffError
from gendiff.processes import Process
from gendiff.sampling import calibrate
from gendiff.sampling.grids import Grid
from gendiff.sampling.solvers import (
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    Adams,
    Circle,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    Midpoint,
    Points,
    Soft,
    Solver,
    UniPC,
)

EVALUATIONS = (5, 8, 10, 15, 20, 30, 50)
CALIBRATED = (5, 8, 10)
SCREEN, MANY, SECOND, FINAL = 64, 512, 16, 4
FIRST, FAR = 3, 20.0
FULL = {("gmm2d", "ve"), ("gmm2d", "flow"), ("gauss16", "ve"), ("gauss16", "flow")}
SOLVERS: dict[str, Callable[[int, Grid], Solver]] = {
    "DPM++ 2M": DPMpp2M,
    "DPM++ 3M": DPMpp3M,
    **{f"DEIS {k}": lambda n, g, k=k: DEIS(n, k, g) for k in (2, 3, 4)},
    **{f"iPNDM {k}": lambda n, g, k=k: IPNDM(n, k, g) for k in (2, 3, 4)},
    **{f"LMS {k}": lambda n, g, k=k: LMS(n, k, g) for k in (3, 4)},
    **{f"UniPC {k}": lambda n, g, k=k: UniPC(n, k, g) for k in (2, 3)},
    **{
        f"Adams {k}, {c} on the circle of {w}": lambda n, g, k=k, c=c, w=w: Adams(n, k, g, Circle(w), c)
        for k, c in [(2, 3), (3, 4), (4, 5)]
        for w in (0.5, 1.0)
    },
    "Adams 3, 3 on points in Soft(0.3)": lambda n, g: Adams(n, 3, g, Points(Soft(0.3)), 3),
    "PNDM": lambda n, g: PNDM(n - 1, g),
    "Heun": lambda n, g: Heun((n + 1) // 2, g),
    "Midpoint": lambda n, g: Midpoint((n + 1) // 2, g),
    "DPM++ 2S": lambda n, g: DPMpp2S((n + 1) // 2, g),
}


@dataclass(frozen=True)
class FromStart(Grid):
    """Another grid, its first time put to 1."""

    grid: Grid

    def __call__(self, process: Process, steps: int) -> list[float]:
        return [1.0, *self.grid(process, steps)[1:]]


def grids(c: float) -> dict[str, Grid]:
    """The grids of ours that are tried from sigma/alpha = c; where c is infinite, by way of 500, as the peers'."""
    top = min(c, 500.0)
    found: dict[str, Grid] = {"LinearGrid": LinearGrid()}
    for power in (1.2, 1.35, 1.5, 1.8, 2.1, 2.5):
        found[f"PowerGrid {power}"] = PowerGrid(power, c)
    for low in (0.002, 0.03):
        found[f"Karras {low}"] = FromStart(Karras(low, top))
        found[f"LogSNRGrid {low}"] = FromStart(LogSNRGrid(low, top))
    return found


@dataclass(frozen=True)
class Ours:
    """One solver of ours on one grid, measured as a `Peer` is."""

    sampler: str
    grid: str
    make: Callable[[int], Solver]
    library: str = "gendiff"

    @property
    def name(self) -> str:
        return f"{self.sampler}, {self.grid}"

    def error(self, problem: Problem, n: int) -> float:
        solver = self.make(n)
        if solver.evaluations(problem.denoiser.process) > n:
            raise GendiffError("More evaluations than allowed", f"at most {n}")
        error = problem.error(solver)
        if not error < float("inf"):
            raise GendiffError("Its ends are not finite", "numbers")
        return error


def ours(c: float) -> list[Ours]:
    """Every solver on every grid, from sigma/alpha = c."""
    return [
        Ours(label, name, lambda n, make=make, grid=grid: make(n, grid))
        for name, grid in grids(c).items()
        for label, make in SOLVERS.items()
    ]


def default(problem: Problem, n: int) -> Solver:
    """What a user gets who chooses nothing, begun at the problem's start."""
    return Adams(n, times=PowerGrid(sigma_max=level(problem)))


Entry = Peer | Ours


@dataclass
class Field:
    """What some samplers reached on one problem: for each number of evaluations (error, sampler), best first."""

    ranked: dict[int, list[tuple[float, Entry]]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    best: list[dict[str, Any]] = field(default_factory=list)

    def first(self, count: int) -> set[str]:
        """The names of the best for each number, and of each library's best."""
        out = set()
        for ranking in self.ranked.values():
            out |= {entry.name for _, entry in ranking[:count]}
            libraries = {entry.library for _, entry in ranking}
            out |= {next(e.name for _, e in ranking if e.library == library) for library in libraries}
        return out

    def leaders(self, count: int = 3) -> dict[int, list[str]]:
        """The first of each ranking, with their errors."""
        return {n: [f"{error:.2e} {entry.name}" for error, entry in r[:count]] for n, r in self.ranked.items()}

    def libraries(self) -> dict[str, list[float | None]]:
        """The best of each library, on as many starts as its rank was worth: at least SCREEN."""
        names = sorted({entry.library for ranking in self.ranked.values() for _, entry in ranking})
        return {
            name: [next((v for v, e in ranking if e.library == name), None) for ranking in self.ranked.values()]
            for name in names
        }


def contest(problem: Problem, entries: Iterable[Entry]) -> Field:
    """Ranks samplers on a problem."""
    found, few, entries = Field(), problem.first(SCREEN), list(entries)
    least: dict[str, Any] = {"rms": float("inf")}
    for n in EVALUATIONS:
        ranking = []
        for entry in entries:
            try:
                ranking.append((entry.error(few, n), entry))
            except (GendiffError, ValueError, IndexError, RuntimeError, ZeroDivisionError, AssertionError, TypeError,
                    OverflowError, AttributeError, NotImplementedError) as error:  # fmt: skip
                reason = f"{entry.library} {entry.sampler}: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
                found.failures[reason] += 1
        found.ranked[n] = sorted(ranking, key=lambda pair: pair[0])
        if n == 20:
            entries = [entry for error, entry in found.ranked[n] if error < FAR * found.ranked[n][0][0]]
        for count, some in ((SECOND, problem.first(MANY)), (FINAL, problem)):
            if len(some.x) > len(few.x):
                again = [(entry.error(some, n), entry) for _, entry in found.ranked[n][:count]]
                found.ranked[n][:count] = sorted(again, key=lambda pair: pair[0])
        error, entry = found.ranked[n][0]
        if error < least["rms"]:
            least = {"rms": error, "by": entry.name, "evaluations": n}
        found.best.append(least)
    return found


def calibrated(problem: Problem) -> list[dict[str, float]]:
    """Tables fitted to pilots of the prior, measured on the starts."""
    began = time.perf_counter()
    like = torch.empty(256, problem.x.shape[1], dtype=torch.float64)
    solver = Adams(times=PowerGrid(sigma_max=level(problem)))
    # Another seed than that of the starts.
    table = calibrate(problem.denoiser, like, solver, evaluations=CALIBRATED, noise=Noise.of(77, 256))
    seconds = round(time.perf_counter() - began, 1)
    out = []
    for n in CALIBRATED:
        square = problem.distances(problem.ends(replace(table, steps=n)))
        out.append({"rms": float(square.mean().sqrt()), "median": float(square.sqrt().median()), "seconds": seconds})
    return out


PEERS = ("best peer", "best of each library", "leaders", "failures of peers")


def measure(
    problem: Problem, theirs: list[Entry], mine: list[Entry], before: dict[str, Any] | None
) -> tuple[dict[str, Any], Field, Field]:
    """One problem and start: numbers for the file, the peers' from before where they are known, and both fields."""
    began = time.perf_counter()
    peer, own = contest(problem, theirs) if before is None else Field(), contest(problem, mine)
    numbers = {
        "best peer": peer.best,
        "best of each library": peer.libraries(),
        "leaders": peer.leaders(),
        "failures of peers": dict(peer.failures),
    }
    return {
        "starts": len(problem.x),
        "tried": {"peers": len(theirs), "gendiff": len(mine)},
        **(numbers if before is None else {key: before[key] for key in PEERS}),
        "best": own.best,
        "default": [problem.error(default(problem, n)) for n in EVALUATIONS],
        "calibrated": calibrated(problem),
        "failures of gendiff": dict(own.failures),
        "seconds": round(time.perf_counter() - began, 1),
    }, peer, own  # fmt: skip


def shown(name: str, found: dict[str, Any]) -> None:
    """Prints one problem and start."""
    theirs = [best["rms"] for best in found["best peer"]]
    print(f"\n{name}   ({found['starts']} starts, {found['seconds']:.0f} s)")
    print("  evaluations", *(f"{n:16d}" for n in EVALUATIONS))
    print("  best peer  ", *(f"{value:16.1e}" for value in theirs))
    rows = {"best": [b["rms"] for b in found["best"]], "default": found["default"]}
    for key, values in {**rows, "calibrated": [v["rms"] for v in found["calibrated"]]}.items():
        print(f"  {key:11}", *(f"{v:9.1e} ({v / p:4.2f})" for v, p in zip(values, theirs, strict=False)))
    for n, peer, own in zip(EVALUATIONS, found["best peer"], found["best"], strict=True):
        print(f"  {n:3d}  {peer['by']}  |  {own['by']}", flush=True)


def means(problems: dict[str, Any], start: str) -> None:
    """Prints error over that of the best peer, geometric mean over distributions [how many are better]."""
    rows: dict[str, list[list[tuple[float, float]]]] = {"best": [], "default": [], "calibrated": []}
    for found in (found for name, found in problems.items() if name.endswith(f" {start}")):
        theirs = [best["rms"] for best in found["best peer"]]
        ours = {
            "best": [best["rms"] for best in found["best"]],
            "default": found["default"],
            "calibrated": [table["rms"] for table in found["calibrated"]],
        }
        for key, errors in ours.items():
            rows[key].append(list(zip(errors, theirs, strict=False)))
    for key, pairs in rows.items():
        cells = []
        for column in zip(*pairs, strict=True):
            # Somebody may hit an end exactly; what has no ratio is not averaged.
            logs = [math.log(e / p) for e, p in column if e > 0 and p > 0]
            cells.append(f"{math.exp(sum(logs) / len(logs)):.2f} [{sum(e < p for e, p in column)}]")
        print(f"{start:5} {key:11}", *(f"{cell:>10}" for cell in cells))


def drawn(result: dict[str, Any], path: Path) -> None:
    """The picture: error against evaluations, a panel for each problem and start."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(key.split()[0] for key in result["problems"]))
    figure, panels = plt.subplots(len(names), 3, figsize=(13, 2.6 * len(names)), sharex=True, layout="constrained")
    for row, name in zip(panels, names, strict=True):
        for panel, start in zip(row, ("ve", "flow", "vp"), strict=True):
            found = result["problems"][f"{name} {start}"]
            panel.loglog(EVALUATIONS, [b["rms"] for b in found["best peer"]], "k-o", ms=3, label="best peer")
            panel.loglog(EVALUATIONS, [b["rms"] for b in found["best"]], "C0-o", ms=3, label="best of gendiff")
            panel.loglog(EVALUATIONS, found["default"], "C1--", label="default")
            panel.loglog(CALIBRATED, [v["rms"] for v in found["calibrated"]], "C3s", ms=4, label="calibrated")
            panel.set_title(f"{name}, {start}", fontsize=9)
            panel.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8)
    figure.supxlabel("evaluations of the denoiser")
    figure.supylabel("RMS error per coordinate")
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goldens", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "results" / "samplers.json")
    parser.add_argument("--beside", type=Path, help="an earlier result, whose numbers of the peers are kept")
    parser.add_argument("--only", nargs="+", default=[], help="names, after the first four; all by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(args.beside.read_text())["problems"] if args.beside else {}
    names = {str(args.goldens): "GOLDENS", str(args.beside): "EARLIER.json", str(args.out): "OUT.json"}
    result: dict[str, Any] = {
        "date": str(date.today()),
        "command": " ".join(["python", *(names.get(word, word) for word in sys.argv)]),
        "hardware": f"{platform.processor() or platform.machine()}, one thread",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "diffusers", "k-diffusion", "azula", "flow_matching")},
        },
        "evaluations": EVALUATIONS,
        "problems": {},
    }
    problems = [p for p in load(args.goldens) if not args.only or p.name in args.only or (p.name, p.start) in FULL]
    problems.sort(key=lambda p: (p.name, p.start) not in FULL)
    chosen: dict[bool, set[str]] = {True: set(), False: set()}
    for problem in problems:
        c = level(problem)
        theirs, mine = list[Entry](peers(c)), list[Entry](ours(c))
        own_choice = Ours("Adams(n)", "its own", partial(default, problem))
        flow, full = c == float("inf"), (problem.name, problem.start) in FULL
        if before and f"{problem.name} {problem.start}" not in before:
            continue
        if not full:
            theirs = [entry for entry in theirs if entry.name in chosen[flow]]
            mine = [entry for entry in mine if entry.name in chosen[flow]]
        past = before.get(f"{problem.name} {problem.start}")
        found, peer, own = measure(problem, theirs, [*mine, own_choice], past)
        if full:
            chosen[flow] |= peer.first(FIRST) | own.first(FIRST)
        result["problems"][f"{problem.name} {problem.start}"] = found
        shown(f"{problem.name} {problem.start}", found)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    for start in ("ve", "flow", "vp"):
        if any(name.endswith(f" {start}") for name in result["problems"]):
            means(result["problems"], start)
    if not args.only:
        drawn(result, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
