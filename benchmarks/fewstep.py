"""Few-step methods where the truth is known, and few-step models beside their teachers.

    python benchmarks/fewstep.py problems     every method on a mixture on the plane, on the torus, on the rotations
    python benchmarks/fewstep.py recovered   an exact teacher's flow map, distilled: how far off the student's jumps are
    python benchmarks/fewstep.py costs        a step of each method and each way to differentiate, in plain steps
    python benchmarks/fewstep.py digits       5,000 steps of a student; a guided call beside the two that it replaces
    python benchmarks/fewstep.py fashion --teacher MODEL --student MODEL ...      and fsdd, backbones: by the judges of
                                                                                  benchmarks/quality.py

Students stand beside DDIM, DPM-Solver++(2M), Adams and calibrated tables of their teacher at as many evaluations.
Numbers go to benchmarks/results/fewstep_NAME.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gendiff
from gendiff import (
    DDIM,
    SO3,
    Adams,
    Denoiser,
    DPMpp2M,
    Gaussian,
    Geodesic,
    Linear,
    PowerGrid,
    Torus,
    Uniform,
    denoising_loss,
    sample,
)
from gendiff.denoisers import Denoise, Mixture, default_head
from gendiff.model import Model
from gendiff.nn import FourierTime, Jumps
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.sampling.solvers import Solver
from gendiff.spaces import rotations
from gendiff.training import (
    ConsistencyTraining,
    ContinuousConsistency,
    DistributionMatching,
    FewStep,
    Finite,
    Forward,
    GuidanceDistillation,
    Lesson,
    MeanFlow,
    MomentMatching,
    Progressive,
    Reflow,
    Reverse,
    Shortcut,
    stratified,
)
from gendiff.training.fewstep import eulerian, jump

Numbers = dict[str, Any]
DIMS = {"plane": (2, 2), "torus": (4, 2), "so3": (9, 3)}


class Net(nn.Module):
    """Residual layers on the coordinates of a point, steered by the time and the jump."""

    def __init__(self, kind: str, width: int = 64, depth: int = 4, jumps: bool = False) -> None:
        super().__init__()
        self.kind, self.takes_to = kind, jumps
        inputs, outputs = DIMS[kind]
        self.into, self.out = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.time = nn.Sequential(
            FourierTime(64, highest=6.0), nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.jumps = Jumps(width, jumps, False) if jumps else None
        self.steer = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        for layer in (self.out, *self.steer):
            nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
        h = self.into(torch.cat([x.sin(), x.cos()], -1) if self.kind == "torus" else x.flatten(1))
        told = self.time(t)
        told = nn.functional.silu(told if self.jumps is None else self.jumps(told, t, to, None))
        for layer, steer in zip(self.layers, self.steer, strict=True):
            scale, shift = steer(told).chunk(2, -1)
            h = h + layer(nn.functional.silu(h * (1 + scale) + shift))
        return self.out(h)


def plane(n: int, seed: int) -> Tensor:
    return exact_plane().draw(n, seed).float()


def exact_plane() -> Mixture:
    """Five unequal modes on a ring."""
    angle = torch.arange(5, dtype=torch.float64) * 2 * math.pi / 5
    means = 1.2 * torch.stack([angle.cos(), angle.sin()], -1)
    return Mixture(Gaussian(Linear()), means, 0.02, torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1], dtype=torch.float64))


WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def torus(n: int, seed: int) -> Tensor:
    """Three unequal modes, one across the seam."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[-1.1, -0.73], [-2.1, 3.05], [1.0, 0.5]])
    mode = torch.multinomial(WEIGHTS, n, True, generator=generator)
    return Torus.wrap(centres[mode] + 0.3 * torch.randn(n, 2, generator=generator))


def so3(n: int, seed: int) -> Tensor:
    """Three unequal modes of rotations."""
    generator = torch.Generator().manual_seed(seed)
    centres = rotations.exp_so3(torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [0, 1.5, 1.5]]))
    mode = torch.multinomial(WEIGHTS, n, True, generator=generator)
    return centres[mode] @ rotations.exp_so3(0.3 * torch.randn(n, 3, generator=generator))


PROBLEMS: dict[str, tuple[Process, Callable[[int, int], Tensor]]] = {
    "plane": (Gaussian(Linear()), plane),
    "torus": (Geodesic(Torus()), torus),
    "so3": (Geodesic(SO3()), so3),
}
METHODS: dict[str, tuple[FewStep, bool]] = {
    "MeanFlow, from data": (MeanFlow(), False),
    "MeanFlow": (MeanFlow(same=0.25), True),
    "sCT": (ContinuousConsistency(), False),
    "sCD": (ContinuousConsistency(), True),
    "ECT": (ConsistencyTraining(), False),
    "CD": (ConsistencyTraining(), True),
    "Shortcut, from data": (Shortcut(), False),
    "Shortcut (CTM)": (Shortcut(same=0.25), True),
    "IMM": (MomentMatching(), False),
    "Reflow": (Reflow(), True),
    "DMD": (DistributionMatching(), True),
}


def sliced(kind: str, a: Tensor, b: Tensor, directions: int = 256) -> float:
    """The sliced Wasserstein-2 distance of two samples, of their embeddings on curved spaces."""

    def flat(x: Tensor) -> Tensor:
        x = x.double()
        return torch.cat([x.sin(), x.cos()], -1) if kind == "torus" else x.flatten(1)

    a, b = flat(a), flat(b)
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(a.shape[1], directions, generator=generator, dtype=torch.float64)
    d = d / d.norm(dim=0)
    return float(((a @ d).sort(0).values - (b @ d).sort(0).values).square().mean().sqrt())


def learn(
    kind: str, method: FewStep | None, steps: int, teacher: Any = None, start: Denoiser | None = None, seed: int = 0,
    batch: int = 1024, lr: float = 1e-3,
) -> Denoiser:  # fmt: skip
    """Trains a network of `kind` by a method, or as a denoiser; averaged weights."""
    process, draw = PROBLEMS[kind]
    torch.manual_seed(seed)
    network = Net(kind, jumps=method is not None and method.jumps)
    if start is not None:
        network.load_state_dict(start.network.state_dict(), strict=False)
    denoiser, critic = Denoiser(network, default_head(process), process), None
    if isinstance(method, DistributionMatching):
        assert start is not None
        critic = copy.deepcopy(start).requires_grad_(True)
    watch = torch.optim.Adam((critic or network).parameters(), lr=lr, betas=(0.0, 0.99))  # the critic's
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)
    live = list(network.parameters())
    average = [p.detach().clone() for p in live]
    for k in range(steps):
        rate = lr * min((k + 1) / 100, 1.0) * max(min(1.0, (1 - k / steps) / 0.5), 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate
        noise, u = Noise.of(seed, batch).fork("train").at(k), stratified(batch, Noise.of(seed, 1).fork("times").at(k))
        x0 = draw(batch, 1000 + k)
        if method is None:
            loss = denoising_loss(denoiser, x0, Uniform().quantile(u, process), noise)["loss"].mean()
        else:
            lesson = Lesson(denoiser, x0, u, noise, teacher=teacher, progress=k / steps, critic=critic)
            if critic is not None and isinstance(method, DistributionMatching):
                for again in range(method.critic):
                    method.critic_losses(replace(lesson, noise=noise.fork(f"critic {again}"))).mean().backward()
                    watch.step()
                    watch.zero_grad()
                critic.requires_grad_(False)
            loss = method.losses(lesson)["loss"].mean()
            if critic is not None:
                critic.requires_grad_(True)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(0.999, (k + 1) / (k + 10))
        with torch.no_grad():
            for mean, p in zip(average, live, strict=True):
                mean.lerp_(p, 1 - decay)
    with torch.no_grad():
        for p, mean in zip(live, average, strict=True):
            p.copy_(mean)
    return denoiser.requires_grad_(False)


@torch.no_grad()
def distance(kind: str, denoiser: Denoise, solver: Solver, n: int) -> float:
    """Of n samples from n of the data, over that of n others of the data, averaged over two of these."""
    draw = PROBLEMS[kind][1]
    real, others = draw(n, 1), [draw(n, 2), draw(n, 3)]
    floor = sum(sliced(kind, real, other) for other in others) / 2
    return sliced(kind, real, sample(denoiser, real, solver=solver, noise=Noise.of(7, n))) / floor


def problems(args: argparse.Namespace) -> Numbers:
    """Every method, from data or by a teacher trained for twice the steps; sliced distances in floors."""
    found: Numbers = {"n": args.n, "steps": args.steps, "seeds": 1, "batch": 1024, "unit": "sampling floors"}
    path = args.out / "fewstep_problems.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    if all(before.get(k) == v for k, v in found.items()):  # what an earlier run found is kept
        found |= {kind: before[kind] for kind in PROBLEMS if kind in before}
    for kind in args.kinds:
        teacher, rows = learn(kind, None, 2 * args.steps), found.setdefault(kind, {})

        def row(name: str, work: Callable[[], Numbers], kind: str = kind, rows: Numbers = rows) -> None:
            since = time.process_time()
            if name not in rows:
                one = work()
                rows[name] = {**one, "cpu_seconds": round(time.process_time() - since, 1)}
                print(kind, name, rows[name], flush=True)
                keep(args, "problems", found)

        def taught(method: FewStep, teacher: Denoiser | None, kind: str = kind) -> Numbers:
            if isinstance(method, DistributionMatching):  # a student for each count: it knows its own grid alone
                each = {k: learn(kind, replace(method, steps=k), args.steps, teacher, teacher) for k in (1, 2)}
                return {str(k): distance(kind, one, method.sampler(k), args.n) for k, one in each.items()}
            student = learn(kind, method, args.steps, teacher, teacher)
            return {str(k): distance(kind, student, method.sampler(k), args.n) for k in (1, 2, 4)}

        def halved(kind: str = kind, last: Denoiser = teacher) -> Numbers:
            one = {}
            for n in (16, 8, 4, 2, 1):
                last = learn(kind, Progressive(n), args.steps // 2, last, last)
                if n <= 4:
                    one[str(n)] = distance(kind, last, Progressive(n).sampler(n), args.n)
            return one

        def alone(kind: str = kind, teacher: Denoiser = teacher) -> Numbers:
            return {f"Adams {k}": distance(kind, teacher, Adams(k), args.n) for k in (1, 2, 4, 50)}

        row("teacher", alone)
        for name in (one for one in METHODS if one in args.methods):
            method, by_teacher = METHODS[name]
            row(name, lambda method=method, own=teacher if by_teacher else None: taught(method, own))
        if "Progressive" in args.methods:
            row("Progressive", halved)
    return found


def recovered(args: argparse.Namespace) -> Numbers:
    """The exact flow map of the mixture on the plane: RMS of a student's jumps, over that of how far they go."""
    exact, n = exact_plane(), 4096
    process = exact.process
    noise, like = Noise.of(5, n), torch.empty(n, 2, dtype=torch.float64)
    found: Numbers = {"n": n, "steps": args.steps}
    x1 = process.prior(like, noise.fork("prior"))
    truth = {0.0: sample(exact, like, solver=Adams(400, times=PowerGrid()), noise=noise)}
    for s in (0.5,):
        truth[s] = gendiff.sample(exact, like, solver=Adams(400, times=gendiff.LinearGrid(end=s)), noise=noise)
    for name, method in (("MeanFlow", MeanFlow(same=0.25)), ("Shortcut (CTM)", Shortcut(same=0.25))):

        class Float:
            """The exact teacher in the precision of the student."""

            def __init__(self) -> None:
                self.process = process

            def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
                return exact(x.double(), t).to(x)

        start = learn("plane", None, args.steps)
        student = learn("plane", method, args.steps, Float(), start)
        found[name] = {}
        for s, end in truth.items():
            t = torch.ones(n, dtype=torch.float64)
            got = jump(student, process, x1.float(), t, t * s, {"to": t * s}).double()
            far = float((end - x1).square().sum(1).mean().sqrt())
            error = (got - end).square().sum(1)
            found[name][f"1 to {s}"] = {
                "rms": float(error.mean().sqrt()) / far, "median": float(error.median().sqrt()) / far,
            }  # fmt: skip
        print(name, found[name], flush=True)
    return found


def costs(args: argparse.Namespace) -> Numbers:
    """Processor seconds of a step of images.fashion, in plain steps; and of the ways to differentiate, in forwards."""
    from gendiff_recipes import images

    recipe = images.fashion_meanflow()
    teacher = Model.new(recipe.domain, **images.fashion().network)
    model = Model.new(recipe.domain, **recipe.network)
    batch, own = 64, model.denoiser
    x = torch.randn(batch, 1, 28, 28)
    t = torch.linspace(0.1, 0.9, batch, dtype=torch.float64)
    cond: dict[str, Any] = {"label": torch.arange(batch) % 10}

    def cpu(work: Callable[[], Any]) -> float:
        work()
        each = []
        for _ in range(3):
            since = time.process_time()
            work()
            each.append(time.process_time() - since)
        return min(each)

    def plain() -> None:
        denoising_loss(own, x, t, Noise.of(0, batch), **cond)["loss"].mean().backward()

    step = cpu(plain)
    with torch.no_grad():
        forward = cpu(lambda: own(x, t, to=t / 2, **cond))
    told = {**cond, "to": t / 2}
    ways = {type(way).__name__: way for way in (Forward(), Reverse(), Finite())}
    found: Numbers = {
        "plain_step_cpu_seconds": step,
        "derivative_in_forwards": {
            name: cpu(lambda way=way: eulerian(own, own.process, x, t, t / 2, x, way, told)) / forward
            for name, way in ways.items()
        },
        "step_in_plain_steps": {},
    }
    for name, (method, taught) in METHODS.items():
        if isinstance(method, DistributionMatching):
            continue  # its critic takes steps of its own
        lesson = Lesson(
            own, x, stratified(batch, Noise.of(0, 1)), Noise.of(0, batch), cond, recipe.times, progress=0.5,
            teacher=teacher.denoiser if taught else None, without=recipe.domain.without,
        )  # fmt: skip
        one = cpu(lambda method=method, lesson=lesson: method.losses(lesson)["loss"].mean().backward())
        found["step_in_plain_steps"][name] = one / step
        print(name, one / step, flush=True)
    return found


def digits(args: argparse.Namespace) -> Numbers:
    """images.digits, distilled: losses of a long run of MeanFlow, and guidance (1 to 4) told to the network.

    The error of a guided call is the RMS of its difference from the two calls it replaces, over the RMS of theirs; on
    test digits at even times and all scales.
    """
    from gendiff_recipes import images
    from gendiff_recipes.fewstep import student
    from gendiff_recipes.training import train

    plain = images.digits()
    found: Numbers = {"steps": args.steps}
    with tempfile.TemporaryDirectory() as folder:
        own: Numbers = {"trainer": replace(plain.trainer, minutes=None, show=0)}
        teacher = train(replace(plain, **own), Path(folder) / "teacher", quiet=True)
        own["trainer"] = replace(own["trainer"], steps=args.steps)
        own["optimizer"] = replace(plain.optimizer, lr=plain.optimizer.lr / 4)
        for name, method in (("MeanFlow", MeanFlow(guidance=2.0)), ("guidance", GuidanceDistillation())):
            recipe = student(plain, method, 4, **own)
            model = train(recipe, Path(folder) / name, start=teacher, quiet=True)
            lines = (Path(folder) / name / "metrics.csv").read_text(encoding="utf8").splitlines()
            column = lines[0].split(",").index("train/loss")
            losses = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
            found[name] = {"logged": len(losses), "not_finite": sum(not math.isfinite(x) for x in losses)}
            found[name]["weights_finite"] = all(bool(p.isfinite().all()) for p in model.denoiser.network.parameters())
            if name == "guidance":
                found[name] |= guided_error(teacher, model)
            print(name, found[name], flush=True)
            keep(args, "digits", found)
    return found


@torch.no_grad()
def guided_error(teacher: Model, student: Model, n: int = 297) -> Numbers:
    """How far one call that is told a scale is from two."""
    domain, found = teacher.domain, {}
    test = list(domain.dataset("test"))[:n]
    x0 = torch.stack([domain.encode(one.artifact) for one in test])
    cond = domain.encode_conditions(len(test), label=[one.cond["label"] for one in test])
    t = torch.linspace(0.02, 1, len(test), dtype=torch.float64)
    t = t[torch.randperm(len(t), generator=torch.Generator().manual_seed(0))]
    x = teacher.denoiser.process.noise(x0, t, Noise.of(3, len(test)))
    for w in (1.0, 2.0, 3.0, 4.0):
        scale = torch.full_like(t, w)
        two = gendiff.Guided(teacher.denoiser, scale, domain.without)(x, t, **cond)
        plain = teacher.denoiser(x, t, **cond)
        one = student.denoiser(x, t, guidance=scale, **cond)
        rms = float((one - two).square().mean().sqrt())
        found[f"scale {w:g}"] = {
            "of_two_calls": rms / float(two.square().mean().sqrt()),
            "of_the_guidance": rms / float((two - plain).square().mean().sqrt()) if w > 1 else None,
        }  # fmt: skip
    return {"n": len(test), **found}


def numbers(names: Sequence[str], asked: Sequence[Any]) -> list[int]:
    """Classes, asked by their names or their numbers, as numbers."""
    return [list(names).index(c) if isinstance(c, str) else int(c) for c in asked]


def judged(name: str, teacher: Model, n: int) -> Callable[[Model, Solver, Any], Numbers]:
    """What measures a model by a sampler: trained on real data alone, or geometry."""
    from quality import MEASURES, default_request, judge_of_pictures, subset

    domain = teacher.domain
    test = domain.dataset("test")
    asked = default_request(domain, n)

    def drawn(model: Model, sampler: Solver, guidance: Any) -> tuple[list[Any], float]:
        since = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples = list(model.sample(n, seed=1, sampler=sampler, guidance=guidance, finished=False, **asked))
        return samples, time.process_time() - since

    if name == "fashion":
        judge, _ = judge_of_pictures(domain.dataset("train"), test, domain.labels["label"])
        reference = subset(test.artifacts, n, 0)
        wanted = torch.tensor(numbers(domain.labels["label"], asked["label"]))

        def pictures(model: Model, sampler: Solver, guidance: Any) -> Numbers:
            samples, seconds = drawn(model, sampler, guidance)
            right = float((judge.recognise(samples) == wanted).float().mean())
            return {"frechet": judge.frechet(samples, reference), "accuracy": right, "cpu_seconds": seconds}

        return pictures
    if name == "fsdd":
        from gendiff_audio import Judge

        heard = Judge.fit(list(domain.dataset("train")), domain.labels)
        reference = subset(test.artifacts, n, 0)

        def sounds(model: Model, sampler: Solver, guidance: Any) -> Numbers:
            samples, seconds = drawn(model, sampler, guidance)
            right = heard.accuracy(samples, {k: numbers(names, asked[k]) for k, names in domain.labels.items()})
            return {"frechet": heard.distance(samples, reference), "accuracy": right, "cpu_seconds": seconds}

        return sounds

    from gendiff_proteins import Relaxation

    def chains(model: Model, sampler: Solver, guidance: Any) -> Numbers:
        samples, seconds = drawn(model, sampler, guidance)
        reference = subset(test.artifacts, n, 0)

        def values(chosen: list[Any]) -> Numbers:
            return {k: float(np.asarray(measure(chosen, reference))) for k, measure in MEASURES.items()}

        since = time.process_time()
        relaxed = Relaxation()(samples)
        spent = time.process_time() - since
        return {**values(samples), "cpu_seconds": seconds, "relaxed": {**values(relaxed), "cpu_seconds": spent}}

    return chains


def beside(args: argparse.Namespace) -> Numbers:
    """Students and their teacher's solvers by one judge, from the same noise and requests."""
    teacher = gendiff.load(args.teacher)
    measure = judged(args.what, teacher, args.n)
    guidance = teacher.guidance
    found: Numbers = {
        "teacher": teacher.digest[:12], "guidance": guidance, "n": args.n, "default": repr(teacher.sampler), "rows": [],
    }  # fmt: skip

    def row(name: str, model: Model, sampler: Solver, guidance: Any) -> None:
        count = sampler.evaluations(model.denoiser.process)
        one = {"method": name, "evaluations": count, "sampler": repr(sampler), **measure(model, sampler, guidance)}
        found["rows"].append(one)
        print({k: v for k, v in one.items() if k != "sampler"}, flush=True)
        keep(args, args.what, found)

    for path in args.student:
        student = gendiff.load(path)
        told = student.recipe["method"]["kind"]
        for k in args.evaluations:
            solver = replace(student.sampler, steps=k)  # type: ignore[type-var]
            row(told, student, solver, guidance if student.denoiser.network.takes_guidance else 1.0)
    row("teacher", teacher, Adams(50, times=PowerGrid(1.1)), guidance)
    row("teacher, its own sampler", teacher, teacher.sampler, guidance)
    for k in args.evaluations:
        for solver in (DDIM(k), DPMpp2M(k), Adams(k, times=PowerGrid(1.1))):
            row(type(solver).__name__, teacher, solver, guidance)
    since = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = teacher.calibrate(args.evaluations, pilots=args.pilots, guidance=guidance)
    found["calibration_cpu_seconds"] = time.process_time() - since
    found["calibration_notes"] = list(fitted.notes)
    for k in args.evaluations:
        row("calibrated", teacher, replace(fitted, steps=k), guidance)
    return found


def keep(args: argparse.Namespace, name: str, found: Numbers) -> None:
    """Writes what was found so far."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    facts = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/fewstep.py", *words]),
        "hardware": {
            "machine": platform.machine(), "threads": torch.get_num_threads(), "python": platform.python_version(),
            "torch": torch.__version__, "gendiff": gendiff.__version__,
        },
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"fewstep_{name}.json"
    path.write_text(f"{json.dumps({**facts, **found}, indent=2)}\n", encoding="utf8")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("problems", "recovered", "costs", "digits", "fashion", "fsdd", "backbones"))
    parser.add_argument("-n", type=int, default=0, help="samples (20000 of problems, 1000 pictures, 600 sounds, 120)")
    parser.add_argument("--steps", type=int, default=2000, help="of training: problems, recovered, digits (2000)")
    parser.add_argument("--kinds", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="*", default=[*METHODS, "Progressive"], help="of problems")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--student", type=Path, nargs="*", default=[])
    parser.add_argument("--evaluations", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--pilots", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args(words)
    args.n = args.n or {"problems": 20_000, "fashion": 1000, "fsdd": 600, "backbones": 120}.get(args.what, 0)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    run = {"problems": problems, "recovered": recovered, "costs": costs, "digits": digits}.get(args.what, beside)
    keep(args, args.what, run(args))


if __name__ == "__main__":
    main()
