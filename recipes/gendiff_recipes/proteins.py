"""Recipes for protein backbones: frames in SE(3), an invariant-point-attention network, two clocks."""

from __future__ import annotations

from dataclasses import replace

from gendiff.conditions import Sites
from gendiff.domain import Examples
from gendiff.errors import DataError
from gendiff.sampling.grids import EvenParts
from gendiff.sampling.solvers import DDPM, Adams
from gendiff.training import KnownParts, KnownSites, LogitNormal, Mixed, Objective, Output, Shortcut, Uniform
from gendiff_proteins import (
    AtomicStructures,
    Backbones,
    Ideal,
    KnownTorsions,
    PlannedProteins,
    Proteins,
    Relaxation,
    SideChainFiles,
    SideChains,
    Structures,
)

from .fewstep import student
from .recipe import Optimizer, Recipe, Trainer, home_of, table_of

TIMES = Mixed(LogitNormal(-0.5, 1.0), Uniform(1e-3), 0.3)
OBJECTIVE = Objective(weighting=Output(0.1), parts={"rot": 0.5}, auxiliary=0.5)


def ideal() -> Recipe:
    """Ideal helices, hairpins and bundles of 32 to 64 residues, built on the fly: four minutes on two cores."""
    return Recipe(
        "proteins.ideal",
        Proteins(source=Ideal()),
        network={"width": 128, "depth": 4, "heads": 8, "pair": 32},
        times=TIMES,
        objective=OBJECTIVE,
        drop=0.3,
        optimizer=Optimizer(lr=1.5e-3, weight_decay=1e-4, warmup=100, decay=0.8),
        trainer=Trainer(steps=3000, minutes=4, batch=16, show=1000, samples=12),
        sampler=DDPM(60, noise_scale=0.4),
    )


def backbones() -> Recipe:
    """Real chains of 40 to 96 residues: forty minutes on two cores. See benchmarks/results/quality_backbones.json."""
    return Recipe(
        "proteins.backbones",
        Proteins(source=Backbones(min_length=40, max_length=96)),
        network={"width": 128, "depth": 4, "heads": 8, "pair": 32},
        times=TIMES,
        objective=OBJECTIVE,
        drop=0.3,
        optimizer=Optimizer(lr=1.5e-3, weight_decay=1e-4, warmup=200, decay=0.8),
        trainer=Trainer(steps=40000, minutes=40, batch=8, show=2000, samples=12),
        sampler=DDPM(30, noise_scale=0.75),
    )


def structured() -> Recipe:
    """Chains by the secondary structure asked of every residue (H, E, L, ? for anything), or of none."""
    plain = backbones()
    return replace(
        plain,
        name="proteins.structured",
        domain=Proteins(source=Backbones(min_length=40, max_length=96), asked={"structure": Sites(("H", "E", "L"))}),
        drop={"all": 0.15, "fold": 0.4, "structure": 0.25},
        guidance=1.0,
        sampler=DDPM(60, noise_scale=0.75),  # what it was measured with
    )


def planned() -> Recipe:
    """Real chains of 40 to 128 residues with their plan, by a network with a track of pairs: an hour and a half.

    gendiff train proteins.planned --from weights/proteins_backbones.safetensors begins with what that model knows.
    """
    return Recipe(
        "proteins.planned",
        PlannedProteins(source=Backbones(min_length=40, max_length=128, fragments=8, per_cluster=10), templates=True),
        network={"width": 128, "depth": 4, "heads": 8, "pair": 32, "triangle": 16, "every": 2},
        times=Mixed(LogitNormal(0.0, 1.2), Uniform(1e-3), 0.35),
        objective=replace(
            OBJECTIVE,
            parts={"rot": 0.5, "structure": 0.5, "pairing": 20.0},
            known=(
                KnownParts(("structure",), 0.15),
                KnownParts(("structure", "pairing"), 0.25),
                KnownSites(("pos", "rot"), share=0.2),
            ),
        ),
        drop=0.3,
        optimizer=Optimizer(lr=1e-3, weight_decay=1e-4, warmup=300, decay=0.6),
        trainer=Trainer(steps=100_000, minutes=90, batch=8, show=2000, samples=12),
        sampler=DDPM(60, noise_scale={"pos": 0.3, "rot": 0.3, "structure": 1.0, "pairing": 1.0}, times=EvenParts()),
    )


def inverse_folding() -> Recipe:
    """Sequences of given backbones, in any order of residues: an hour on a core."""
    source = Backbones(min_length=40, max_length=128, fragments=8, per_cluster=24)
    return Recipe(
        "proteins.inverse_folding",
        PlannedProteins(source=source, topology=False, sequence=True),
        network={
            "width": 128,
            "depth": 4,
            "heads": 8,
            "pair": 32,
            "triangle": 16,
            "every": 2,
            "previous": False,
            "dropout": 0.2,
        },
        times=Uniform(1e-3),
        objective=Objective(
            parts={"pos": 0.1, "rot": 0.05},  # that they are known and stay
            auxiliary=0.0,
            known=(KnownParts(("pos", "rot"), 1.0, level=0.02),),
        ),
        drop=1.0,
        optimizer=Optimizer(lr=1e-3, weight_decay=0.05, warmup=300, decay=0.7),
        trainer=Trainer(steps=100_000, minutes=60, batch=8, show=0),
        sampler=Adams(20, noise_scale={"pos": 1.0, "rot": 1.0, "sequence": 0.2}),
    )


def side_chains() -> Recipe:
    """Side chains on given backbones: twenty minutes on a core. See benchmarks/results/packing.json."""
    return Recipe(
        "proteins.side_chains",
        SideChains(source=AtomicStructures()),
        network={"width": 96, "depth": 4, "edge": 48, "near": 20, "dropout": 0.1},
        times=Mixed(LogitNormal(0.5, 1.0), Uniform(1e-3), 0.3),
        objective=Objective(weighting=Output(0.1), known=(KnownTorsions(0.3),)),
        drop=0.0,
        ema=0.995,
        optimizer=Optimizer(lr=1.5e-3, weight_decay=1e-3, warmup=100, decay=0.6),
        trainer=Trainer(steps=100_000, minutes=20, batch=4, show=0),
        sampler=DDPM(20, noise_scale=0.4),
    )


def side_chains_folder(path: str) -> Recipe:
    """Side chains of your own structures: gendiff train proteins.side_chains_folder PATH (PDB, mmCIF).

    Args:
        path: The folder; proteins that are alike are held out together.
    """
    plain = side_chains()
    domain = SideChains(source=SideChainFiles(str(home_of(path))))
    return replace(plain, name="proteins.side_chains_folder", domain=domain)


def backbones_shortcut() -> Recipe:
    """Backbones in 1 to 4 evaluations: gendiff train proteins.backbones_shortcut --from MODEL.

    Forty minutes on one core; samples are relaxed, since few steps leave bonds unfinished. Measured in
    benchmarks/results/fewstep_backbones.json.
    """
    plain, method = backbones(), Shortcut(same=0.25, zero=0.3)
    domain = Proteins(source=Backbones(min_length=40, max_length=96), relaxation=Relaxation())
    own = replace(plain.optimizer, lr=3e-4)
    return student(plain, method, 4, name="proteins.backbones_shortcut", optimizer=own, domain=domain)


SHORTEST, LONGEST = 16, 128  # residues that a recipe for two cores takes unasked


def folder(
    path: str,
    *,
    min_length: int | None = None,
    max_length: int | None = None,
    conditions: str = "",
    ask: str = "",
) -> Recipe:
    """Structures of your own: gendiff train proteins.folder PATH (PDB, mmCIF). Forty minutes on two cores.

    Args:
        path: The folder; all unbroken pieces of chains in it are examples, labelled by their fold.
        min_length: Fewest residues; without it those of the shortest piece, at least 16.
        max_length: Most residues; without it those of the longest piece, at most 128.
        conditions: A CSV or JSONL table with the column path: every other column may be asked (numbers, classes,
            texts); "txt" for a text NAME.txt beside each structure.
        ask: Columns of it, "pitch,kind:label"; all by default. A kind that is not said follows from the values.
    """
    home = home_of(path)
    if home.is_file():
        raise DataError(f"{home} is a file", "a folder of structures", f"gendiff train proteins.folder {home.parent}")
    if min_length is None or max_length is None:
        every = Structures(str(home), 4, 1024)
        lengths = [len(e.artifact) for split in ("train", "test") for e in _pieces(every, split)]
        if not lengths:
            raise DataError(f"There are no chains in {path}", "PDB or mmCIF files with unbroken chains")
        low = max(SHORTEST, min(lengths))
        high = min(LONGEST, max(lengths))
        if high < low:
            raise DataError(
                f"{path} has chains of {min(lengths)} to {max(lengths)} residues", f"some of {SHORTEST} or more"
            )
        min_length, max_length = min_length or min(low, max_length or low), max_length or max(high, min_length or high)
    return Recipe(
        "proteins.folder",
        Proteins(source=Structures(str(home), min_length, max_length, **table_of(conditions, ask))),
        network={"width": 128, "depth": 4, "heads": 8, "pair": 32},
        times=TIMES,
        objective=OBJECTIVE,
        drop=0.3,
        ema=0.995,
        optimizer=Optimizer(lr=1.5e-3, weight_decay=1e-4, warmup=100, decay=0.8),
        trainer=Trainer(steps=100_000, minutes=40, batch=8, show=1000, samples=12),
        sampler=DDPM(60, noise_scale=0.4),
    )


def _pieces(source: Structures, split: str) -> Examples:
    """The examples of a split; none where the split has none."""
    try:
        return source.load(split)
    except DataError:
        return Examples([])
