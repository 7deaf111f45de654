"""Recipes for pictures: a class-conditional U-Net on the straight path, with labels dropped for guidance."""

from __future__ import annotations

from gendiff.sampling.grids import PowerGrid
from gendiff.sampling.solvers import Adams
from gendiff.training import LogitNormal
from gendiff_images import CIFAR10, Digits, Fashion, Images

from .recipe import Optimizer, Recipe, Trainer


def digits() -> Recipe:
    """scikit-learn's 8 x 8 digits, built in: two minutes on a laptop's processor."""
    return Recipe(
        "images.digits",
        Images.of(Digits()),
        network={"channels": (64, 128), "blocks": 1},
        times=LogitNormal(0.0, 1.0),
        ema=0.995,
        optimizer=Optimizer(lr=1e-3, weight_decay=0.01),
        trainer=Trainer(steps=2000, minutes=2, batch=64, show=500),
        sampler=Adams(12, times=PowerGrid(1.1)),
        guidance=1.5,
    )


def fashion() -> Recipe:
    """Fashion-MNIST, 28 x 28: twenty minutes on two cores. Measured in benchmarks/results/quality_fashion.json."""
    return Recipe(
        "images.fashion",
        Images.of(Fashion()),
        network={"channels": (64, 128), "blocks": 1, "patch": 2},
        times=LogitNormal(0.0, 1.0),
        ema=0.999,
        optimizer=Optimizer(lr=1e-3, weight_decay=0.01),
        trainer=Trainer(steps=20000, minutes=20, batch=64, show=1000, samples=40),
        sampler=Adams(12, times=PowerGrid(1.1)),
        guidance=2.0,
    )


def cifar10() -> Recipe:
    """CIFAR-10, 32 x 32 in colour: for a GPU (trainer.devices, trainer.compile); on a processor only a smoke test."""
    return Recipe(
        "images.cifar10",
        Images.of(CIFAR10(), flip=True),
        network={"channels": (128, 256, 256), "blocks": 2, "dropout": 0.1, "patch": 1},
        times=LogitNormal(0.0, 1.0),
        ema=0.9995,
        optimizer=Optimizer(lr=3e-4, weight_decay=0.01, warmup=1000, decay=0.3),
        trainer=Trainer(steps=200000, batch=256, show=5000, checkpoint=5000, samples=40),
        sampler=Adams(20, times=PowerGrid(1.1)),
        guidance=1.5,
    )
