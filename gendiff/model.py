r"""A model: a domain and a denoiser, loaded, saved and sampled.

    model = gendiff.load("model.safetensors");  model.sample(16, label="frog", guidance=1.8, seed=0)

A file is safetensors: the weights, and one JSON text with what is needed to rebuild the rest (see `gendiff.config`).
Nothing is unpickled. Sample i of seed s is the same whatever n, the batch size and the device's order of work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias

import numpy as np
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
from gendiff.conditions import Plan, listed, with_plan
from gendiff.config import from_config, to_config
from gendiff.denoisers import Denoiser, Head, asides, rows_of
from gendiff.domain import Domain, Request, collate, crop
from gendiff.errors import (
    CheckpointError,
    RecipeError,
    RequestError,
    RequestWarning,
    SamplerError,
    nearest,
)
from gendiff.guidance import (
    MMPS,
    CFGPerCondition,
    Constrained,
    Given,
    Guided,
    LinearOperator,
    Measurement,
    Method,
    Operator,
    PosteriorMean,
    Rule,
    as_rule,
    check_parts,
    guidance_name,
    is_one,
    noised_start,
    of_samples,
    start_at,
    with_resampling,
)
from gendiff.modelfile import (
    CARRIED,
    FORMAT,
    Rebuilt,
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
from gendiff.processes import Joint, Process, leaf_of
from gendiff.random import Noise
from gendiff.sampling import Loop, Progress, calibrate, replace_solver, sample, table
from gendiff.sampling import Path as FlowPath
from gendiff.sampling.solvers import Calibrated, Solver
from gendiff.spaces import State, leaves, map_state, tensors
from gendiff.training import Adapter, Begun, load_trained, merged_state, trained_state

P = ParamSpec("P")

States: TypeAlias = tuple[list[State], list[Tensor | None]]

SATURATED = 0.05
"""The share of cut values above which a sample is called saturated (`Domain.cut`)."""


def decoded(states: Callable[Concatenate[Model, P], States]) -> Callable[Concatenate[Model, P], list[Any]]:
    """The method that draws artifacts, from the one that draws states: the same arguments, one artifact a sample."""

    @functools.wraps(states)
    def sample(self: Model, *args: P.args, **kwargs: P.kwargs) -> list[Any]:
        artifacts: list[Any] = []
        report: Any = kwargs.get("arrived")
        raw: Any = kwargs.get("raw")

        def decode(singles: list[State]) -> None:
            new = [self.domain.decode(x) for x in singles]
            if self.domain.finishes and kwargs.get("finished", True):
                if raw is not None:
                    raw(new)
                new = finished(self.domain, new)
            artifacts.extend(new)
            if report is not None:
                report(new)

        states(self, *args, **{**kwargs, "arrived": decode})  # type: ignore[arg-type]
        return artifacts

    sample.__name__, sample.__qualname__ = "sample", "Model.sample"
    sample.__doc__ = (states.__doc__ or "").replace(
        "n new samples, undecoded: the batches of states [b, ...] and their masks. `sample` decodes them to artifacts.",
        "n new artifacts.",
    )
    return sample


def finished(domain: Domain, artifacts: list[Any]) -> list[Any]:
    """What a domain makes of decoded samples in the end (`Domain.finish`).

    Raises:
        RequestError: For another number of them.
    """
    out = list(domain.finish(list(artifacts)))
    if len(out) != len(artifacts):
        raise RequestError(f"{type(domain).__name__}.finish made {len(out)} samples of {len(artifacts)}", "as many")
    return out


@dataclasses.dataclass(frozen=True)
class Draws:
    """Samples that are asked for and not drawn yet: all that drawing them needs beside the model (`Model.draws`).

    Attributes:
        n: How many.
        request: What is asked of them, planned.
        solver: How.
        rule: Guidance, with scales by sample where it has some; None for none.
        known: What is known of each; None for nothing.
        first: The states to start from, one, or with `each` one for each sample; None for noise.
        each: Whether each has its own.
        strength: How much of `first` is remade.
        seed: Of the noise.
        begin: The number of the first of them among all of the seed.
        batch: How many at a time.
        precision: Of the network.
        corrected: Whether the domain's `constrain` acts on predictions.
    """

    n: int
    request: Request
    solver: Solver | Loop
    rule: Rule | None = None
    known: Given | Measurement | None = None
    first: State | None = None
    each: bool = False
    strength: float = 0.5
    seed: int = 0
    begin: int = 0
    batch: int = 64
    precision: torch.dtype | None = None
    corrected: bool = True

    def select(self, begin: int, stop: int) -> Draws:
        """Samples begin to stop - 1 of these, with nothing of the others.

        They are drawn in the same batches as among the others, and so to the same bits, if `begin` is a multiple of
        `batch`.
        """
        if not 0 <= begin < stop <= self.n:
            raise RequestError(f"samples {begin} to {stop - 1} of {self.n}", f"some of 0 to {self.n - 1}")
        rows = torch.arange(begin, stop)  # unlike a slice's rows, these are a copy, which is sent alone
        request = dataclasses.replace(
            self.request, like=rows_of(self.request.like, rows), cond=rows_of(self.request.cond, rows)
        )
        return dataclasses.replace(
            self,
            n=stop - begin,
            begin=self.begin + begin,
            request=request,
            solver=self.solver.select(rows) if isinstance(self.solver, Loop) else self.solver,
            rule=None if self.rule is None else self.rule.select(rows),
            known=None if self.known is None else self.known.select(rows),
            first=rows_of(self.first, rows) if self.each else self.first,
        )


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What `Model.drawn` gives.

    Attributes:
        states: Batches [b, ...].
        masks: Of their real sites; None for each that has none.
        odd: How many samples hold numbers that are not finite.
        cut: How many are saturated.
    """

    states: list[State]
    masks: list[Tensor | None]
    odd: int
    cut: int


class Model:
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

    @property
    def device(self) -> torch.device:
        parameter = next(self.denoiser.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

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

    def info(self) -> dict[str, Any]:
        """What the model is and what may be asked of it, JSON-able.

        `request` has each keyword of the domain's request with its default and, where known, the range seen in
        training (`Domain.ranges`); `labels` has the classes of each label, `conditions` what each takes in a
        line. `digest` is that of the weights as they are.
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
            "digest": digest(network.state_dict()),
        }

    @torch.no_grad()
    def states(
        self,
        n: int,
        *args: Any,
        sampler: Solver | Loop | None = None,
        steps: int | None = None,
        guidance: Any = None,
        given: Any = None,
        start: Any = None,
        strength: float = 0.5,
        plan: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: int = 64,
        precision: torch.dtype | None = None,
        corrected: bool = True,
        progress: Callable[[float], None] | None = None,
        arrived: Callable[[list[Any]], None] | None = None,
        finished: bool = True,
        raw: Callable[[list[Any]], None] | None = None,
        **what: Any,
    ) -> States:
        """n new samples, undecoded: the batches of states [b, ...] and their masks. `sample` decodes them to artifacts.

        Args:
            n: How many.
            args: Handed to the domain's `request` with `what`: labels, lengths. Labels that are not said are all
                classes in turn (None for none), and lengths those of `Domain.preview`.
            sampler: How, e.g. `Heun(18)`; the model's own by default.
            steps: The sampler with another number of steps; a table fitted for it (`calibrate`) is used.
            guidance: Classifier-free guidance; 1 is off, None is the model's own. A scale, n of them, a rule,
                `GuidanceInterval(APG(3.0), 0.3, 3.0)`, or these by condition: `{"caption": 3.0, "style": 1.5}`.
            given: What is known of every sample: an artifact with a part missing, in the domain's own words
                (`clip.without(1.20, 1.85)`), or sites of it (`model.known`), put in place on a grid that also goes
                up (the sampler's own, if it does); or a measurement (`Measurement`), met by its method.
            start: An artifact to start from, or a list of one for each sample, noised to the time `strength`, instead
                of pure noise (SDEdit).
                Samples have its size.
            strength: How much of `start` is remade: near 0 nothing, 1 all.
            plan: What `plan` gave, perhaps edited; by default that of what is asked.
            seed: Sample i of a seed is always the same.
            batch: How many at a time.
            precision: torch.bfloat16 runs the network, and nothing else, under autocast.
            corrected: Whether the domain's `constrain` acts on predictions; False shows the bare model.
            progress: Called with the share done.
            arrived: Called with each batch as soon as it is drawn, as a list: artifacts from `sample`
                (`SampleFolder.add` writes them), single states on the host from `states`.
            finished: Whether the domain's `finish` acts on artifacts; False gives them as they were decoded.
            raw: Called with each batch of artifacts before the domain finishes it, where it does (`SampleFolder.keep`).

        Raises:
            RequestError: For something the domain cannot answer.
        """
        draws = self.draws(
            n, *args, sampler=sampler, steps=steps, guidance=guidance, given=given, start=start, strength=strength,
            plan=plan, seed=seed, batch=batch, precision=precision, corrected=corrected, **what,
        )  # fmt: skip
        drawn = self.drawn(draws, progress=progress, arrived=arrived)
        warn_of(n, drawn.odd, drawn.cut)
        return drawn.states, drawn.masks

    sample = decoded(states)

    @torch.no_grad()
    def draws(
        self,
        n: int,
        *args: Any,
        sampler: Solver | Loop | None = None,
        steps: int | None = None,
        guidance: Any = None,
        given: Any = None,
        start: Any = None,
        strength: float = 0.5,
        plan: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: int = 64,
        precision: torch.dtype | None = None,
        corrected: bool = True,
        **what: Any,
    ) -> Draws:
        """The samples that `sample` would draw, planned and checked and not drawn yet; the arguments are its own.

        `self.drawn(self.draws(n).select(64, 128))` draws samples 64 to 127 of n, to the bit, where the batch is 64.

        Raises:
            RequestError: For something the domain cannot answer.
        """
        if n < 1 or batch < 1:
            raise RequestError(f"sample got n={n}, batch={batch}", "at least one sample and a batch of at least one")
        if plan is not None:
            what = with_plan(n, plan, what, self.domain.conditions)
        if given is not None:
            given, what = self.domain.known(given, what)
        starts = list(start) if isinstance(start, list | tuple) else [] if start is None else [start]
        if starts:
            if not 0 < strength <= 1:
                raise RequestError(f"strength={strength!r}", "a number above 0, at most 1", "strength=0.5")
            what = {**self.sizes_of(starts, n, what), **what}
        said = guidance is not None
        guidance = self.per_condition(guidance if said else self.guidance)
        shown = given is None and start is None and plan is None
        what = self.domain.sized(n, {**what, **self.plan(n, *args, shown=shown, **what)})
        request = self.domain.request(n, *args, **what)
        self.check_ranges(what)
        idle = isinstance(guidance, int | float) and not is_one(guidance) and not self.guides(request)
        for name in (None,) if idle else guidance.names() if isinstance(guidance, Rule) else ():
            if said and not self.guides(request, None if name is None else [name]):
                of = f"guidance={guidance}" if name is None else f"guidance for {name!r}"
                warn(f"{of} has nothing to guide: nothing is asked for. Ask for one, or leave it out.")
        idle |= not said and isinstance(guidance, CFGPerCondition) and not self.guides(request, guidance.names())
        guidance = 1.0 if idle else guidance
        solver = sampler or self.sampler
        if sampler is None and isinstance(solver, Calibrated):
            tables, solver = solver, solver.under(guidance_name(guidance))
            if solver is not tables:
                name = type(solver).__name__
                warn(f"The tables were fitted at guidance {tables.guidance}; at {guidance!r} {name} is used.")
        if steps is not None:
            solver = replace_solver(solver, lambda inner: dataclasses.replace(inner, steps=steps))  # type: ignore[type-var]
        if isinstance(given, Given):
            solver = replace_solver(solver, with_resampling)
        first, space = None, self.denoiser.process.space
        if start is not None:
            solver = replace_solver(solver, functools.partial(start_at, strength=strength), FlowPath)
            first, real = collate([self.domain.encode_given(one) for one in starts], self.domain.ragged, None, space)
            wanted = request.cond.get("mask")
            if (
                len(starts) > 1
                and real is not None
                and wanted is not None
                and bool((real.sum(1) > wanted.sum(1)).any())
            ):
                raise RequestError("samples shorter than what they start from", "at least its size", "start=... alone")
        self.check_noise(solver)
        known = None if given is None else given.expand(n)
        rule = None if is_one(guidance) else as_rule(guidance)
        if rule is not None:
            rule.expect(n)
        return Draws(
            n, request, solver, rule=rule, known=known, first=first, each=len(starts) > 1, strength=strength,
            seed=seed, batch=batch, precision=precision, corrected=corrected,
        )  # fmt: skip

    @torch.no_grad()
    def drawn(
        self,
        draws: Draws,
        *,
        progress: Callable[[float], None] | None = None,
        arrived: Callable[[list[Any]], None] | None = None,
    ) -> Drawn:
        """Draws what was asked for.

        Args:
            draws: What `draws` gave, or a part of it.
            progress: Called with the share done.
            arrived: Called with each batch as soon as it is drawn, as a list of single states on the host.
        """
        space, n, batch = self.denoiser.process.space, draws.n, draws.batch
        states, masks, odd, cut = [], [], 0, 0
        with self.at_rest():
            for begin in range(0, n, batch):

                def tick(p: Progress, begin: int = begin) -> None:
                    if progress is not None:
                        progress((begin + batch * (p.number + 1) / p.total) / (-(-n // batch) * batch))

                x, mask = self.draw_batch(draws, slice(begin, min(begin + batch, n)), tick)
                states.append(x)
                masks.append(mask)
                singles = crop(x, mask, space)
                odd += sum(not all(bool(p.isfinite().all()) for p in tensors(single)) for single in singles)
                cut += sum(self.domain.cut(single) > SATURATED for single in singles)
                if arrived is not None:
                    arrived(singles)
        return Drawn(states, masks, odd, cut)

    def draw_batch(self, draws: Draws, part: slice, tick: Callable[[Progress], None]) -> tuple[State, Tensor | None]:
        """Some samples of what was asked for, drawn at once, and their mask."""
        like, cond = self.place(draws.request, part)
        noise = Noise.of(draws.seed, part.stop - part.start, draws.begin + part.start, self.device)
        here = None if draws.known is None else draws.known.select(part, self.device)
        rule = 1.0 if draws.rule is None else draws.rule.select(part, self.device)
        follow: Any = self.follow(rule, draws.precision)
        if isinstance(here, Measurement):
            follow = PosteriorMean(follow, here)
        if draws.corrected:
            follow = Constrained(follow, self.domain.constrain)
        begins = None
        if draws.first is not None:
            own, each = (rows_of(draws.first, part), True) if draws.each else (draws.first, False)
            begins = noised_start(self.denoiser.process, own, like, draws.strength, noise, cond, each)
        solver = draws.solver
        x = sample(
            follow,
            like,
            solver=solver.select(part, self.device) if isinstance(solver, Loop) else solver,
            noise=noise,
            cond=cond,
            given=here if isinstance(here, Given) else None,
            start=begins,
            callback=tick,
        )
        return x, cond.get("mask")

    def sizes_of(self, starts: Sequence[Any], n: int, what: Mapping[str, Any]) -> dict[str, Any]:
        """What to ask for to get samples of the sizes of artifacts to start from; says where other sizes are asked.

        Raises:
            RequestError: For paths in the place of artifacts, or another number than one or n.
        """
        for one in starts:
            if isinstance(one, str | Path):
                raise RequestError(f"start={str(one)!r}", "an artifact", f'start=model.domain.read("{one}")')
        if len(starts) not in (1, n):
            raise RequestError(f"{len(starts)} artifacts to start {n} samples from", "one, or one for each sample")
        sizes = [self.domain.size_of(one) for one in starts]
        found = {name: [size[name] for size in sizes] for name in sizes[0]}
        for name, values in found.items():
            said = what.get(name)
            asked = values if said is None else said if isinstance(said, list | tuple) else [said] * len(values)
            odd = next(((a, b) for a, b in zip(asked, values, strict=False) if a != b), None)
            if odd is not None:
                warn(f"{name}={odd[0]} with a start of {odd[1]}: what lies beyond it begins at the data's mean.")
        return {name: values[0] if len(values) == 1 else values for name, values in found.items()}

    @property
    def guidance(self) -> Any:
        """What `sample` uses when no guidance is said: what the model was trained to be judged with."""
        own = self.recipe.get("guidance", 1.0)
        return from_config(own, where="recipe.guidance") if isinstance(own, Mapping) else own

    @torch.no_grad()
    def plan(self, n: int, *args: Any, shown: bool = True, **what: Any) -> Plan:
        """What n samples are drawn from: what is asked, all classes in turn where a label is not said, and what the
        domain decides before sampling (`Domain.plan`), such as durations. It can be looked at, edited and given:
        `model.sample(n, plan=plan.scaled(0.8))`.

        `shown`: also the lengths and the like that `Domain.preview` asks for, unless there are unnamed arguments, or
        something that is asked tells them.

        Raises:
            RequestError: For what cannot be planned.
        """
        domain = self.domain
        with self.at_rest():
            asked = domain.plan(n, self.expects, **{**domain.in_turn(n, what), **what})
        told, preview = domain.told_sizes(n, asked), {}
        for name, values in domain.preview(n).items() if shown and not args else ():
            if not any(name in size for size in told):
                preview[name] = values
            elif not all(name in size for size in told):
                each = zip(listed(values, None, n), told, strict=True)
                preview[name] = [None if name in size else value for value, size in each]
        return Plan(n, {**preview, **asked}, domain.conditions)

    def expects(self, name: str, value: Any) -> dict[str, Tensor]:
        """The side outputs of the network for one value of a condition, by the condition's names, on the host."""
        own = self.domain.conditions[name]
        batch = rows_of(own.collate([own.encode(value)]), slice(None), self.device)
        found = asides(self.denoiser.embed({name: batch}))
        return {what.removeprefix(f"{name}_"): side[0].cpu() for what, side in found.items()}

    def per_condition(self, guidance: Any) -> Any:
        """The guidance itself, or `CFGPerCondition` of scales or rules by the names of conditions.

        Raises:
            RequestError: For a name that is no condition's.
        """
        own, process = self.domain.conditions, self.denoiser.process
        parts = process.parts if isinstance(process, Joint) else {}
        if isinstance(guidance, Mapping) and not (guidance and all(name in parts for name in guidance)):
            guidance = CFGPerCondition(guidance)
        if isinstance(guidance, Rule):
            of_samples(guidance, lambda value: (check_parts(process, type(guidance).__name__, value), value)[1])
        for name in guidance.names() if isinstance(guidance, Rule) else ():
            if name not in own:
                raise RequestError(
                    f"guidance for {name!r}", f"some of {', '.join([*own, *parts])}.{nearest(name, own)}"
                )
        return guidance

    def guides(self, request: Request, names: Sequence[str] | None = None) -> bool:
        """Whether a request asks for anything that guidance, by these conditions or all, could strengthen."""
        without = self.domain.without(request.cond, names)
        pairs = zip(leaves(request.cond), leaves(without), strict=True)
        return any(isinstance(a, Tensor) and isinstance(b, Tensor) and not torch.equal(a, b) for a, b in pairs)

    def check_ranges(self, what: Mapping[str, Any]) -> None:
        """Warns of numbers that a trained model never saw."""
        for name, (low, high) in self.domain.spans().items() if self.recipe else ():
            asked = what.get(name)
            asked = asked.tolist() if isinstance(asked, Tensor | np.ndarray | np.generic) else asked
            numbers = [v for v in (asked if isinstance(asked, list | tuple) else [asked]) if isinstance(v, int | float)]
            slack = 0.0 if isinstance(low, int) else 0.1  # a range of fractions is that of typical examples
            odd = next((v for v in numbers if not low - slack * abs(low) <= v <= high + slack * abs(high)), None)
            if odd is not None:
                warn(f"{name}={odd:g} is outside what this model was trained on, {low:g} to {high:g}.")

    def check_noise(self, sampler: Any) -> None:
        """Warns of a sampler that draws noise for parts that were trained with noise joined to their examples.

        There x_t hangs on x0 by more than its own noise, so that fresh noise shows the network what it never saw.
        """
        process = self.denoiser.process
        said = (self.recipe.get("objective") or {}).get("coupling") or {}
        by_part = (
            dict.fromkeys(process.parts if isinstance(process, Joint) else ("",), said) if "kind" in said else said
        )
        joined = [name for name, own in by_part.items() if own["kind"] != "Independent"]
        solver = sampler if isinstance(sampler, Solver) else getattr(sampler, "solver", None)
        for row in table(solver, process) if joined and isinstance(solver, Solver) else ():
            moves = row.move if isinstance(row.move, dict) else dict.fromkeys(joined, row.move)
            noisy = [name for name in joined if moves[name] is None or getattr(moves[name], "churn", 0.0)]
            if noisy:
                names = "".join(f" of {name!r}" for name in noisy if name)
                fix = "a sampler without noise (Adams(20), DDIM(50, eta=0.0)) follows what was trained"
                warn(f"{type(solver).__name__} draws noise{names} after training with a coupling: {fix}.")
                return

    def follow(self, guidance: Any = 1.0, precision: torch.dtype | None = None) -> Any:
        """The denoiser that sampling follows: the model's, guided."""
        own = self.denoiser
        denoiser = Denoiser(own.network, own.head, own.process, precision=precision)
        return denoiser if is_one(guidance) else Guided(denoiser, guidance, self.domain.without)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """The network in evaluation mode, for a while."""
        was_training = self.denoiser.training
        self.denoiser.eval()
        try:
            yield
        finally:
            self.denoiser.train(was_training)

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

    def place(self, request: Request, part: slice) -> tuple[State, dict[str, Any]]:
        """Part of a request on the model's device, what does not change in the loop computed."""
        return rows_of(request.like, part, self.device), self.denoiser.embed(rows_of(request.cond, part, self.device))

    def known(self, artifact: Any, keep: Any) -> Given:
        """An artifact of which the sites in `keep` (bool, of the state's shape, without batch axis) are given."""
        x0 = map_state(lambda x: x[None], self.domain.encode_given(artifact))
        return Given(x0, map_state(lambda k: torch.as_tensor(k, dtype=torch.bool)[None], keep))

    def measurement(
        self,
        operator: Operator,
        y: Any,
        noise: float = 0.0,
        *,
        method: Method | None = None,
        part: str | None = None,
    ) -> Measurement:
        """A measurement in the user's units, for `sample(given=...)`: y = A artifact + noise, in those of artifacts.

        Args:
            operator: A, linear: `Average(4)`, `Mask(keep)`.
            y: What it gave, of one artifact or [n, ...].
            noise: The standard deviation of the measurement's noise.
            method: How samples are made to agree; `MMPS()` by default.
            part: Which part of a bundle was measured.

        Raises:
            SamplerError: For an operator that is not linear, a y that is not what it makes of an artifact, or a part
                that the process does not have.
            RequestError: For a domain whose states are no multiples of its artifacts.
        """
        leaf_of(self.denoiser.process, part)
        units = self.domain.units()
        units = units.get(part or "") if isinstance(units, Mapping) else units
        if units is None:
            raise RequestError(
                f"{self.domain.name} was measured, and its states are no multiples of its artifacts",
                "a measurement of states",
                "Measurement(operator, y_of_states, noise)",
            )
        if not isinstance(operator, LinearOperator):
            raise SamplerError(f"A measurement got {operator!r}", "a linear operator", "Measurement(..., method=DPS())")
        (scale, shift), y = units, torch.as_tensor(y).float()
        if shift:  # y' = scale y + A shift
            like = self.domain.request(1, **self.domain.preview(1)).like
            ones = torch.ones_like(like if part is None else like[part])
            y = y if y.ndim == operator.select(slice(0, 1))(ones).ndim else y[None]
            y = scale * y + shift * operator(ones.expand(len(y), *ones.shape[1:]))
        else:
            y = scale * y
        return Measurement(operator, y, abs(scale) * noise, method or MMPS(), part)

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
        """
        network = self.denoiser.network
        own = network.state_dict() if self.adaptation is None else trained_state(network)
        kept = {k: v.to(dtype) if v.is_floating_point() and dtype else v for k, v in own.items()}
        if self.adaptation is None:
            kept |= {f"{CARRIED}{name}": value for name, value in carried_weights(self.domain).items()}
        weights = {k: v.detach().cpu().contiguous() for k, v in kept.items()}
        text = json.dumps(self.config(Path(path).parent))
        metadata = {"gendiff": text, "config_sha256": text_digest(text), "weights_sha256": digest(weights)}
        return write_whole(path, serialise(weights, metadata=metadata))


RESERVED = frozenset(
    ("x", "t", "mask", "previous", "embedded", "side", "control", "all", "executor", "chunk", "threads", "device")
)
"""What the core itself tells a network by name, what training calls all conditions, and arguments of `draw`."""


def carried_weights(domain: Domain) -> dict[str, Tensor]:
    """The weights of the networks that are part of a domain, by "NAME.weight"."""
    return {f"{name}.{key}": v for name, module in domain.carried().items() for key, v in module.state_dict().items()}


def check_names(domain: Domain) -> None:
    """Refuses conditions that could not be asked for, or told to a network, by the names they have.

    Raises:
        RequestError: For the first of them.
    """
    taken = RESERVED | inspect.signature(Model.states).parameters.keys() | domain.ranges().keys()
    for name in domain.conditions:
        if name in taken:
            raise RequestError(
                f"{type(domain).__name__} has a condition {name!r}, a name that sampling or networks use for another",
                "another name",
                f"{{{name + '_'!r}: ...}}",
            )


def warn_of(n: int, odd: int, cut: int) -> None:
    """Says how many of n samples are not finite, and how many are saturated."""
    if odd:
        warn(f"{odd} of {n} samples hold numbers that are not finite: too strong a guidance, or too few steps?")
    if cut:
        warn(
            f"{cut} of {n} samples are saturated: over {SATURATED:.0%} of their values lie far beyond what can be "
            "shown and are cut: too strong a guidance, too few steps, or too little training?"
        )


def warn(text: str) -> None:
    """Says something about a request that is answered all the same."""
    warnings.warn(text, RequestWarning, stacklevel=6)
