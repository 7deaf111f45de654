"""Recipes for gendiff's domains: what is trained, on what, for how long, and how the result is shown.

from gendiff_recipes import evaluate, images, train
model = train(images.digits().override("trainer.minutes=1"), "runs/digits")
print(evaluate(model, 64).generated)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gendiff_recipes.evaluation import evaluate as evaluate
    from gendiff_recipes.training import train as train


def __getattr__(name: str) -> Any:
    """`train` and `evaluate`, imported when they are first asked for; the first one brings Lightning."""
    if name in ("train", "evaluate"):
        from importlib import import_module

        return getattr(import_module(f"gendiff_recipes.{'training' if name == 'train' else 'evaluation'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
