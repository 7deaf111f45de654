"""Recipes for protein backbones: frames in SE(3), an invariant-point-attention network, two clocks."""

from __future__ import annotations

from gendiff.sampling.solvers import DDPM
from gendiff.training import LogitNormal, Mixed, Objective, Output, Uniform
from gendiff_proteins import Backbones, Ideal, Proteins

from .recipe import Optimizer, Recipe, Trainer

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
        sampler=DDPM(60, noise_scale=0.75),
    )
