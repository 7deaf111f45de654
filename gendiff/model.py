r"""A model: a domain and a denoiser, loaded, saved and sampled.

    model = gendiff.load("model.safetensors");  model.sample(16, label="frog", guidance=1.8, seed=0)

A file is safetensors: the weights, and one JSON text with what is needed to rebuild the rest (see `gendiff.config`).
Nothing is unpickled. Sample i of seed s is the same whatever n, the batch size and the device's order of work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import os
import secrets
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Concatenate, NamedTuple, ParamSpec, TypeAlias

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gendiff.config import (
    Kinds,
    check_name,
    check_type,
    classes_in,
    complete,
    core_kinds,
    from_config,
    kind_name,
    parse_json,
    to_config,
    unread,
)
from gendiff.denoisers import Denoiser, Head, rows_of
from gendiff.discovery import domain_class, registered_parts
from gendiff.domain import Domain, Request, crop, sealed
from gendiff.errors import (
    CheckpointError,
    GendiffError,
    RecipeError,
    RequestError,
    RequestWarning,
    SamplerError,
    UnknownName,
)
from gendiff.guidance import (
    MMPS,
    Constrained,
    From,
    Given,
    Guided,
    LinearOperator,
    Measurement,
    Method,
    Operator,
    PosteriorMean,
    as_rule,
    is_one,
    noised_start,
    with_resampling,
)
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.sampling import Loop, Progress, calibrate, sample
from gendiff.sampling import Path as FlowPath
from gendiff.sampling.solvers import Calibrated, Solver
from gendiff.spaces import State, map_state, tensors

FORMAT = 1
HINTS = {
    "domain": Mapping, "network": Mapping, "process": Mapping, "head": Mapping, "sampler": Mapping, "recipe": Mapping,
    "metrics": Mapping[str, float | None],
}  # fmt: skip
KEYS = ("format", "version", *HINTS)
LONGEST_HEADER = 64 * 2**20
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
DIGESTS = ("config_sha256", "weights_sha256")


P = ParamSpec("P")
States: TypeAlias = tuple[list[State], list[Tensor | None]]


def decoded(states: Callable[Concatenate[Model, P], States]) -> Callable[Concatenate[Model, P], list[Any]]:
    """The method that draws artifacts, from the one that draws states: the same arguments, one artifact a sample."""

    @functools.wraps(states)
    def sample(self: Model, *args: P.args, **kwargs: P.kwargs) -> list[Any]:
        batches, masks = states(self, *args, **kwargs)
        singles = [single for x, mask in zip(batches, masks, strict=True) for single in crop(x, mask)]
        return [self.domain.decode(x) for x in singles]

    sample.__name__, sample.__qualname__ = "sample", "Model.sample"
    sample.__doc__ = (states.__doc__ or "").replace(
        "n new samples, undecoded: the batches of states [b, ...] and their masks. `sample` decodes them to artifacts.",
        "n new artifacts.",
    )
    return sample


class Model:
    """A domain with its denoiser.

    Args:
        domain: From artifacts to states and back.
        denoiser: Predicts clean states.
        size: The keyword arguments its network was built with.
        sampler: Used when `sample` is given none; the domain's by default.
        recipe: The resolved recipe it was trained by, as JSON-able dict.
        metrics: Numbers measured on it.
    """

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
        domain = domain.with_process(process, head)
        return Model(domain, Denoiser(make_network(domain, size), domain.head, domain.process), size=size)

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
        training (`Domain.ranges`); `labels` has the classes of each label. `digest` is that of the weights as they are.
        """
        network = self.denoiser.network
        config = self.config()
        ranges = {name: list(span) for name, span in self.domain.ranges().items()}
        asked = [p for p in inspect.signature(self.domain.request).parameters.values() if p.kind is p.KEYWORD_ONLY]
        return {
            **{key: value for key, value in config.items() if key not in ("format", "network")},
            "network": {"class": type(network).__name__, "size": config["network"]},
            "parameters": sum(p.numel() for p in network.parameters()),
            "labels": {name: list(classes) for name, classes in self.domain.labels.items()},
            "request": {
                p.name: {
                    "default": None if p.default is p.empty else to_config(p.default),
                    **({"trained": ranges[p.name]} if p.name in ranges else {}),
                }
                for p in asked
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
        seed: int = 0,
        batch: int = 64,
        precision: torch.dtype | None = None,
        corrected: bool = True,
        progress: Callable[[float], None] | None = None,
        arrived: Callable[[list[Any]], None] | None = None,
        **what: Any,
    ) -> States:
        """n new samples, undecoded: the batches of states [b, ...] and their masks. `sample` decodes them to artifacts.

        Args:
            n: How many.
            args: Handed to the domain's `request` with `what`: labels, lengths. Labels that are not said are all
                classes in turn (None for none), and lengths those of `Domain.preview`.
            sampler: How, e.g. `Heun(18)`; the model's own by default.
            steps: The sampler with another number of steps; a table fitted for it (`calibrate`) is used.
            guidance: Classifier-free guidance; 1 is off, None is the model's own. A scale, n of them, or a rule:
                `GuidanceInterval(APG(3.0), 0.3, 3.0)`.
            given: What is known of every sample: an artifact with a part missing, in the domain's own words
                (`clip.without(1.20, 1.85)`), or sites of it (`model.known`), put in place on a grid that also goes
                up (the sampler's own, if it does); or a measurement (`Measurement`), met by its method.
            start: An artifact to start from, noised to the time `strength`, instead of pure noise (SDEdit).
            strength: How much of `start` is remade: near 0 nothing, 1 all.
            seed: Sample i of a seed is always the same.
            batch: How many at a time.
            precision: torch.bfloat16 runs the network, and nothing else, under autocast.
            corrected: Whether the domain's `constrain` acts on predictions; False shows the bare model.
            progress: Called with the share done.
            arrived: Called with the artifacts of each batch as soon as it is drawn: `SampleFolder.add` writes them.

        Raises:
            RequestError: For something the domain cannot answer.
        """
        if n < 1 or batch < 1:
            raise RequestError(f"sample got n={n}, batch={batch}", "at least one sample and a batch of at least one")
        if given is not None:
            given, what = self.domain.known(given, what)
        said = guidance is not None
        guidance = guidance if said else self.guidance
        request = self.domain.request(n, *args, **self.request(n, *args, shown=given is None and start is None, **what))
        self.check_ranges(what)
        if isinstance(guidance, int | float) and not is_one(guidance) and not self.guides(request):
            if said:
                warn(f"guidance={guidance} has nothing to guide: no label is asked for. Ask for one, or leave it out.")
            guidance = 1.0
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
        first = None
        if start is not None:
            solver = replace_solver(solver, functools.partial(start_at, strength=strength), FlowPath)
            first = map_state(lambda x: x[None], self.domain.encode_given(start))
        known = None if given is None else given.expand(n)
        rule = None if is_one(guidance) else as_rule(guidance)
        if rule is not None:
            rule.expect(n)
        states, masks, odd = [], [], 0
        with self.at_rest():
            for begin in range(0, n, batch):
                part = slice(begin, min(begin + batch, n))
                like, cond = self.place(request, part)
                noise = Noise.of(seed, part.stop - begin, begin, self.device)
                here = None if known is None else known.select(part, self.device)
                follow: Any = self.follow(1.0 if rule is None else rule.select(part, self.device), precision)
                if isinstance(here, Measurement):
                    follow = PosteriorMean(follow, here)
                if corrected:
                    follow = Constrained(follow, self.domain.constrain)

                def tick(p: Progress, begin: int = begin) -> None:
                    if progress is not None:
                        progress((begin + batch * (p.number + 1) / p.total) / (-(-n // batch) * batch))

                begins = None
                if first is not None:
                    begins = noised_start(self.denoiser.process, first, like, strength, noise, cond)
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
                states.append(x)
                masks.append(cond.get("mask"))
                odd += sum(not all(bool(p.isfinite().all()) for p in tensors(single)) for single in crop(x, masks[-1]))
                if arrived is not None:
                    arrived([self.domain.decode(single) for single in crop(x, cond.get("mask"))])
        if odd:
            warn(f"{odd} of {n} samples hold numbers that are not finite: too strong a guidance, or too few steps?")
        return states, masks

    sample = decoded(states)

    @property
    def guidance(self) -> Any:
        """What `sample` uses when no guidance is said: what the model was trained to be judged with."""
        return self.recipe.get("guidance", 1.0)

    def request(self, n: int, *args: Any, shown: bool = True, **what: Any) -> dict[str, Any]:
        """The words that n samples are asked for by: those said, and all classes in turn where a label is not said.

        `shown`: also the lengths and the like that `Domain.preview` asks for, unless there are unnamed arguments.
        """
        preview = self.domain.preview(n) if shown and not args else {}
        return {**preview, **self.domain.in_turn(n, what), **what}

    def guides(self, request: Request) -> bool:
        """Whether a request asks for anything that guidance could strengthen."""
        without = self.domain.without(request.cond)
        pairs = ((value, without.get(name)) for name, value in request.cond.items())
        return any(isinstance(a, Tensor) and isinstance(b, Tensor) and not torch.equal(a, b) for a, b in pairs)

    def check_ranges(self, what: Mapping[str, Any]) -> None:
        """Warns of numbers that a trained model never saw."""
        for name, (low, high) in self.domain.ranges().items() if self.recipe else ():
            asked = what.get(name)
            numbers = [v for v in (asked if isinstance(asked, list | tuple) else [asked]) if isinstance(v, int | float)]
            slack = 0.0 if isinstance(low, int) else 0.1  # a range of fractions is that of typical examples
            odd = next((v for v in numbers if not (1 - slack) * low <= v <= (1 + slack) * high), None)
            if odd is not None:
                warn(f"{name}={odd:g} is outside what this model was trained on, {low:g} to {high:g}.")

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
        guidance = self.guidance if guidance is None else guidance
        what = self.request(pilots, *args, **what)
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
        """Part of a request on the model's device."""
        return rows_of(request.like, part, self.device), rows_of(request.cond, part, self.device)

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
            SamplerError: For an operator that is not linear, or a y that is not what it makes of an artifact.
            RequestError: For a domain whose states are no multiples of its artifacts.
        """
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

    def config(self) -> dict[str, Any]:
        """All but the weights, JSON-able."""
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
        }

    def save(self, path: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Writes weights and config to one .safetensors file, replacing it whole or not at all.

        Args:
            path: Where to.
            dtype: Store floating weights in this type (torch.bfloat16 halves the file); they load as float32.
        """
        own = self.denoiser.network.state_dict()
        kept = {k: v.to(dtype) if v.is_floating_point() and dtype else v for k, v in own.items()}
        weights = {k: v.detach().cpu().contiguous() for k, v in kept.items()}
        text = json.dumps(self.config())
        metadata = {"gendiff": text, "config_sha256": text_digest(text), "weights_sha256": digest(weights)}
        return write_whole(path, serialise(weights, metadata=metadata))


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name, type, shape and bytes, in the order of their names: hex."""
    out = hashlib.sha256()
    for name, value in sorted(weights.items()):
        out.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        out.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return out.hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text: hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_whole(path: str | Path, content: bytes) -> Path:
    """Writes a file so that readers, other writers and a crash see the old one or the new one, never a part.

    The content goes to a new file of its own name in the same folder, to the disk, and then takes the place of `path`;
    a link at `path` is replaced, not followed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


def warn(text: str) -> None:
    """Says something about a request that is answered all the same."""
    warnings.warn(text, RequestWarning, stacklevel=4)


def guidance_name(guidance: Any) -> str:
    """A guidance as text, the same for a number and the `CFG` of it."""
    return repr(as_rule(float(guidance) if isinstance(guidance, int) else guidance))


def start_at(sampler: Any, strength: float) -> Any:
    """A sampler with a grid, start_at at the time `strength`."""
    return dataclasses.replace(sampler, times=From(sampler.times, strength))


def replace_solver(sampler: Solver | Loop, f: Callable[[Any], Any], *others: type) -> Any:
    """f of a solver, or of one of other kinds; of a sampler that has a solver, the sampler with f of it in its place.

    Raises:
        RequestError: For a sampler without steps of its own.
    """
    if isinstance(sampler, (Solver, *others)):
        return f(sampler)
    inner = {name: f(value) for name, value in vars(sampler).items() if isinstance(value, Solver)}
    if not inner:
        raise RequestError(
            f"{sampler!r} got steps=, start= or known parts", "a sampler that walks a grid", "model.sample(n, steps=8)"
        )
    return dataclasses.replace(sampler, **inner)  # type: ignore[type-var]


def domain_config(domain: Domain) -> dict[str, Any]:
    """A domain's JSON-able form: the name of its entry point, its class, and its fields."""
    return {"name": getattr(domain, "name", type(domain).__name__.lower()), **to_config(domain)}


def read_domain(config: Mapping[str, Any], where: str, parts: Sequence[type] = ()) -> tuple[Domain, Kinds]:
    """The domain that `domain_config` described, and the classes that its file may name.

    Args:
        config: With "name", and "kind" for a class that is not the one registered under that name.
        where: What is being read, for messages.
        parts: Classes known beside the registered ones.

    Raises:
        UnknownName: If neither an entry point nor the parts have it.
        RecipeError: If a field does not fit.
    """
    complete(config, ["name"], where)
    cls = domain_type(config, where, parts)
    kinds = Kinds(package_of(cls), parts=parts)
    fields = {**{k: v for k, v in config.items() if k != "name"}, "kind": cls.__name__}
    return from_config(fields, where=where, means=cls, kinds=kinds, hint=Domain), kinds


def domain_type(config: Mapping[str, Any], where: str, parts: Sequence[type] = ()) -> type:
    """The class of the domain that a config names: one of the parts, or what is registered under its name."""
    name, kind = config["name"], config.get("kind")
    check_name(name, f"the name in {where}")
    for part in (*parts, *registered_parts()):
        if issubclass(part, Domain) and (part.__name__ == kind if kind else getattr(part, "name", None) == name):
            return part
    cls = domain_class(name)
    return cls if kind in (None, cls.__name__) else Kinds(package_of(cls)).find(kind, where)


def make_network(domain: Domain, size: Mapping[str, Any]) -> nn.Module:
    """The domain's network of a size, or the class that stands under "kind" with the rest as its arguments."""
    kind = size.get("kind")
    if kind is None:
        return domain.network(**size)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise RecipeError(f"The network has the kind {kind!r}", "a class of torch.nn.Module", "kind=MyNet, width=64")
    return kind(**{name: value for name, value in size.items() if name != "kind"})


def as_checkpoint_error(error: GendiffError) -> CheckpointError:
    """What is wrong with a file, cut to a readable length: a file may hold texts of any."""
    parts = (error.got, error.expected, error.fix)
    return CheckpointError(*(part if len(part) <= 600 else part[:600] + " ..." for part in parts))


class ModelFile:
    """An open safetensors file: the length of a header in 8 bytes, the header in JSON, the tensors end to end.

    One handle reads all of it, so who replaces the file meanwhile does not change what is read; safetensors' own reader
    opens its path twice.

    Attributes:
        metadata: Texts by name; the config is under "gendiff".
        shapes: Of the tensors, by name.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(size - 8, LONGEST_HEADER):
                raise RecipeError(f"a header of {length:,} bytes in a file of {size:,}")
            header = parse_json(file.read(length).decode("utf8"), "its header", LONGEST_HEADER)
            check_type(header, Mapping[str, Mapping], "its header")
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            check_type(self.metadata, Mapping[str, str], "its metadata")
            self.places = {name: place_of(name, entry) for name, entry in header.items()}
            end = 0
            for _, _, begin, after in sorted(self.places.values(), key=lambda place: place[2:]):
                if begin != end:
                    raise RecipeError("tensors that do not lie end to end")
                end = after
            if 8 + length + end != size:
                raise RecipeError(f"tensors of {end:,} bytes in a file of {size:,}")
        except (GendiffError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{path} cannot be read as safetensors ({getattr(error, 'got', error)})",
                "an undamaged model file",
                "Copy it again",
            ) from error
        self.start = 8 + length
        self.shapes = {name: place[1] for name, place in self.places.items()}

    def tensor(self, name: str) -> Tensor:
        """A tensor, in memory of its own."""
        dtype, shape, begin, end = self.places[name]
        if begin == end:
            return torch.empty(shape, dtype=dtype)
        self.file.seek(self.start + begin)
        return torch.frombuffer(bytearray(self.file.read(end - begin)), dtype=dtype).reshape(shape)


def place_of(name: str, entry: Mapping[str, Any]) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """Type, shape, and first and last offset of a tensor, from its entry in the header."""
    complete(entry, ["dtype", "shape", "data_offsets"], name)
    shape, offsets = entry["shape"], entry["data_offsets"]
    plain = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not plain or entry["dtype"] not in DTYPES or any(type(n) is not int or n < 0 for n in (*shape, *offsets)):
        raise RecipeError(f"{name!r} is {entry!r:.200}")
    dtype = DTYPES[entry["dtype"]]
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise RecipeError(f"{name!r} of shape {shape!r:.200} has {offsets[1] - offsets[0]:,} bytes")
    return dtype, tuple(shape), *offsets


@contextlib.contextmanager
def open_model(path: str | Path) -> Iterator[tuple[ModelFile, dict[str, Any]]]:
    """An open model file and its config.

    Raises:
        CheckpointError: If it is missing, damaged, not gendiff's, or of another format.
    """
    path = model_path(path)
    try:
        with path.open("rb") as stream:
            file = ModelFile(stream, path)
            yield file, checked_config(file.metadata, path)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no model file {path}", "a .safetensors file that Model.save wrote") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error})", "a file that this user may read") from error


def model_path(path: str | Path) -> Path:
    """The model file itself, or the one in a run's folder."""
    path = Path(path)
    return path / "model.safetensors" if path.is_dir() else path


def checked_config(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The config in a model file's metadata, checked for its format, its digest and its keys."""
    text = metadata.get("gendiff")
    if text is None:
        raise CheckpointError(f"{path} is safetensors, but no gendiff model", "a file that Model.save wrote")
    try:
        unread(metadata, ["gendiff", *DIGESTS], f"{path}: metadata")
        if set(metadata) & set(DIGESTS):
            complete(metadata, list(DIGESTS), f"{path}: metadata")
            require_digest(metadata["config_sha256"], text_digest(text), path, "config")
        config = parse_json(text, f"The config in {path}")
        if not isinstance(config, dict):
            raise RecipeError(f"The config in {path} is a {type(config).__name__}", f"a table of {', '.join(KEYS)}")
        if config.get("format") != FORMAT:
            raise RecipeError(
                f"{path} has format {config.get('format')!r} (written by gendiff {config.get('version', 'unknown')})",
                f"format {FORMAT}",
                "Load it with the gendiff version that wrote it",
            )
        unread(config, list(KEYS), str(path))
        complete(config, list(KEYS), str(path))
        for key, hint in HINTS.items():
            check_type(config[key], hint, f"{path}: {key}")
        complete(config["domain"], ["name"], f"{path}: domain")
    except GendiffError as error:
        raise as_checkpoint_error(error) from error
    return config


def require_digest(wanted: str, found: str, path: Path, what: str) -> None:
    """Raises CheckpointError unless two digests agree."""
    if wanted != found:
        raise CheckpointError(
            f"The {what} of {path} has the SHA-256 {found[:12]}..., the file says {wanted[:12]!r}...",
            "an undamaged model file",
            "Copy it again",
        )


def read_config(path: str | Path) -> dict[str, Any]:
    """The config of a model file, checked for its format.

    Raises:
        CheckpointError: If it is missing, damaged, not gendiff's, or of another format.
    """
    with open_model(path) as (_, config):
        return config


class Rebuilt(NamedTuple):
    """What a model's config describes, beside weights, recipe and metrics."""

    domain: Domain
    process: Process
    head: Head
    sampler: Solver | Loop
    size: dict[str, Any]


def rebuild(config: Mapping[str, Any], where: str, parts: Sequence[type] = ()) -> Rebuilt:
    """The parts of a model from its config; its domain has the model's process and head.

    Raises:
        UnknownName: For a domain that is not known.
        CheckpointError: For a key nobody reads, or a value that does not fit.
    """
    with sealed():
        domain, kinds = read_domain(config["domain"], f"{where}: domain", parts)

        def part(key: str, hint: Any) -> Any:
            return from_config(config[key], where=f"{where}: {key}", kinds=kinds, hint=hint)

        process, head, sampler = part("process", Process), part("head", Head), part("sampler", Solver | Loop)
        return Rebuilt(domain.with_process(process, head), process, head, sampler, dict(part("network", Mapping)))


def check_size(domain: Domain, size: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Refuses a size whose network has not the weights of a file, before memory is taken for it.

    The network is built without memory for its large tensors, and given up once it has far more modules than the file
    has tensors.

    Args:
        shapes: The shape of each tensor in the file, by name.

    Raises:
        CheckpointError: For sizes that cannot be built, or weights of other names or shapes.
    """
    entries = sum(math.prod(shape) for shape in shapes.values())
    maker = size.get("kind", domain.network)
    taken = inspect.signature(maker).parameters.values()
    try:
        if all(p.kind is not p.VAR_KEYWORD for p in taken):
            unread(size, ["kind", *(p.name for p in taken)] if "kind" in size else [p.name for p in taken], where)
        for number in numbers_in(size):
            if abs(number) > max(entries, 2**16):
                raise RecipeError(f"{where} holds {number:.6g}", f"sizes of a network of {entries:,} weights")
        with at_most(16 * len(shapes) + 1024, where), sealed():
            try:
                with Weightless():
                    network = make_network(domain, size)
            except (NotImplementedError, RuntimeError) as error:
                # A network that looks at numbers while it is built needs memory; its sizes are bounded all the same.
                longest = max((max(shape, default=1) for shape in shapes.values()), default=1)
                if "meta" not in str(error) or any(abs(number) > 4 * longest for number in numbers_in(size)):
                    raise
                network = make_network(domain, size)
    except GendiffError as error:
        raise as_checkpoint_error(error) from error
    except Exception as error:
        raise CheckpointError(
            f"{where}: no network can be built of {size!r:.200} ({type(error).__name__}: {error!s:.200})",
            "the sizes it was trained with",
        ) from error
    own = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    odd = sorted(set(own) ^ set(shapes)) or [k for k in own if own[k] != tuple(shapes[k])]
    if odd:
        raise CheckpointError(
            f"{where}: {len(odd)} weights do not fit the network, first {odd[0]!r}",
            f"the weights of {type(network).__name__}({size!r:.200})",
        )


class Weightless(TorchFunctionMode):
    """Large tensors that are made within it take no memory, and no random numbers are drawn for them.

    Small ones are real: torch needs seconds of imports to compute without memory.
    """

    MADE = frozenset({"empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "logspace", "eye"})
    DRAWN = frozenset({"normal_", "uniform_", "trunc_normal_", "bernoulli_", "random_"})
    SMALL = 4096

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in self.MADE and given.get("device") is None:
            counts = numbers_in([*args, given.get("size"), given.get("steps"), given.get("end")])
            if math.prod(max(int(n), 1) for n in counts if math.isfinite(n)) > self.SMALL:
                given["device"] = "meta"
        first = args[0] if args else given.get("tensor")
        if name in self.DRAWN and isinstance(first, Tensor) and first.is_meta:
            return first
        return func(*args, **given)


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers in nested plain values."""
    if isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from numbers_in(item)
    elif isinstance(value, int | float):
        yield value


@contextlib.contextmanager
def at_most(count: int, where: str) -> Iterator[None]:
    """Within it, a thread that registers more modules, parameters and buffers than this raises RecipeError."""
    thread, seen = threading.get_ident(), 0

    def registered(*args: Any) -> None:
        nonlocal seen
        seen += threading.get_ident() == thread
        if seen > count:
            raise RecipeError(
                f"{where} describes a network of more than {count:,} parts", "those of the file's weights"
            )

    kinds = torch.nn.modules.module
    hooks = [
        kinds.register_module_module_registration_hook(registered),
        kinds.register_module_parameter_registration_hook(registered),
        kinds.register_module_buffer_registration_hook(registered),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode(False)  # weights made in the mode could never be differentiated
def load(path: str | Path, *, device: torch.device | str = "cpu", parts: Sequence[type] = ()) -> Model:
    """A model from a file that `Model.save` wrote (or the folder that holds model.safetensors).

    Nothing in the file is run, and nothing but the file is read: what its data source names is looked at when data are
    asked for. Memory stays below a few times that of the weights.

    Args:
        path: The file or folder.
        device: Where to.
        parts: Classes of your own that the file names, e.g. `[Square, MyDomain]`, where no package registers them.

    Raises:
        CheckpointError: If the file is damaged, of another format, has keys nobody reads or weights that do not fit.
        UnknownName: If its domain is not known.
    """
    where = str(path)
    with open_model(path) as (file, config):
        try:
            domain, process, head, sampler, size = rebuild(config, where, parts)
        except GendiffError as error:
            if isinstance(error, UnknownName) and error.kind == "domain":
                raise
            raise as_checkpoint_error(error) from error
        check_size(domain, size, file.shapes, f"{where}: network")
        with sealed():
            network = make_network(domain, size)
        weights = {name: file.tensor(name) for name in file.shapes}
        if "weights_sha256" in file.metadata:
            require_digest(file.metadata["weights_sha256"], digest(weights), file.path, "weights")
        network.load_state_dict(weights)
    model = Model(
        domain,
        Denoiser(network, head, process),
        size=size,
        sampler=sampler,  # type: ignore[arg-type]
        recipe=config["recipe"],
        metrics={k: math.nan if v is None else v for k, v in config["metrics"].items()},
    )
    model.denoiser.eval()
    return model.to(device)


def check_loadable(model: Model, *others: Any) -> tuple[type, ...]:
    """Refuses a model whose file could not be loaded again, before time is spent on its weights.

    Args:
        model: Its config goes to JSON and back, and its network is built anew.
        others: More that must survive the way through JSON, such as the recipe's times and objective.

    Returns:
        The classes that `load` must be given as `parts`: those that no package and no `gendiff.register` makes known.

    Raises:
        RecipeError: For what has no JSON, comes back as something else, or cannot be found again.
        CheckpointError: For a network that its size does not describe.
    """
    own = model.domain
    described = (own, model.denoiser.process, model.denoiser.head, model.sampler, model.size)
    text = json.dumps([model.config(), *(to_config(other) for other in others)])
    config, *rest = parse_json(text, "The model's config")
    parts = [
        cls for cls in dict.fromkeys(classes_in([*described, *others])) if cls is not core_kinds().get(cls.__name__)
    ]
    again = rebuild(config, "The model's config", parts)
    kinds = read_domain(config["domain"], "The model's domain", parts)[1]
    for before, after in zip(
        (*described, *others), (*again, *(from_config(data, kinds=kinds) for data in rest)), strict=True
    ):
        if to_config(after) != to_config(before) or list(classes_in(after)) != list(classes_in(before)):
            raise RecipeError(
                f"{before!r:.200} comes back from a file as {after!r:.200}", "fields that say all that it is"
            )
    weights = model.denoiser.network.state_dict()
    check_size(again.domain, again.size, {k: tuple(v.shape) for k, v in weights.items()}, "The model's network")
    return tuple(cls for cls in parts if not found_alone(cls, own, config["domain"]))


def found_alone(cls: type, domain: Domain, config: Mapping[str, Any]) -> bool:
    """Whether `load` finds a class that a file of this domain names, without being given it."""
    try:
        if cls is type(domain):
            return domain_type(config, "domain") is cls
        return Kinds(package_of(type(domain))).find(kind_name(cls), "config") is cls
    except GendiffError:
        return False


def package_of(cls: type) -> ModuleType:
    """The package, or single module, that defines a class."""
    return sys.modules[cls.__module__.partition(".")[0]]
