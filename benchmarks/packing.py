"""Side chains put on backbones that were held back, beside rotamers of the same training structures.

    python benchmarks/packing.py MODEL [-k 8] [--seeds 3] [--steps K] [--sampler "DDPM(20)"]

One structure of each held-back cluster, experimental and no pocket. Of each method: the share of chi_1, and of chi_1
and chi_2 together, within 20 degrees (Wilson's 95 % interval over residues), the same in the core, the RMSD of atoms
behind CB, overlaps of .9 A and more in which a side chain takes part, for 100 residues. "rebuilt" are the crystal's own
torsions on ideal geometry, which is what no method can better in RMSD. Results go to benchmarks/results/packing.json
under the name of the model's file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gendiff
from gendiff.cli.commands import sampler_of
from gendiff.evaluation import wilson
from gendiff_proteins import Packing, Structure
from gendiff_proteins.building import angles, packed, torsions, whole
from gendiff_proteins.contacts import side_clashes
from gendiff_proteins.packing_measures import Rotamers, best, consensus, core, right, squares
from gendiff_proteins.packing_sources import clusters

RESULTS = Path(__file__).parent / "results" / "packing.json"


def share(values: np.ndarray) -> list[float]:
    """A share of what is no NaN, with Wilson's interval, and of how many: [share, low, high, n]."""
    own = values[np.isfinite(values)]
    if not len(own):
        return [float("nan")] * 3 + [0]
    value = float(own.mean())
    return [round(value, 4), *(round(end, 4) for end in wilson(value, len(own))), len(own)]


def measured(found: Sequence[Structure], native: Sequence[Structure], only: Sequence[np.ndarray]) -> dict[str, Any]:
    """What is measured of packings beside crystals, at the residues `only` (bool [N] each)."""
    one, both, inner, square, clash = [], [], [], [], 0
    for own, true, some in zip(found, native, only, strict=True):
        first, second = right(own, true)
        some = some & whole(true)
        one.append(first[some])
        both.append(second[some])
        inner.append(core(true)[some])
        atoms = squares(own, true)[some]
        square.append(atoms[np.isfinite(atoms)])
        clash += side_clashes(own)
    chi1, chi2, deep = np.concatenate(one), np.concatenate(both), np.concatenate(inner)
    return {
        "chi1": share(chi1),
        "chi1+2": share(chi2),
        "chi1 core": share(chi1[deep]),
        "chi1+2 core": share(chi2[deep]),
        "rmsd": round(float(np.sqrt(np.concatenate(square).mean())), 3),
        "clashes/100": round(100 * clash / sum(map(len, found)), 2),
    }


def held_back(model: gendiff.Model) -> list[Structure]:
    """One structure of each cluster of tests, no pockets."""
    every = [one for one in model.domain.dataset("test").artifacts if not one.name.startswith("pocket_")]
    groups = clusters([one.sequence for one in every])
    return [next(one for one, own in zip(every, groups, strict=True) if own == group) for group in sorted(set(groups))]


def drawn(model: gendiff.Model, given: Sequence[Any], seed: int, options: Mapping[str, Any]) -> list[Structure]:
    """One packing of each."""
    return model.sample(len(given), given=list(given), seed=seed, batch=4, **options)


def main() -> None:
    """Measures a model and its controls."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--sampler", default="")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    asked = parser.parse_args()
    model = gendiff.load(asked.model)
    options: dict[str, Any] = {} if asked.steps is None else {"steps": asked.steps}
    if asked.sampler:
        options["sampler"] = sampler_of(asked.sampler, model)
    native = held_back(model)
    every = [np.ones(len(one), dtype=bool) for one in native]
    library = Rotamers.of(list(model.domain.dataset("train").artifacts))
    out: dict[str, Any] = {
        "structures": [one.name for one in native],
        "residues": sum(map(len, native)),
        "torsions": sum(len(torsions(one, known=True).residue) for one in native),
        "sampler": repr(options.get("sampler", model.sampler)),
        "k": asked.k,
    }
    clash = round(100 * sum(map(side_clashes, native)) / out["residues"], 2)
    table: dict[str, Any] = {"crystal": {"clashes/100": clash}}
    table["rebuilt"] = measured([packed(one, angles(one), whole(one)) for one in native], native, every)
    for how in ("letter", "basin"):
        table[f"rotamer by {how}"] = measured([library.pack(one, how) for one in native], native, every)
    table["rotamer at random"] = measured(
        [library.pack(one, "random", seed) for seed in range(asked.seeds) for one in native],
        native * asked.seeds, every * asked.seeds,
    )  # fmt: skip
    start = time.perf_counter()
    many = [drawn(model, native, seed, options) for seed in range(asked.k)]
    out["seconds a packing"] = round((time.perf_counter() - start) / (asked.k * len(native)), 3)
    for seed in range(min(asked.seeds, asked.k)):
        table[f"single, seed {seed}"] = measured(many[seed], native, every)
    sets = list(zip(*many, strict=True))
    table[f"best of {asked.k}"] = measured([best(own) for own in sets], native, every)
    table[f"best of {asked.k} by agreement"] = measured([best(own, 0.0) for own in sets], native, every)
    table[f"put together of {asked.k}"] = measured([consensus(own) for own in sets], native, every)
    rng = np.random.default_rng(0)
    free = [rng.random(len(one)) < 0.5 for one in native]
    given = [Packing(one, whole(one) & ~some) for one, some in zip(native, free, strict=True)]
    table["half held"] = measured(drawn(model, given, 0, options), native, free)
    table["half held, the same residues of seed 0"] = measured(many[0], native, free)
    out["measured"] = table
    print(json.dumps(out, indent=1))
    if not asked.dry:
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps({**before, Path(asked.model).stem: out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
