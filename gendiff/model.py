r"""A model: a domain and a denoiser, loaded, saved and sampled.

    model = gendiff.load("model.safetensors");  model.sample(16, label="frog", guidance=1.8, seed=0)

A file is safetensors: the weights, and one JSON text with what is needed to rebuild the rest (see `gendiff.config`).
Nothing is unpickled. Sample i of seed s is the same whatever n, the batch size and the device's order of work.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from gendiff.adaptation import (
    Adaptation,
    adapt,
    adapted_network,
    check_adapter,
    check_base,
    read_adaptation,
)
from gendiff.config import to_config
from gendiff.denoisers import Denoiser, Head
from gendiff.domain import Domain
from gendiff.errors import (
    CheckpointError,
    RecipeError,
    RequestError,
)
from gendiff.generation import Generation
from gendiff.guidance import (
    Constrained,
    guidance_name,
)
from gendiff.modelfile import (
    CARRIED,
    FORMAT,
    Rebuilt,
    check_size,
    digest,
    domain_config,
    kinds_of,
    make_network,
    open_model,
    rebuild,
    require_digest,
    text_digest,
    write_whole,
)
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.sampling import calibrate
from gendiff.sampling.solvers import Calibrated, Solver
from gendiff.training import Adapter, Begun, load_trained, merged_state, trained_state


class Model(Generation):
    """A domain with its denoiser.

    Args:
        domain: From artifacts to states and back.
        denoiser: Predicts clean states.
        size: The keyword arguments its network was built with.
        sampler: Used when `sample` is given none; the domain's by default.
        recipe: The resolved recipe it was trained by, as JSON-able dict.
        metrics: Numbers measured on it.

    Attributes:
        origin: The file it was loaded from; None for none.
        adaptation: What it was adapted from, and how; None for a model of its own.
    """

    origin: Path | None = None
    adaptation: Adaptation | None = None

    def __init__(
        self,
        domain: Domain,
        denoiser: Denoiser,
        *,
        size: Mapping[str, Any] | None = None,
        sampler: Solver | None = None,
        recipe: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        check_names(domain)
        self.domain = domain.with_process(denoiser.process, denoiser.head)
        self.denoiser = denoiser
        self.size = dict(size or {})
        self.sampler = sampler or self.domain.sampler()
        self.recipe = dict(recipe or {})
        self.metrics = dict(metrics or {})

    @staticmethod
    @torch.inference_mode(False)  # weights made in the mode could never be differentiated
    def new(domain: Domain, *, process: Process | None = None, head: Head | None = None, **size: Any) -> Model:
        """An untrained model: the domain's network of this size, with its process and head unless others are given.

        The network is made by the domain with that process and head (`Domain.with_process`), so it reads their clock.
        A network of your own: `Model.new(domain, kind=MyNet, width=64)` makes MyNet(width=64).
        """
        check_names(domain)
        domain = domain.with_process(process, head)
        return Model(domain, Denoiser(make_network(domain, size), domain.head, domain.process), size=size)

    @staticmethod
    def read(config: Mapping[str, Any], found: Rebuilt, network: nn.Module) -> Model:
        """The model that a file's config describes, of its parts and its network with the weights."""
        model = Model(
            found.domain,
            Denoiser(network, found.head, found.process),
            size=found.size,
            sampler=found.sampler,  # type: ignore[arg-type]
            recipe=config["recipe"],
            metrics={k: math.nan if v is None else v for k, v in config["metrics"].items()},
        )
        model.denoiser.eval()
        return model

    @torch.inference_mode(False)
    def adapt(self, adapter: Adapter, base: Model) -> Begun:
        """Makes this fresh model, of the sizes of `base`, an adapted one of it, which begins as the base is.

        Only what the adapter trains requires a gradient then: `LoRA(8)`, `Partial(("out",))`, `Control("edges")`. The
        base stays as it is.

        Returns:
            What was taken from the base, and what is new.

        Raises:
            RecipeError: For a base that is adapted itself, or a network that cannot be adapted like this.
            CheckpointError: For a network that does not take the base whole.
        """
        if self.adaptation is not None or base.adaptation is not None:
            raise RecipeError("an adapter of a model that is adapted", "one of a whole model", "base.merged()")
        own, network = self.denoiser.network, base.denoiser.network
        found = digest(network.state_dict())
        self.denoiser.network, begun = adapt(adapter, self.domain, own, base.domain, network)
        self.adaptation = Adaptation(adapter, found, "" if base.origin is None else str(base.origin.resolve()))
        return begun

    @torch.inference_mode(False)
    def with_adapter(self, path: str | Path, *, any_base: bool = False, parts: Sequence[type] = ()) -> Model:
        """This model with an adapter that was trained on it; this one stays as it is.

        Args:
            path: The adapter's file, or the run's folder that holds it.
            any_base: Try it though it was trained on other weights.
            parts: As in `gendiff.load`.

        Raises:
            CheckpointError: For a file that is damaged, no adapter, or of another base.
        """
        with open_model(path) as (file, config):
            where = str(file.path)
            if "adapter" not in config:
                raise CheckpointError(f"{where} is a whole model", "an adapter", f'gendiff.load("{where}")')
            adaptation, _ = read_adaptation(config, where, kinds_of(config, where, parts))
            if self.adaptation is not None:
                raise CheckpointError(f"{where} on a model that is adapted", "a whole model", "model.merged()")
            base = self.denoiser.network
            if not any_base:
                check_base(adaptation, base, where)
            domain, process, head, sampler, size = rebuild(config, where, parts)
            own = carried_weights(self.domain)
            domain = domain.carry({name: tuple(value.shape) for name, value in own.items()}, own.__getitem__, where)
            check_names(domain)
            check_adapter(domain, size, base, file.shapes, where)
            trained = {name: file.tensor(name) for name in file.shapes}
            require_digest(file.metadata.get("weights_sha256", ""), digest(trained), file.path, "weights")
            network = adapted_network(adaptation.adapter, domain, size, self.domain, base, where)
            try:
                load_trained(network, trained)
            except RequestError as error:
                raise CheckpointError(f"{where}: {error.got}", error.expected) from error
        model = Model.read(config, Rebuilt(domain, process, head, sampler, size), network)
        model.adaptation = dataclasses.replace(adaptation, path=str(self.origin or adaptation.path))
        if any_base:
            model.adaptation = dataclasses.replace(model.adaptation, digest=digest(base.state_dict()))
        return model.to(self.device)

    @torch.inference_mode(False)
    def merged(self) -> Model:
        """The same model with its adapter in its weights: a whole one, which needs no base.

        Raises:
            RequestError: For a side branch (`Control`), which is no change of weights.
        """
        if self.adaptation is None:
            return self
        weights = merged_state(self.denoiser.network)
        like = next(value for value in weights.values() if value.is_floating_point())
        network = make_network(self.domain, self.size).to(like.device, like.dtype)
        network.load_state_dict(weights)
        model = Model(
            self.domain,
            Denoiser(network, self.denoiser.head, self.denoiser.process),
            size=self.size,
            sampler=self.sampler,  # type: ignore[arg-type]
            recipe=self.recipe,
            metrics=self.metrics,
        )
        model.denoiser.train(self.denoiser.training)
        return model

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.denoiser.parameters())
        return f"Model({self.domain!r}, {count:,} parameters, {self.denoiser.head!r}, {self.denoiser.process!r})"

    def to(self, device: torch.device | str) -> Model:
        """The same model with its weights on a device.

        Raises:
            RequestError: For a device that this machine lacks.
        """
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise RequestError(
                f"The device {str(device)!r} cannot be used ({reason})", "a device of this machine", 'device="cpu"'
            ) from error
        self.denoiser.to(device)
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of its weights as they are, those of networks that are part of its domain too."""
        return digest({**self.denoiser.network.state_dict(), **carried_weights(self.domain)})

    def info(self) -> dict[str, Any]:
        """What the model is and what may be asked of it, JSON-able.

        `request` has each keyword of the domain's request with its default and, where known, the range seen in
        training (`Domain.ranges`); `labels` has the classes of each label, `conditions` what each takes in a
        line.
        """
        network = self.denoiser.network
        config = self.config()
        ranges = {name: list(span) for name, span in self.domain.spans().items()}
        return {
            **{key: value for key, value in config.items() if key not in ("format", "network")},
            "network": {"class": type(network).__name__, "size": config["network"]},
            "parameters": sum(p.numel() for p in network.parameters()),
            "labels": {name: list(classes) for name, classes in self.domain.labels.items()},
            "conditions": {name: own.describe() for name, own in self.domain.conditions.items()},
            "request": {
                name: {"default": to_config(default), **({"trained": ranges[name]} if name in ranges else {})}
                for name, default in self.domain.asks().items()
            },
            "digest": self.digest,
        }

    def calibrate(
        self,
        evaluations: int | Sequence[int] = (5, 8, 10),
        *args: Any,
        solver: Solver | None = None,
        pilots: int = 256,
        guidance: Any = None,
        seed: int = 1,
        corrected: bool = True,
        fine: int = 96,
        rounds: int = 4,
        **what: Any,
    ) -> Calibrated:
        """Fits a sampler's weights and times to this model, for these numbers of evaluations, and keeps it.

        It is kept in `model.sampler` and saved with the weights: `model.sample(n, steps=8)` uses its table of 8 steps,
        and other numbers of steps, or another guidance, are sampled as before. See `gendiff.sampling.calibration`.

        Args:
            evaluations: One number of steps, or several.
            args: Handed to the domain's `request` with `what`. With neither, pilots are what the domain shows of
                itself, of all classes in turn.
            solver: The analytic solver to start from; `Adams()` by default.
            pilots: How many trajectories to follow, at once.
            guidance: The guidance it is fitted for, as in `sample`; None is the model's own.
            seed: Of the pilots; samples of other seeds are not among them.
            corrected: Whether the domain's `constrain` acts on predictions.
            fine: Steps of the pilots' own trajectories.
            rounds: Refinements of all numbers together, some dozens of runs each.

        Raises:
            SamplerError: For fewer than 8 pilots, or a solver with more than one evaluation a step.
        """
        guidance = self.per_condition(self.guidance if guidance is None else guidance)
        what = self.domain.sized(pilots, self.plan(pilots, *args, **what))
        like, cond = self.place(self.domain.request(pilots, *args, **what), slice(None))
        denoiser = self.follow(guidance)
        if corrected:
            denoiser = Constrained(denoiser, self.domain.constrain)
        own = self.sampler
        before = own if isinstance(own, Calibrated) else None
        with self.at_rest():
            found = calibrate(
                denoiser, like, solver, evaluations=evaluations, cond=cond, fine=fine, rounds=rounds,
                noise=Noise.of(seed, pilots, device=self.device), otherwise=own if before is None else before.otherwise,
            )  # fmt: skip
        found = dataclasses.replace(found, guidance=guidance_name(guidance))
        if before is not None and (before.solver, before.guidance) == (found.solver, found.guidance):
            for table in before.tables:
                if all(len(table.weights) != len(other.weights) for other in found.tables):
                    found = found.with_table(table)
        self.sampler = dataclasses.replace(found, steps=own.steps)
        return self.sampler

    def config(self, beside: Path | None = None) -> dict[str, Any]:
        """All but the weights, JSON-able; of an adapter, for a file in the folder `beside`."""
        from gendiff import __version__

        return {
            "format": FORMAT,
            "version": __version__,
            "domain": domain_config(self.domain),
            "network": to_config(self.size),
            "process": to_config(self.denoiser.process),
            "head": to_config(self.denoiser.head),
            "sampler": to_config(self.sampler),
            "recipe": to_config(self.recipe),
            "metrics": {k: v if math.isfinite(v) else None for k, v in self.metrics.items()},
            **({} if self.adaptation is None else self.adaptation.config(beside)),
        }

    def save(self, path: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Writes weights and config to one .safetensors file, replacing it whole or not at all.

        Of an adapted model the file is the adapter: what it trains, and which base it needs. `merged()` is saved whole.

        Args:
            path: Where to.
            dtype: Store floating weights in this type (torch.bfloat16 halves the file); they load as float32.

        Raises:
            CheckpointError: For a network that `size` does not build: its file could not be loaded.
        """
        network = self.denoiser.network
        own = network.state_dict() if self.adaptation is None else trained_state(network)
        kept = {k: v.to(dtype) if v.is_floating_point() and dtype else v for k, v in own.items()}
        if self.adaptation is None:
            try:
                check_size(self.domain, self.size, {k: tuple(v.shape) for k, v in own.items()}, "Model.save")
            except CheckpointError as error:
                fix = "Model(domain, denoiser, size={...}) with the arguments of its network"
                raise CheckpointError(error.got, f"{error.expected}, to be loaded again", fix) from error
            kept |= {f"{CARRIED}{name}": value for name, value in carried_weights(self.domain).items()}
        weights = {k: v.detach().cpu().contiguous() for k, v in kept.items()}
        text = json.dumps(self.config(Path(path).parent))
        metadata = {"gendiff": text, "config_sha256": text_digest(text), "weights_sha256": digest(weights)}
        return write_whole(path, serialise(weights, metadata=metadata))


RESERVED = (
    frozenset(("x", "t", "to", "mask", "previous", "embedded", "side", "control", "template"))
    | frozenset(("all", "executor", "chunk", "threads", "device"))
    | {"data", "halves", "judges"}
)
"""What the core itself tells a network by name, what training calls all conditions, and arguments of `draw` and of
`gendiff_recipes.evaluate`, which take what is asked beside their own."""


def carried_weights(domain: Domain) -> dict[str, Tensor]:
    """The weights of the networks that are part of a domain, by "NAME.weight"."""
    return {f"{name}.{key}": v for name, module in domain.carried().items() for key, v in module.state_dict().items()}


def check_names(domain: Domain) -> None:
    """Refuses conditions that could not be asked for, or told to a network, by the names they have.

    Raises:
        RequestError: For the first of them.
    """
    asking = (Generation.states, Generation.plan, Model.calibrate)  # what is asked stands beside their own arguments
    own = frozenset(name for f in asking for name in inspect.signature(f).parameters)
    for name in domain.conditions:
        if name in RESERVED | own | domain.ranges().keys():
            raise RequestError(
                f"{type(domain).__name__} has a condition {name!r}, a name that sampling or networks use for another",
                "another name",
                f"Call it {name}_; a column of a table is renamed there, or left out: --ask with the others",
            )
