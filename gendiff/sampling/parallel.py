r"""All steps at once: a solver's rows as a fixed point, found by Picard's iteration (Shih et al. 2023, ParaDiGMS).

Let X_e be the states at which a table evaluates the denoiser, e = 0 .. E - 1. Given predictions D_e, the rows make all
X_e, and the sample, by cheap moves. So sampling solves

    D_e = denoiser(X_e, t_e),    X = rows(D)

and a round evaluates all D_e of a window in one batch, at the X of the round before, and runs the rows again. X_0 is
known, so each round makes at least one more prediction final: after E rounds nothing is left to change, and what was
solved is the table itself, with its noise, which is a function of the row and so the same in every round. On smooth
paths far fewer rounds do: more network evaluations, in less time where a device has room for them.

A prediction is final when its X_e has moved by at most the tolerance, and all before it are final; the window then
begins at the next. Every sample has its own window, its own times in the batch, and no say in another's. What a sample
has not evaluated yet is taken to be its newest prediction, under which every solver moves exactly.

The loop looks at how far each sample has come, so it waits for the device once a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import for_samples, map_prediction, predict, rows_of
from gendiff.errors import NOT_NEGATIVE, at_least, check
from gendiff.processes import Process
from gendiff.sampling.loop import Draw, Loop, run, table
from gendiff.sampling.solvers import Solver
from gendiff.spaces import State, map_state, per_sample, tensors


@dataclass(frozen=True)
class Parallel(Loop):
    """Any solver, its evaluations in parallel; at tolerance 0 what the solver itself gives.

    Args:
        solver: The table to solve, on any grid.
        window: Evaluations per sample and round; None takes all that are left. Memory grows with it.
        tolerance: The change of a state, root mean square per degree of freedom, at which its prediction is final.
    """

    solver: Solver
    window: int | None = None
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check(self, window=at_least(1), tolerance=NOT_NEGATIVE)

    def draw(self, task: Draw) -> State:
        denoiser, noise, cond = task.denoiser, task.noise, task.cond
        process, rows = task.process(), table(self.solver, denoiser.process)
        x = task.first(process, rows[0].t)
        times = [row.at for row in rows if row.at is not None]
        n, first = len(times), tensors(x)[0]
        at = torch.tensor(times, dtype=torch.float64, device=first.device)
        samples = torch.arange(len(first), device=first.device)
        places = torch.arange(n, device=first.device)[:, None]
        final, width = torch.zeros_like(samples), 1  # [B]: how many predictions are final
        # The first round makes one prediction, so that there are paths to begin with.
        states = map_state(lambda part: part[None].expand(n, *part.shape), x)
        found = repeat_first(predict(denoiser, process, x, times[0], cond), n)
        while True:
            newest = (final + width - 1).clamp(max=n - 1)
            played = Played(denoiser.process, at_places(found, torch.minimum(places, newest), samples))
            end = run(played, process, rows, x, noise=noise, cond=cond)
            now = map_state(lambda *parts: torch.stack(parts), *played.seen)
            stale = (places > final) & (places <= newest) & (moved(process, states, now) > self.tolerance)
            final = torch.where(stale, places, newest + 1).amin(0)
            states, width = now, self.window or n
            e, b = ((places >= final) & (places < final + width)).nonzero(as_tuple=True)
            if not len(e):
                break
            made = predict(for_samples(denoiser, b), denoiser.process, at_places(states, e, b), at[e], rows_of(cond, b))
            found = map_prediction(lambda kept, new: kept.index_put((e, b), new), found, made)  # noqa: B023
        if task.callback is None:
            return end
        return run(played.again(), process, rows, x, noise=noise, cond=cond, callback=task.callback)


class Played:
    """A denoiser that gives predictions made before, one after the other, and remembers where it was asked."""

    def __init__(self, process: Process, predictions: Any) -> None:
        self.process, self.predictions = process, predictions
        self.seen: list[State] = []

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        self.seen.append(x)
        return map_prediction(lambda part: part[len(self.seen) - 1], self.predictions)

    def again(self) -> Played:
        """The same predictions, from the first."""
        return Played(self.process, self.predictions)


def repeat_first(prediction: Any, n: int) -> Any:
    """A prediction at n places: [n, B, ...]."""
    return map_prediction(lambda part: part.expand(n, *part.shape), prediction)


def at_places(x: Any, e: Tensor, b: Tensor) -> Any:
    """What stands at the places e for the samples b, of a state or prediction [E, B, ...]."""
    return map_prediction(lambda part: part[e, b], x)


def moved(process: Process, old: State, new: State) -> Tensor:
    """How far the states of each place and sample have moved, root mean square per degree of freedom: [E, B]."""
    space = process.space
    n = tensors(new)[0].shape[0]
    pairs = ((map_state(lambda part: part[k], old), map_state(lambda part: part[k], new)) for k in range(n))  # noqa: B023
    square = torch.stack([space.dist2(a, b) for a, b in pairs])
    return (square / per_sample(space.dim(map_state(lambda part: part[0], new)).clamp_min(1), square[0])).sqrt()
