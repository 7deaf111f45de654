"""The shipped model of backbones taught beta folds alone by LoRA: what it draws unasked, before and after.

    python benchmarks/adapt_fold.py --minutes 3 --rank 8

Training chains are those of the fold "beta" (strands in 15 % of the residues or more, helix in less). The base and the
adapted model draw chains of the same lengths and seeds with no fold asked: the share that is beta, with 95 % intervals
(Wilson), and the residues with torsions of strands. The fold is told from CA atoms alone (P-SEA), which see no hydrogen
bonds: `hbond_strand` among the domain's measures, taken beside test chains of that fold, does. Numbers go to
benchmarks/results/adapt_fold.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gendiff
from gendiff import Examples, LoRA
from gendiff.evaluation import measure_of, score
from gendiff.model import Model
from gendiff_proteins import Backbones, Proteins, Structure
from gendiff_proteins.metrics import torsions
from gendiff_proteins.sources import FOLDS, fold
from gendiff_recipes import proteins, train
from gendiff_recipes.recipe import Optimizer

try:
    from benchmarks.asked import wilson
except ModuleNotFoundError:  # run as a file
    from asked import wilson  # type: ignore[import-not-found,no-redef]

HOME = Path(__file__).parent


@dataclass(frozen=True)
class OneFold(Backbones):
    """Chains of one fold.

    Args:
        kept: Which.
    """

    kept: str = "beta"

    def load(self, split: str, root: Path | None = None) -> Examples:
        every = super().load(split, root)
        wanted = FOLDS.index(self.kept)
        return Examples([every[i] for i, cond in enumerate(every.conds) if cond["fold"] == wanted])


def stretched(structure: Structure) -> float:
    """The share of residues with torsions of a strand."""
    phi, psi = torsions(structure)
    known = np.isfinite(phi) & np.isfinite(psi)
    phi, psi = phi[known], psi[known]
    return float(((phi < -45) & (phi > -180) & ((psi > 90) | (psi < -150))).mean())


def drawn(model: Model, lengths: list[int]) -> list[Structure]:
    """Chains of these lengths, of no fold in particular."""
    return model.sample(len(lengths), length=lengths, fold=None, seed=1, batch=16)


def judged(chains: list[Structure]) -> dict[str, Any]:
    """What folds they have, and how much of them is stretched."""
    found = np.array([fold(one) for one in chains])
    return {
        "beta": wilson(torch.tensor(found == "beta")),
        "folds": {name: int((found == name).sum()) for name in FOLDS},
        "torsions of strands": round(float(np.mean([stretched(one) for one in chains])), 3),
    }


def measured(model: Model, chains: list[Structure], real: list[Structure]) -> dict[str, float]:
    """The domain's measures of chains, beside real ones."""
    own = [measure_of(name, f) for name, f in model.domain.metrics().items()]
    rows = score(own, chains, real)
    return {row.measure.name: round(float(row.samples.value), 4) for row in rows if row.samples is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=HOME.parent / "weights" / "proteins_backbones.safetensors")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training")
    parser.add_argument("--steps", type=int, help="of training, instead: for a machine that does other work beside")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3, help="the learning rate")
    parser.add_argument("-n", type=int, default=64, help="chains")
    parser.add_argument("--out", type=Path, default=HOME / "results" / "adapt_fold.json")
    args = parser.parse_args()
    torch.set_num_threads(1)

    base = gendiff.load(args.base)
    plain = proteins.backbones()
    recipe = replace(
        plain, name="proteins.beta", domain=Proteins(source=OneFold(min_length=40, max_length=96)), drop=1.0,
        adapter=LoRA(args.rank), optimizer=Optimizer(lr=args.rate, warmup=20, decay=0.5),
    ).override(
        *([f"trainer.minutes={args.minutes}"] if args.steps is None else [f"trainer.steps={args.steps}"]),
        *(["trainer.steps=100000"] if args.steps is None else ["trainer.minutes=none"]),
        "trainer.show=0", "trainer.logger=csv", "trainer.threads=1", "trainer.precision=float32",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        spent = time.process_time()
        model = train(recipe, Path(home) / "run", start=args.base, quiet=True)
        facts = json.loads((Path(home) / "run" / "training.json").read_text())
        facts["cpu_seconds"] = round(time.process_time() - spent)
        facts["bytes"] = (Path(home) / "run" / "adapter.safetensors").stat().st_size
    kept = base.denoiser.network.state_dict()
    own = model.denoiser.network.state_dict()
    real = [example.artifact for example in model.domain.dataset("test")]
    lengths = [int(x) for x in np.random.default_rng(0).integers(40, 97, args.n)]
    found: dict[str, Any] = {"real beta chains": judged(real)}
    for name, one in {"base": base, "adapted": model}.items():
        chains = drawn(one, lengths)
        found[name] = {**judged(chains), "measures": measured(model, chains, real)}
    result = {
        "result": found, "training": facts, "base_bits_kept": all(torch.equal(v, own[k]) for k, v in kept.items()),
        "trained_numbers": sum(p.numel() for p in model.denoiser.parameters() if p.requires_grad),
        "arguments": {k: str(vars(args)[k]) for k in ("minutes", "steps", "rank", "rate", "n")},
        "date": str(date.today()), "torch": torch.__version__,
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
