"""Recipes for sound: a 1-D U-Net over log-mel frames with EDM's preconditioning, lengths by mask, labels dropped."""

from __future__ import annotations

from gendiff.training import LogNormal
from gendiff_audio import FSDD, Audio, Tones

from .recipe import Optimizer, Recipe, Trainer


def tones() -> Recipe:
    """Plucked strings and vowels, made on the fly: two minutes on a laptop's processor."""
    return Recipe(
        "audio.tones",
        Audio(source=Tones()),
        network={"channels": (64, 96, 128)},
        times=LogNormal(0.2, 1.2),
        ema=0.998,
        optimizer=Optimizer(lr=4e-3, warmup=50),
        trainer=Trainer(steps=2500, minutes=2, batch=16, show=500, samples=12),
        guidance=1.5,
    )


def fsdd() -> Recipe:
    """Spoken digits by six speakers: twelve minutes on two cores. Measured in benchmarks/results/quality_fsdd.json."""
    return Recipe(
        "audio.fsdd",
        Audio(source=FSDD()),
        network={"channels": (128, 160, 192), "blocks": 1},
        times=LogNormal(0.2, 1.2),
        ema=0.998,
        optimizer=Optimizer(lr=1.5e-3, warmup=100),
        trainer=Trainer(steps=4000, minutes=12, batch=32, show=500, samples=20),
        guidance=1.5,
    )
