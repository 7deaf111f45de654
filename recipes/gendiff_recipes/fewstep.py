"""From a recipe to that of a student, which samples in few steps."""

from __future__ import annotations

import dataclasses
from typing import Any

from gendiff.training import FewStep, Mixed, TimeDistribution, Uniform

from .recipe import Recipe


def jump_times(times: TimeDistribution) -> TimeDistribution:
    """Times to learn jumps at: half of them even, since every sample begins at the noise end, which few are near."""
    return times if isinstance(times, Uniform) else Mixed(times, Uniform(1e-3), 0.5)


def student(recipe: Recipe, method: FewStep, steps: int, **changes: Any) -> Recipe:
    """The recipe of a student: that of a model, told what the method needs.

    Args:
        recipe: Of the teacher, or of what would be trained without one.
        method: How it learns.
        steps: Of its sampler.
        changes: Other fields.
    """
    network = {
        **recipe.network,
        **({"jumps": True} if method.jumps else {}),
        **({"guided": True} if method.told else {}),
    }
    own = recipe.guidance
    if method.told:
        assert isinstance(method.guidance, tuple)
        low, high = method.guidance
        own = min(max(own, low), high) if isinstance(own, int | float) else 1.0
    told = {"times": jump_times(recipe.times), "guidance": own if method.told else 1.0, **changes}
    return dataclasses.replace(recipe, network=network, method=method, sampler=method.sampler(steps), **told)
