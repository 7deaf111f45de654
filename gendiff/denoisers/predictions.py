r"""A prediction in two: where to go, and which noise to take along.

A step goes to x0 and brings back the noise that another prediction, `back`, sees in x_t (CFG++, Chung et al. 2024),

    x_s = alpha_s x0 + sigma_s z,   z = (x_t - alpha_t back)/sigma_t

which is the plain step towards `back`, then a shift by alpha_s (x0 - back). With log and exp the shift has a meaning on
any space, and with `back` mixed as a solver mixes predictions every solver has it:

    x_s <- exp(x_s, alpha_s (log(x_s, x0) - log(x_s, back)))

Solvers remember and mix `back` alone; the shift is the newest prediction's and is made at every move, so its sum grows
with the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gendiff.processes import Joint, Leaf, Process, pick
from gendiff.spaces import State, map_state


@dataclass(frozen=True)
class Prediction:
    """Two clean states.

    Args:
        x0: Where the step goes.
        back: Whose noise comes along.
    """

    x0: State
    back: State


def clean(prediction: Any) -> State:
    """The clean state of any prediction."""
    return prediction.x0 if isinstance(prediction, Prediction) else prediction


def shift(process: Process, x: State, prediction: Prediction, s: float) -> State:
    """x_s moved by alpha_s (x0 - back); classes, which have no such moves, stay."""
    if isinstance(process, Joint):
        halves = {k: Prediction(prediction.x0[k], prediction.back[k]) for k in process.parts}
        return process.each(lambda name, part: shift(part, x[name], halves[name], pick(s, name)))
    assert isinstance(process, Leaf)
    if not process.flows:
        return x
    space = process.space
    there, here = space.log(x, prediction.x0), space.log(x, prediction.back)
    return space.exp(x, space.scale(map_state(torch.sub, there, here), process.schedule(s)[0]))
