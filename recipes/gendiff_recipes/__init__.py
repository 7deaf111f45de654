"""Recipes for gendiff's domains: what is trained, on what, for how long, and how the result is shown.

from gendiff_recipes import images, train
model = train(images.digits().override("trainer.minutes=1"), "runs/digits")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gendiff_recipes.training import train as train


def __getattr__(name: str) -> Any:
    """`train`, imported with Lightning when it is first asked for."""
    if name == "train":
        from gendiff_recipes.training import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
