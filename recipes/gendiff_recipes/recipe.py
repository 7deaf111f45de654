"""A recipe: everything a training run is, as one frozen object.

A recipe is made by a function (`images.fashion()`), changed by `override("optimizer.lr=2e-4", "trainer.devices=4")`,
saved beside the weights as JSON, and can be trained from again. Nothing else decides what a run does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from gendiff.config import check_type, complete, field_types, from_config, read_json, to_config, unread
from gendiff.denoisers import Head
from gendiff.domain import Domain, data_root
from gendiff.errors import FINITE, DataError, Range, RecipeError, nearest, positive, refuse
from gendiff.latents import KL, Adversarial, Autoencoder, Bottleneck, Codec, Grid, Reconstruction
from gendiff.modelfile import domain_config, read_domain, write_whole
from gendiff.processes import Joint, Process
from gendiff.sampling.solvers import Solver
from gendiff.training import (
    Adapter,
    DistributionMatching,
    FewStep,
    ImportanceTimes,
    Objective,
    TimeDistribution,
    Uniform,
)


def home_of(path: str | Path) -> Path:
    """A folder of a person's own, from here or below the data folder, in full: a run can be evaluated from anywhere.

    Raises:
        DataError: If it is in neither place, naming the nearest beside it.
    """
    here = Path(path).expanduser()
    found = next((place for place in (here, data_root() / here) if place.exists()), None)
    if found is None:
        beside = [p.name for p in here.parent.iterdir()] if here.parent.is_dir() else []
        raise DataError(
            f"There is no folder {str(path)!r}, neither below {Path.cwd()} nor in the data folder {str(data_root())!r}",
            f"a folder of files.{nearest(here.name, beside)}",
        )
    return found.resolve()


def table_of(table: str, ask: str) -> dict[str, Any]:
    """The fields of a source of files for a table of what may be asked: "txt", or a path from here; and its columns.

    Raises:
        DataError: For columns without a table.
    """
    if ask and not table:
        raise DataError(f"the columns {ask!r} without a table", "a table", f"--conditions table.csv --ask {ask}")
    columns = tuple(name.strip() for name in ask.split(",") if name.strip())
    here = table not in ("", "txt") and Path(table).exists()  # else it may lie in the folder
    return {"table": str(Path(table).resolve()) if here else table, "asks": columns}


def leaves(config: Any, path: str = "") -> dict[str, Any]:
    """The values of a config by their dotted paths."""
    if not isinstance(config, Mapping) or not config:
        return {path: config}
    return {k: v for key, item in config.items() for k, v in leaves(item, f"{path}.{key}" if path else key).items()}


PRECISIONS = ("auto", "float32", "bfloat16", "float64")
ACCELERATORS = ("auto", "cpu", "gpu")
LOGGERS = ("csv", "tensorboard", "wandb")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_fork", "ddp_notebook", "fsdp2")


def whole(owner: Any, *names: str, zero: bool = False) -> None:
    """Refuses fields of a dataclass that are no positive whole numbers; None passes, and 0 with `zero`."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < (0 if zero else 1)):
            refuse(owner, name, "a whole number, 0 or more" if zero else "a whole number, 1 or more")


def between(owner: Any, name: str, *, closed: bool = False) -> None:
    """Refuses a field of a dataclass outside [0, 1), or with `closed` outside [0, 1]."""
    value = getattr(owner, name)
    if not 0 <= value <= 1 or (value == 1 and not closed):
        refuse(owner, name, "a number from 0 to 1" if closed else "a number from 0 to below 1")


@dataclass(frozen=True)
class Optimizer:
    """AdamW with linear warm-up, a plateau, and a linear fall to `final` times lr over the last `decay` of the run."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 100
    decay: float = 0.4
    final: float = 0.02
    clip: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "lr", "eps")
        positive(self, "weight_decay", "warmup", "clip", zero=True)
        for name in ("decay", "final"):
            between(self, name, closed=True)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            refuse(self, "betas", "two numbers in [0, 1)")

    def factor(self, step: int, progress: float) -> float:
        """The learning rate's factor at a step, `progress` being the share of the run that is over."""
        fall = 1.0 if progress <= 1 - self.decay else 1 - (1 - self.final) * (progress - 1 + self.decay) / self.decay
        return min((step + 1) / max(self.warmup, 1), 1.0) * max(fall, self.final)


@dataclass(frozen=True)
class Trainer:
    """How long, how large, and on what.

    Attributes:
        steps: Optimiser steps.
        minutes: Ends the run, and paces the learning rate, by training time if that comes first; None for steps alone.
        batch: Examples a step, over all devices.
        accelerator: "auto", "cpu" or "gpu".
        devices: How many, of each machine.
        nodes: Machines that train together, as srun or torchrun start them.
        precision: Of the network: "auto" (bfloat16 where the hardware has it), "float32", "bfloat16", "float64".
            Noise, losses and averages stay in float32 or better.
        compile: Compile the network: one graph or two, whatever shapes the examples have. Ragged batches are padded to
            multiples of 16.
        seed: Of weights, data order, noise and times.
        workers: Processes that load data beside the trainer; 0 loads in the trainer itself.
        prepared: A store that `gendiff prepare` made of these examples, to read from: a folder, or a URL that it was
            copied to; "" encodes them at the beginning.
        cache_gb: Of a store at a URL, so many GB are kept on this machine, in GENDIFF_CACHE.
        accumulate: The batch is taken in so many parts, one after the other, for as many times less memory; the step,
            and so the run, is that of the whole batch.
        checkpoint_activations: The blocks of the network are run again going backwards, instead of keeping what they
            made: less memory for a third more time, the same run to the bit.
        strategy: How several devices work together, one of `STRATEGIES`, by Lightning's names; "auto" is "ddp" for
            them. "fsdp2" shares weights, moments and averages out among them, block by block (see `sharding`).
        threads: Of this process; None for as many as it may use.
        flush_denormals: Take numbers too small for full precision as zero, which processors compute many times faster.
        logger: Where the metrics go: "csv" (metrics.csv), "tensorboard", "wandb".
        checkpoint: Save a resumable checkpoint every so many steps; 0 goes by time alone.
        checkpoint_minutes: Save one whenever so much time has gone by since the last.
        show: Draw samples every so many steps; 0 never.
        samples: How many of them.
        measure: Compute the domain's metrics on samples every so many steps; 0 never.
        measured: On how many.
    """

    steps: int = 2000
    minutes: float | None = None
    batch: int = 32
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: str = "auto"
    compile: bool = False
    seed: int = 0
    workers: int = 0
    prepared: str = ""
    cache_gb: float = 16.0
    accumulate: int = 1
    checkpoint_activations: bool = False
    strategy: str = "auto"
    threads: int | None = None
    flush_denormals: bool = True
    logger: tuple[str, ...] = ("csv", "tensorboard")
    checkpoint: int = 1000
    checkpoint_minutes: float = 5.0
    show: int = 1000
    samples: int = 16
    measure: int = 0
    measured: int = 96

    @property
    def world(self) -> int:
        """Devices of all machines."""
        return self.devices * self.nodes

    def __post_init__(self) -> None:
        whole(self, "steps", "batch", "devices", "nodes", "accumulate", "samples", "measured", "threads")
        whole(self, "seed", "workers", "checkpoint", "show", "measure", zero=True)
        positive(self, "checkpoint_minutes", "cache_gb")
        if self.minutes is not None:
            positive(self, "minutes")
        for name, options in {"precision": PRECISIONS, "strategy": STRATEGIES, "accelerator": ACCELERATORS}.items():
            if getattr(self, name) not in options:
                refuse(self, name, f"one of {', '.join(options)}.{nearest(getattr(self, name), options)}")
        if self.strategy == "fsdp2" and (self.compile or self.precision == "float64"):
            refuse(self, "strategy", "ddp for a compiled network, or one in float64: fsdp2 is neither")
        if self.checkpoint_activations and self.compile:
            refuse(self, "checkpoint_activations", "False for a compiled network: the compiler chooses what is kept")
        for name in self.logger:
            if name not in LOGGERS:
                refuse(self, "logger", f"some of {', '.join(LOGGERS)}.{nearest(name, LOGGERS)}")


@dataclass(frozen=True)
class Recipe:
    """What to train, how, and how to sample the result.

    Attributes:
        name: "family.variant", as on the command line.
        domain: From artifacts to states and back, with its data source.
        network: Keyword arguments of the domain's network.
        process, head: None for the domain's own.
        times: Which times to train at.
        objective: The loss.
        drop: The share of examples of which nothing is asked, for guidance; or shares by condition, "all" being that of
            all at once: {"all": 0.1, "caption": 0.1}.
        ema: The decay of the averaged weights.
        sampler: None for the domain's own.
        guidance: Used when samples are drawn during and after training; 1 is off. A number, or one for each of some
            conditions: {"caption": 3.0, "style": 1.5}.
        limit: Train on the first so many examples; None for all.
        adapter: How a model to begin from is adapted, which itself stays as it is (`LoRA(16)`, `Partial(("out",))`,
            `Control("edges")`); None trains all weights.
        method: How the model learns to sample in few steps (`MeanFlow()`, `Shortcut()`, ...), from data, or from the
            model that it begins from as its teacher; None for a denoiser.
    """

    name: str
    domain: Domain
    network: Mapping[str, Any] = field(default_factory=dict)
    process: Process | None = None
    head: Head | None = None
    times: TimeDistribution = field(default_factory=Uniform)
    objective: Objective = field(default_factory=Objective)
    drop: float | Mapping[str, float] = 0.1
    ema: float = 0.999
    optimizer: Optimizer = field(default_factory=Optimizer)
    trainer: Trainer = field(default_factory=Trainer)
    sampler: Solver | None = None
    guidance: float | Mapping[str, float] = 1.0
    limit: int | None = None
    adapter: Adapter | None = None
    method: FewStep | None = None

    unused: ClassVar[tuple[str, ...]] = ()
    """Fields that say nothing in a recipe of this kind."""
    mixed: ClassVar[bool] = True
    """Whether its networks may compute in bfloat16, which "auto" takes where the hardware has it."""

    def __post_init__(self) -> None:
        whole(self, "limit")
        name = None if self.adapter is None else self.adapter.condition
        if name is not None and name not in self.domain.conditions:
            refuse(self, "adapter", f"one for a condition of the domain.{nearest(name, self.domain.conditions)}")
        if self.adapter is not None and self.trainer.strategy == "fsdp2":
            refuse(self.trainer, "strategy", "ddp: an adapter is small, and its base is not shared out")
        self.check_method()
        shares = self.drop if isinstance(self.drop, Mapping) else {"all": self.drop}
        known = ("all", *self.domain.conditions)
        for name, value in shares.items():
            if name not in known:
                refuse(self, "drop", f"shares by {', '.join(known)}.{nearest(name, known)}")
            if value not in Range(0, 1):
                refuse(self, "drop", "a share from 0 to 1, or shares by condition")
        self.objective.expect(self.domain.losses)
        process = self.process or self.domain.process
        self.objective.match(process.parts if isinstance(process, Joint) else ("denoising",))
        between(self, "ema")
        scales = self.guidance if isinstance(self.guidance, Mapping) else {}
        for name in scales:
            if name not in known[1:]:
                refuse(self, "guidance", f"scales by {', '.join(known[1:])}.{nearest(name, known[1:])}")
        if not all(value in FINITE for value in scales.values() or [self.guidance]):
            refuse(self, "guidance", "a finite number, or one for each of some conditions")

    def check_method(self) -> None:
        """Refuses what a few-step method cannot be combined with."""
        if self.method is None:
            return
        if isinstance(self.times, ImportanceTimes):
            refuse(self, "times", "a distribution that is not learned: a few-step loss says nothing of a single time")
        if self.adapter is not None:
            refuse(self, "adapter", "None: a few-step model has all its weights trained")
        if self.method.guidance != 1 and not self.domain.conditions:
            refuse(self.method, "guidance", "1: nothing can be asked of this domain, and so nothing is guided")
        if isinstance(self.method, DistributionMatching) and (self.trainer.world > 1 or self.trainer.accumulate > 1):
            refuse(self, "method", "another on several devices or in parts: the critic is of one process")
        if self.trainer.strategy == "fsdp2" or self.trainer.compile:
            refuse(self, "trainer", "ddp, not compiled: derivatives go through the network as it is")

    @property
    def based(self) -> bool:
        """Whether the model that it begins from is needed to the end: an adapter's base, a student's teacher."""
        return self.adapter is not None or (self.method is not None and self.method.taught is not False)

    def by_condition(self, name: str) -> dict[str, float]:
        """ "drop" or "guidance" as numbers by condition: one number of guidance is that of each."""
        value: float | Mapping[str, float] = getattr(self, name)
        if isinstance(value, Mapping):
            return dict(value)
        names = ["all"] if name == "drop" else list(self.domain.conditions)
        return dict(zip(names, [value] * len(names), strict=True))

    def override(self, *changes: str) -> Self:
        """The recipe with fields changed by "path=value" texts: see `gendiff_recipes.overrides` for what can be said.

        Raises:
            RecipeError, UnknownName: For an unknown field or kind, with the nearest name, or a value that does not fit.
        """
        from .overrides import change

        return change(self, *changes)

    @property
    def file(self) -> str:
        """What a run of it ends in."""
        return "model.safetensors" if self.adapter is None else "adapter.safetensors"

    @property
    def maker(self) -> Callable[..., nn.Module]:
        """What `network` is given to, by name, where it names no class of its own."""
        return self.domain.with_process(self.process, self.head).network

    def build(self) -> nn.Module:
        """The network, untrained."""
        own = dict(self.network)
        return own.pop("kind", self.maker)(**own)

    def config(self) -> dict[str, Any]:
        """JSON-able form, complete."""
        out = {k: v for k, v in to_config(self).items() if k not in ("kind", "domain", *self.unused)}
        return {**out, "domain": domain_config(self.domain)}

    def save(self, path: str | Path) -> None:
        """Writes the recipe as JSON."""
        write_whole(path, f"{json.dumps(self.config(), indent=2)}\n".encode())

    @staticmethod
    def of(config: Mapping[str, Any], parts: Sequence[type] = ()) -> Recipe:
        """The recipe that `config` describes; `parts` are classes of your own that no package registers.

        Raises:
            RecipeError: For a key nobody reads.
        """
        data = dict(config)
        cls = CodecRecipe if "bottleneck" in data else Recipe
        unread(data, [name for name in cls.__dataclass_fields__ if name not in cls.unused], "recipe")
        complete(data, ["name", "domain"], "recipe")
        check_type(data["domain"], Mapping, "recipe.domain")
        domain, kinds = read_domain(data.pop("domain"), "recipe.domain", parts)
        kinds.own += [Optimizer, Trainer]
        hints = field_types(cls)
        rest = {k: from_config(v, where=f"recipe.{k}", kinds=kinds, hint=hints[k]) for k, v in data.items()}
        return cls(domain=domain, **rest)

    @staticmethod
    def load(path: str | Path, parts: Sequence[type] = ()) -> Recipe:
        """The recipe saved in a JSON file.

        Raises:
            RecipeError: If there is none, or what it says is damaged or does not fit.
        """
        path = Path(path)
        if not path.exists():
            raise RecipeError(f"There is no recipe file {path}", "a recipe.json that a training run wrote")
        return Recipe.of(read_json(path), parts)


@dataclass(frozen=True)
class CodecRecipe(Recipe):
    """What codec to train on the states of a domain, and how; the result is what `Latent` takes.

    Attributes:
        loss: How far reconstructions are from states.
        adversarial: Whether it is also trained against a discriminator, and how.
        bottleneck: Between encoder and decoder.
        segment: Of ragged states, sites that are looked at, at most.
        measured: States on which the finished codec is measured; it is whitened on up to eight times as many.
    """

    loss: Reconstruction = field(default_factory=Reconstruction)
    adversarial: Adversarial = field(default_factory=Adversarial)
    bottleneck: Bottleneck = field(default_factory=KL)
    segment: int = 128
    measured: int = 512

    mixed: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = (
        "process",
        "head",
        "times",
        "objective",
        "drop",
        "sampler",
        "guidance",
        "adapter",
        "method",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "segment", "measured")
        if self.adversarial.weight and (self.trainer.world > 1 or self.trainer.accumulate > 1):
            refuse(self, "adversarial", "weight=0 on several devices or in parts: a discriminator is of one process")
        if self.adversarial.weight and self.trainer.compile:
            refuse(self, "adversarial", "weight=0 for a compiled network: two gradients are taken of one pass")
        for name in self.unused:
            own = type(self).__dataclass_fields__[name]
            plain = own.default if own.default_factory is MISSING else own.default_factory()
            if getattr(self, name) != plain:
                refuse(self, name, "nothing: a codec has none")

    @property
    def codec(self) -> Codec:
        """The codec, untrained."""
        return Codec(self.domain, self.network, self.bottleneck)

    @property
    def maker(self) -> Callable[..., nn.Module]:
        grid = Grid.of(self.domain)
        return functools.partial(Autoencoder, grid.dims, channels=grid.channels, bottleneck=self.bottleneck)
