"""What is made by a training: a model, or a codec. The trainer (`training`) is the same for both.

A task builds the thing and the module that trains it, says what it must before the first step, looks at it meanwhile,
and finishes and saves it. A codec begins as the principal components of its training states, and is whitened and
measured in the end (see `gendiff.latents`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from gendiff.errors import RecipeError
from gendiff.latents import Autoencoder, Codec
from gendiff.loading import check_loadable
from gendiff.model import Model

from .callbacks import EMAWeights, LearnTimes, MetricLogger, ReconstructionLogger, SampleLogger
from .data import Data, one_thread
from .evaluation import default_request, subset
from .module import Coding, Denoising, Learning
from .recipe import CodecRecipe, Recipe
from .start import BASE, adapt_from, begin_from, check_teacher, teacher_of

BEGUN = 1024
"""Training states of which a codec takes the principal components."""


class Task:
    """What a run makes.

    Args:
        recipe: Resolved, its domain fitted.

    Attributes:
        module: Trains it.
    """

    module: Learning

    def check(self, out: Path) -> list[str]:
        """Refuses what could not be loaded again; what is to be said otherwise.

        Raises:
            RecipeError, CheckpointError: As `check_loadable`.
        """
        raise NotImplementedError

    def begin(self, data: Data) -> None:
        """What is done with the training states before the first step of a run; nothing by default."""

    def begin_from(self, start: Model) -> dict[str, Any]:
        """Takes weights over; what was taken, with a sentence under "said"."""
        raise NotImplementedError

    def origin(self, start: Model, out: Path) -> str:
        """The file of what it was begun from, "" if there is none."""
        return str(start.origin.resolve()) if start.origin is not None else ""

    def looks(self, averaging: EMAWeights, folder: Path, data: Path | None) -> list[L.Callback]:
        """What looks at it during the training."""
        raise NotImplementedError

    def finish(self, data: Data, root: Path | None) -> list[str]:
        """What is done with the averaged weights in the end; what is to be said of it."""
        return []

    def save(self, path: Path) -> None:
        """Writes it to a file."""
        raise NotImplementedError

    def result(self, path: Path) -> Any:
        """What the run gives, if need be from its file."""
        raise NotImplementedError


class ModelTask(Task):
    """A model: a domain with its denoiser.

    Args:
        recipe: Resolved, its domain fitted.
        base: The model it begins from, if there is one; a few-step method's teacher.
    """

    def __init__(self, recipe: Recipe, base: Model | None = None) -> None:
        self.recipe = recipe
        self.model = Model.new(recipe.domain, process=recipe.process, head=recipe.head, **recipe.network)
        self.model.denoiser.precision = torch.bfloat16 if recipe.trainer.precision == "bfloat16" else None
        self.model.sampler = recipe.sampler or self.model.sampler
        self.model.recipe = recipe.config()
        if recipe.method is not None:
            base = base if base is not None and recipe.based else None
            check_teacher(self.model, recipe, base)
        teacher = teacher_of(base, recipe) if recipe.method is not None and base is not None else None
        self.module = Denoising(self.model.denoiser, recipe.domain, recipe, teacher)

    def check(self, out: Path) -> list[str]:
        parts = check_loadable(self.model, self.recipe.times, self.recipe.objective, self.recipe.method)
        names = ", ".join(part.__name__ for part in parts)
        return [f"The model will be loaded by gendiff.load({str(out)!r}, parts=[{names}])."] if parts else []

    def begin_from(self, start: Model) -> dict[str, Any]:
        if self.recipe.adapter is None:
            return begin_from(self.model, start)
        return adapt_from(self.model, self.recipe, start)

    def origin(self, start: Model, out: Path) -> str:
        path, own = start.origin, self.model.adaptation
        if self.recipe.based and (path is None or not path.is_file()):
            path = start.save(out / BASE)  # it is needed again when the run goes on
        found = super().origin(start, out) if path is None else str(path.resolve())
        if own is not None:
            self.model.adaptation = dataclasses.replace(own, path=found)
        return found

    def looks(self, averaging: EMAWeights, folder: Path, data: Path | None) -> list[L.Callback]:
        options, domain = self.recipe.trainer, self.recipe.domain
        reference = domain.dataset("test", data).artifacts if options.measure else []
        shown, judged = default_request(domain, options.samples), default_request(domain, options.measured)
        return [
            LearnTimes(),
            SampleLogger(
                self.model, averaging, folder / "samples", every=options.show, n=options.samples, what=shown
            ),
            MetricLogger(
                self.model, averaging, subset(reference, options.measured, 0), every=options.measure,
                n=options.measured, what=judged,
            ),
        ]  # fmt: skip

    def save(self, path: Path) -> None:
        self.model.denoiser.precision = None
        self.model.save(path)

    def result(self, path: Path) -> Model:
        self.model.denoiser.precision = None
        return self.model


class CodecTask(Task):
    """A codec of a domain's states.

    Args:
        recipe: Resolved, its domain fitted.
        root: The data folder.
    """

    def __init__(self, recipe: CodecRecipe, root: Path | None = None) -> None:
        self.recipe, self.codec = recipe, recipe.codec
        self.network = self.codec.built()
        self.module = Coding(self.codec, self.network, recipe, recipe.loss.network(recipe.domain, root))
        self.done: Codec | None = None

    def check(self, out: Path) -> list[str]:
        if self.recipe.trainer.precision == "bfloat16":
            raise RecipeError("A codec in bfloat16", "float32 or float64", "trainer.precision=float32")
        return []

    def begin_from(self, start: Any) -> dict[str, Any]:
        raise RecipeError("A codec to begin from", "a run of its own", "Leave --from out")

    def batches(self, data: Data, most: int) -> Iterator[Tensor]:
        """States of the training, one by one, spread over all of them: [1, C, *sites]."""
        order = np.random.default_rng(self.recipe.trainer.seed).permutation(len(data))[:most]
        for i in sorted(order.tolist()):
            state, _ = data[i]
            assert isinstance(state, Tensor)
            yield self.codec.grid.channels_first(state[None].float())

    def linear(self, network: Autoencoder, data: Data) -> None:
        """Sets a network's linear parts to the principal components of training states."""
        with one_thread():
            found = [network.patches(x) for x in self.batches(data, BEGUN)]
            network.begin(torch.cat(found))

    def begin(self, data: Data) -> None:
        self.linear(self.network, data)

    def looks(self, averaging: EMAWeights, folder: Path, data: Path | None) -> list[L.Callback]:
        options, domain = self.recipe.trainer, self.recipe.domain
        seen = domain.dataset("test", data).artifacts if options.show else []
        few = subset(seen, min(options.samples, 10), 0)
        return [ReconstructionLogger(self.codec, averaging, folder / "samples", few, options.show)]

    @torch.no_grad()
    def finish(self, data: Data, root: Path | None) -> list[str]:
        most, domain, network = self.recipe.measured, self.recipe.domain, self.network.float()
        with one_thread():
            network.whiten(network.encode(x) for x in self.batches(data, 8 * most))
            unseen = domain.dataset("test", root)
            order = np.random.default_rng(0).permutation(len(unseen))[:most]
            states = [domain.encode(unseen[int(i)].artifact) for i in order]
            plain = self.codec.built()
            self.linear(plain, data)
            (explained, count), (pca, _) = (self.codec.explained(states, net) for net in (network, plain))
            metrics = {"explained": explained, "pca": pca, "states": float(count)}
        self.done = self.codec.with_network(copy.deepcopy(network), metrics)
        return [
            f"The codec gives back {metrics['explained']:.4f} of the variance of {len(states)} states it has not seen, "
            f"as principal components of the same size do {metrics['pca']:.4f}."
        ]

    def save(self, path: Path) -> None:
        assert self.done is not None
        self.done.save(path, self.recipe.config())
        self.done = self.done.at(path)

    def result(self, path: Path) -> Codec:
        return self.done or (Codec.load(path) if path.exists() else self.codec.with_network(self.network))
