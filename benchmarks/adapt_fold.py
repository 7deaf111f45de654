"""The shipped model of backbones taught beta folds alone by LoRA: what it draws unasked, before and after.

    python benchmarks/adapt_fold.py --minutes 3 --rank 8

Training chains are those of the fold "beta" (strands in 15 % of the residues or more, helix in less). The base and the
adapted model draw chains of the same lengths and seeds with no fold asked: the share that is beta, with 95 % intervals
(Wilson), and the residues with torsions of strands. The fold is told from CA atoms alone (P-SEA), which see no hydrogen
bonds: `hbond_strand` among the domain's measures, taken beside test chains of that fold, does. Numbers go to
benchmarks/results/adapt_fold.json.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from gendiff_recipes import proteins
from gendiff_recipes.recipe import Optimizer

try:
    from benchmarks.adapting import adapted, arguments, kept, written
    from benchmarks.asked import wilson
except ModuleNotFoundError:  # run as a file
    from adapting import adapted, arguments, kept, written  # type: ignore[import-not-found,no-redef]
    from asked import wilson  # type: ignore[import-not-found,no-redef]


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
    parser = arguments(__doc__, "adapt_fold", "proteins_backbones", minutes=3.0, rate=1e-3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("-n", type=int, default=64, help="chains")
    args = parser.parse_args()
    torch.set_num_threads(1)

    base = gendiff.load(args.base)
    plain = proteins.backbones()
    recipe = replace(
        plain, name="proteins.beta", domain=Proteins(source=OneFold(min_length=40, max_length=96)), drop=1.0,
        adapter=LoRA(args.rank), optimizer=Optimizer(lr=args.rate, warmup=20, decay=0.5),
    )  # fmt: skip
    model, facts = adapted(recipe, args)
    real = [example.artifact for example in model.domain.dataset("test")]
    lengths = [int(x) for x in np.random.default_rng(0).integers(40, 97, args.n)]
    found: dict[str, Any] = {"real beta chains": judged(real)}
    for name, one in {"base": base, "adapted": model}.items():
        chains = drawn(one, lengths)
        found[name] = {**judged(chains), "measures": measured(model, chains, real)}
    written({"result": found, "training": facts, "base_bits_kept": kept(base, model)}, args)


if __name__ == "__main__":
    main()
