"""Trains a recipe on real data for a fixed time, and judges its samples by something trained on real data only.

    python benchmarks/quality.py fashion      images.fashion, 20 minutes: recognised by a classifier
    python benchmarks/quality.py fsdd         audio.fsdd, 12 minutes: digits and speakers heard after Griffin-Lim
    python benchmarks/quality.py backbones    proteins.backbones, 40 minutes: geometry, handedness, secondary structure
    python benchmarks/quality.py samplers     the shipped model of Fashion-MNIST by several samplers: the same judge
    python benchmarks/quality.py heard        audio.fsdd, 12 minutes, by several samplers: the same judge
    python benchmarks/quality.py chains       the shipped model of proteins by the number of evaluations

Numbers go to benchmarks/results/quality_NAME.json with hardware, versions and settings; the run to runs/NAME.
`--model FILE` judges a saved model, by the recipe's sampler, instead of training one.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gendiff
from gendiff import DDPM, Adams, DPMpp2M, Euler, Heun, Karras, LinearGrid, PowerGrid
from gendiff.model import Model
from gendiff.samples import write_samples
from gendiff_proteins import Structure
from gendiff_proteins.domain import GOLDEN
from gendiff_proteins.metrics import MEASURES as ALL
from gendiff_recipes import audio, images, proteins
from gendiff_recipes.evaluation import default_request, subset
from gendiff_recipes.recipe import Recipe
from gendiff_recipes.training import train

Numbers = dict[str, Any]
MEASURES = {measure.name: measure for measure in ALL}


def drawn(
    model: Model, recipe: Recipe, n: int, seed: int, **broadcast_mask: Any
) -> tuple[list[Any], dict[str, Any], float]:
    """n samples over all labels (or as `over` asks), what was asked, and the seconds it took."""
    asked = {**default_request(model.domain, n), **broadcast_mask}
    since = time.perf_counter()
    samples = model.sample(n, guidance=recipe.guidance, seed=seed, **asked)
    return samples, asked, time.perf_counter() - since


def judge_fashion(model: Model, recipe: Recipe, n: int, out: Path) -> Numbers:
    """Share of samples recognised as the class asked for."""
    from gendiff_images import copies

    training, test = model.domain.dataset("train"), model.domain.dataset("test")
    judge, held_out = judge_of_pictures(training, test, model.domain.labels["label"])
    samples, asked, seconds = drawn(model, recipe, n, seed=1)
    write_samples(model, samples[:100], out / "judged", overwrite=True)
    reference, floor = subset(test.artifacts, n, 0), subset(training.artifacts, n, 0)
    right = judge.recognise(samples) == torch.tensor(asked["label"])
    return {
        "judge_accuracy_on_real_test": held_out,
        "accuracy": float(right.float().mean()),
        "accuracy_by_class": [float(right[torch.tensor(asked["label"]) == k].float().mean()) for k in range(10)],
        "judge_frechet": judge.frechet(samples, reference),
        "judge_frechet_real_training_data": judge.frechet(floor, reference),
        "copies": copies(samples[:500], training.artifacts),
        "seconds_sampling": seconds,
    }


def judge_of_pictures(training: Any, test: Any, classes: Any) -> tuple[Any, float]:
    """A classifier of real training pictures, and its accuracy on real test pictures."""
    from gendiff_images import Judge

    judge = Judge.train(training.artifacts, [int(e.cond["label"]) for e in training], classes)
    return judge, judge.examine(test.artifacts, [int(e.cond["label"]) for e in test])


def judge_samplers(model: Model, recipe: Recipe, n: int, out: Path) -> Numbers:
    """The share of samples recognised, and the distance to real test pictures, by sampler, from the same noise."""
    even, bent = LinearGrid(), PowerGrid(1.2)  # the latter is what domains take where nothing is said
    samplers = [
        *(Adams(steps, times=bent) for steps in (8, 12, 20)),
        *(DPMpp2M(steps, times=even) for steps in (8, 12, 20)),
        Euler(20, times=even),
        Heun(20, times=even),
    ]
    training, test = model.domain.dataset("train"), model.domain.dataset("test")
    judge, held_out = judge_of_pictures(training, test, model.domain.labels["label"])
    reference, found = subset(test.artifacts, n, 0), []
    for sampler in samplers:
        samples, asked, seconds = drawn(model, recipe, n, seed=1, sampler=sampler)
        right = judge.recognise(samples) == torch.tensor(asked["label"])
        found.append(
            {
                "sampler": repr(sampler),
                "evaluations": sampler.evaluations(model.denoiser.process),
                "accuracy": float(right.float().mean()),
                "judge_frechet": judge.frechet(samples, reference),
                "seconds_sampling": seconds,
            }
        )
        print(found[-1], flush=True)
    floor = judge.frechet(subset(training.artifacts, n, 0), reference)
    return {
        "judge_accuracy_on_real_test": held_out,
        "judge_frechet_real_training_data": floor,
        "samplers": found,
    }


def judge_heard(model: Model, recipe: Recipe, n: int, out: Path) -> Numbers:
    """The share of digits and speakers heard, and the distance to real test clips, by sampler, from the same noise."""
    from gendiff_audio import Judge

    karras, bent = Karras(sigma_min=0.01, sigma_max=40.0), PowerGrid(1.2)
    samplers = [
        *(DPMpp2M(steps, times=karras) for steps in (8, 12, 20)),
        *(Adams(steps, times=bent) for steps in (8, 12, 20)),
        Heun(48, times=PowerGrid(1.3)),
    ]
    training, test = model.domain.dataset("train"), model.domain.dataset("test")
    judge, reference, found = Judge.fit(list(training), model.domain.labels), subset(test.artifacts, n, 0), []
    for sampler in samplers:
        samples, asked, seconds = drawn(model, recipe, n, seed=1, sampler=sampler)
        found.append(
            {
                "sampler": repr(sampler),
                "evaluations": sampler.evaluations(model.denoiser.process),
                "accuracy": judge.accuracy(samples, {k: asked[k] for k in model.domain.labels}),
                "judge_frechet": judge.distance(samples, reference),
                "seconds_sampling": seconds,
            }
        )
        print(found[-1], flush=True)
    floor = judge.distance(subset(training.artifacts, n, 0), reference)
    return {"judge_frechet_real_training_data": floor, "samplers": found}


def judge_fsdd(model: Model, recipe: Recipe, n: int, out: Path) -> Numbers:
    """Digits and speakers heard in the waveforms after Griffin-Lim, by a classifier with its own analysis."""
    from gendiff_audio import Judge

    training, test = model.domain.dataset("train"), model.domain.dataset("test")
    labels = model.domain.labels
    judge = Judge.fit(list(training), labels)
    held_out = judge.accuracy(test.artifacts, {k: [int(e.cond[k]) for e in test] for k in labels})
    vocoded = [model.domain.decode(model.domain.encode(clip)) for clip in test.artifacts]
    ceiling = judge.accuracy(vocoded, {k: [int(e.cond[k]) for e in test] for k in labels})
    samples, asked, seconds = drawn(model, recipe, n, seed=1)
    write_samples(model, samples[:60], out / "judged", overwrite=True)
    reference, floor = subset(test.artifacts, n, 0), subset(training.artifacts, n, 0)
    return {
        "judge_accuracy_on_real_test": held_out,
        "judge_accuracy_on_real_test_after_griffin_lim": ceiling,
        "accuracy": judge.accuracy(samples, {k: asked[k] for k in labels}),
        "judge_frechet": judge.distance(samples, reference),
        "judge_frechet_real_training_data": judge.distance(floor, reference),
        "inception_digit": judge.inception(samples, "digit"),
        "inception_digit_real": judge.inception(reference, "digit"),
        "seconds_sampling": seconds,
    }


def judge_backbones(model: Model, recipe: Recipe, n: int, out: Path) -> Numbers:
    """Every metric of the domain on samples of lengths spread over the data's, beside real test and training chains.

    Intervals are 1.96 standard errors to both sides, from groups of 12 chains; none for the measures that compare
    distributions or pairs, which depend on the number of chains.
    """
    training, test = model.domain.dataset("train"), model.domain.dataset("test")
    samples, asked, seconds = drawn(model, recipe, n, seed=1, fold=None)
    write_samples(model, samples[:: max(1, n // 24)][:24], out / "judged", overwrite=True)
    reference, floor = subset(test.artifacts, n, 0), subset(training.artifacts, n, 0)
    metrics = model.domain.metrics()
    groups = {"samples": (samples, reference), "real_test": (reference, floor), "real_training": (floor, reference)}
    found = {group: {name: float(f(*both)) for name, f in metrics.items()} for group, both in groups.items()}
    return {
        "lengths": [int(np.min(asked["length"])), int(np.max(asked["length"]))],
        "by_length": by_length(samples, reference),
        **found,
        "interval_95": {"samples": half_widths(samples), "real_test": half_widths(reference)},
        "seconds_sampling": seconds,
    }


def by_length(samples: list[Any], reference: list[Any]) -> list[Numbers]:
    """The measures of peptides and hydrogen bonds in thirds of the lengths, samples beside real test chains."""
    names = ("cn_bond_share", "ca_c_n_angle_sd", "c_n_ca_angle_sd", "omega_deviation", "atom_clash_rate",
             "hbond_helix", "hbond_strand", "ca_helix", "ca_strand", "left_handed")  # fmt: skip
    edges = np.quantile([len(s) for s in samples], [0, 1 / 3, 2 / 3, 1]).astype(int)
    rows: list[Numbers] = []
    for low, high in zip(edges, [*edges[1:-1], edges[-1] + 1], strict=False):
        groups = [[s for s in group if low <= len(s) < high] for group in (samples, reference)]
        row: Numbers = {"from": int(low), "below": int(high), "chains": [len(g) for g in groups]}
        rows.append(row | {name: [float(MEASURES[name](g, ())) for g in groups] for name in names})
    return rows


def judge_chains(model: Model, recipe: Recipe, n: int, out: Path) -> Numbers:
    """Every measure of chains of 60 to 96 residues by the number of evaluations, 12 chains of each seed.

    Chain i of a seed has the same length and starts from the same noise whatever the sampler, so that differences to
    the first sampler are paired. What is drawn is kept in `out`: a run that was cut goes on where it was. Intervals
    are 1.96 standard errors to both sides, from the seeds; none for the measures that compare distributions, which
    depend on the number of chains.
    """
    samplers = [DDPM(steps, noise_scale=0.75) for steps in (60, 30)]
    lengths = [60 + int((i + 1) * GOLDEN % 1 * 37) for i in range(12)]
    every: dict[str, list[list[Structure]]] = {repr(sampler): [] for sampler in samplers}
    seconds = dict.fromkeys(every, 0.0)
    for seed in range(1, n // 12 + 1):
        for sampler in samplers:
            chains, spent = kept_or_drawn(model, lengths, sampler, seed, out / f"{sampler.steps}_{seed}.npz")
            every[repr(sampler)].append(chains)
            seconds[repr(sampler)] += spent / n
    real = [[e for e in model.domain.dataset(k).artifacts if 60 <= len(e) <= 96] for k in ("test", "train")]
    reference, floor = (subset(chains, n, 0) for chains in real)
    base = in_groups(every[repr(samplers[0])])
    found = []
    for sampler in samplers:
        seeds = every[repr(sampler)]
        values = in_groups(seeds)
        less = {name: each - base[name] for name, each in values.items()}
        found.append(
            {
                "sampler": repr(sampler),
                "evaluations": sampler.evaluations(model.denoiser.process),
                "cpu_seconds_a_chain": seconds[repr(sampler)],
                "value": measured([chain for chains in seeds for chain in chains], reference),
                "interval_95": {name: half_of(each) for name, each in values.items()},
                "less_first": {name: float(each.mean()) for name, each in less.items()},
                "less_first_interval_95": {name: half_of(each) for name, each in less.items()},
            }
        )
    return {
        "lengths": [min(lengths), max(lengths)],
        "seeds": n // 12,
        "samplers": found,
        "real_test": {"chains": len(reference), **measured(reference, floor)},
        "real_test_interval_95": half_widths(reference),
        "real_training": {"chains": len(floor), **measured(floor, reference)},
    }


def kept_or_drawn(
    model: Model, lengths: list[int], sampler: DDPM, seed: int, path: Path
) -> tuple[list[Structure], float]:
    """The chains of a seed and the CPU seconds they took, from the file if it is there, written to it if not."""
    if not path.exists():
        since = time.process_time()
        chains = model.sample(len(lengths), length=lengths, fold=None, sampler=sampler, seed=seed)
        spent = time.process_time() - since
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, atoms=np.concatenate([c.backbone for c in chains]), seconds=spent, lengths=lengths)
        print(path, f"{spent:.0f} s", flush=True)
    with np.load(path) as kept:
        if kept["lengths"].tolist() != lengths:
            raise SystemExit(f"{path} holds chains of other lengths: another --out, or remove it")
        parts = np.split(kept["atoms"], np.cumsum(lengths)[:-1])
        return [Structure(part) for part in parts], float(kept["seconds"])


AGAINST = ("ramachandran_jsd", "rg_w1", "ca_dihedral_w1")  # distances of distributions


def measured(chains: list[Structure], reference: list[Structure]) -> dict[str, float]:
    return {name: float(f(chains, reference)) for name, f in MEASURES.items()}


def in_groups(groups: list[list[Structure]]) -> dict[str, np.ndarray]:
    """Each measure of each group."""
    return {name: np.array([f(g, ()) for g in groups]) for name, f in MEASURES.items() if name not in AGAINST}


def half_widths(chains: list[Structure]) -> dict[str, float]:
    """1.96 standard errors of each measure, from groups of 12 chains."""
    groups = in_groups([chains[i : i + 12] for i in range(0, len(chains) - 11, 12)])
    return {name: half_of(each) for name, each in groups.items()}


def half_of(values: np.ndarray) -> float:
    return 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5


JUDGES: dict[str, tuple[Callable[[], Recipe], float, int, Callable[[Model, Recipe, int, Path], Numbers]]] = {
    "fashion": (images.fashion, 20, 1000, judge_fashion),
    "fsdd": (audio.fsdd, 12, 600, judge_fsdd),
    "backbones": (proteins.backbones, 40, 120, judge_backbones),
    "samplers": (images.fashion, 0, 1000, judge_samplers),
    "heard": (audio.fsdd, 12, 300, judge_heard),
    "chains": (proteins.backbones, 0, 96, judge_chains),
}
SHIPPED = {
    "samplers": Path("weights/images_fashion.safetensors"),
    "chains": Path("weights/proteins_backbones.safetensors"),
}


def hardware() -> Numbers:
    """What it ran on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gendiff": gendiff.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=JUDGES)
    parser.add_argument("changes", nargs="*", help="overrides of the recipe")
    parser.add_argument("--minutes", type=float, help="training time instead of the stated one")
    parser.add_argument("-n", type=int, help="samples to judge")
    parser.add_argument("--model", type=Path, help="a saved model, instead of training one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    make, minutes, n, judge = JUDGES[args.name]
    minutes, n = args.minutes or minutes, args.n or n
    out = args.out or Path("runs") / args.name
    recipe = make().override(*([f"trainer.minutes={minutes}"] if minutes else []), *args.changes)
    saved = args.model or SHIPPED.get(args.name)
    model = gendiff.load(saved) if saved else train(recipe, out, quiet=True)
    model.sampler = recipe.sampler or model.sampler
    numbers = judge(model, recipe, n, out)
    result = {
        "date": date.today().isoformat(),
        "command": f"python {' '.join(sys.argv)}",
        "hardware": hardware(),
        "training": str(saved) if saved else json.loads((out / "training.json").read_text()),
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "sampler": repr(model.sampler),
        "guidance": recipe.guidance,
        "n": n,
        "result": numbers,
        "recipe": model.recipe,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / f"quality_{args.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
