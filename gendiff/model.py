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
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from gendiff.config import complete, from_config, to_config, unread
from gendiff.denoisers import Denoiser, Head
from gendiff.discovery import domain_class
from gendiff.domain import Domain, Request, crop
from gendiff.errors import CheckpointError, GendiffError, RequestError
from gendiff.guidance import (
    Constrained,
    From,
    Given,
    Guided,
    Measurement,
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
from gendiff.spaces import State, map_state

FORMAT = 1
KEYS = ("format", "version", "domain", "network", "process", "head", "sampler", "recipe", "metrics")


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
    def new(domain: Domain, *, process: Process | None = None, head: Head | None = None, **size: Any) -> Model:
        """An untrained model: the domain's network of this size, with its process and head unless others are given.

        The network is made by the domain with that process and head (`Domain.with_process`), so it reads their clock.
        """
        domain = domain.with_process(process, head)
        return Model(domain, Denoiser(domain.network(**size), domain.head, domain.process), size=size)

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
        guidance: Any = 1.0,
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
            args: Handed to the domain's `request` with `what`: labels, lengths.
            sampler: How, e.g. `Heun(18)`; the model's own by default.
            steps: The sampler with another number of steps; a table fitted for it (`calibrate`) is used.
            guidance: Classifier-free guidance; 1 is off. A scale, or a rule:
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
        solver = sampler or self.sampler
        if sampler is None and isinstance(solver, Calibrated):
            solver = solver.under(guidance_name(guidance))
        if steps is not None:
            solver = replace_solver(solver, lambda inner: dataclasses.replace(inner, steps=steps))  # type: ignore[type-var]
        if isinstance(given, Given):
            solver = replace_solver(solver, with_resampling)
        first = None
        if start is not None:
            solver = replace_solver(solver, functools.partial(start_at, strength=strength), FlowPath)
            first = map_state(lambda x: x[None], self.domain.encode(start))
        request = self.domain.request(n, *args, **what)
        known = None if given is None else given.expand(n)
        denoiser = self.follow(guidance, precision)
        states, masks = [], []
        with self.at_rest():
            for begin in range(0, n, batch):
                part = slice(begin, min(begin + batch, n))
                like, cond = self.place(request, part)
                noise = Noise.of(seed, part.stop - begin, begin, self.device)
                here = None if known is None else known.select(part, self.device)
                follow: Any = denoiser
                if isinstance(here, Measurement):
                    follow = PosteriorMean(follow, here)
                if corrected:
                    follow = Constrained(follow, self.domain.constrain)

                def tick(p: Progress, begin: int = begin) -> None:
                    if progress is not None:
                        progress((begin + batch * (p.number + 1) / p.total) / (-(-n // batch) * batch))

                x = sample(
                    follow,
                    like,
                    solver=solver,
                    noise=noise,
                    cond=cond,
                    given=here if isinstance(here, Given) else None,
                    start=None if first is None else noised_start(denoiser.process, first, like, strength, noise, cond),
                    callback=tick,
                )
                states.append(x)
                masks.append(cond.get("mask"))
                if arrived is not None:
                    arrived([self.domain.decode(single) for single in crop(x, cond.get("mask"))])
        return states, masks

    sample = decoded(states)

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
        guidance: Any = 1.0,
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
            guidance: The guidance it is fitted for, as in `sample`.
            seed: Of the pilots; samples of other seeds are not among them.
            corrected: Whether the domain's `constrain` acts on predictions.
            fine: Steps of the pilots' own trajectories.
            rounds: Refinements of all numbers together, some dozens of runs each.

        Raises:
            SamplerError: For fewer than 8 pilots, or a solver with more than one evaluation a step.
        """
        if not args and not what:
            labels = {name: [i % len(classes) for i in range(pilots)] for name, classes in self.domain.labels.items()}
            what = {**labels, **self.domain.preview(pilots)}
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
        like = map_state(lambda x: x[part].to(self.device), request.like)
        cond = {k: v[part].to(self.device) if isinstance(v, Tensor) else v for k, v in request.cond.items()}
        return like, cond

    def known(self, artifact: Any, keep: Any) -> Given:
        """An artifact of which the sites in `keep` (bool, of the state's shape, without batch axis) are given."""
        x0 = map_state(lambda x: x[None], self.domain.encode(artifact))
        return Given(x0, map_state(lambda k: torch.as_tensor(k, dtype=torch.bool)[None], keep))

    def config(self) -> dict[str, Any]:
        """All but the weights, JSON-able."""
        from gendiff import __version__

        return {
            "format": FORMAT,
            "version": __version__,
            "domain": {"name": self.domain.name, **{k: v for k, v in to_config(self.domain).items() if k != "kind"}},
            "network": to_config(self.size),
            "process": to_config(self.denoiser.process),
            "head": to_config(self.denoiser.head),
            "sampler": to_config(self.sampler),
            "recipe": to_config(self.recipe),
            "metrics": to_config(self.metrics),
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
        out.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
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


def read_config(path: str | Path) -> dict[str, Any]:
    """The config of a model file, checked for its format.

    Raises:
        CheckpointError: If it is missing, damaged, not gendiff's, or of another format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.exists():
        raise CheckpointError(f"There is no model file {path}", "a .safetensors file that Model.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("gendiff")
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error})", "an undamaged model file", "Copy it again"
        ) from error
    if text is None:
        raise CheckpointError(f"{path} is safetensors, but no gendiff model", "a file that Model.save wrote")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"The config in {path} is not JSON ({error})", "an undamaged model file") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"The config in {path} is a {type(config).__name__}", f"a table of {', '.join(KEYS)}")
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {config.get('format')!r} (written by gendiff {config.get('version', 'unknown')})",
            f"format {FORMAT}",
            "Load it with the gendiff version that wrote it",
        )
    try:
        unread(config, list(KEYS), str(path))
        complete(config, list(KEYS), str(path))
        complete(config["domain"], ["name"], f"{path}: domain")
    except GendiffError as error:
        raise CheckpointError(error.got, error.expected, error.fix) from error
    return config


def load(path: str | Path, *, device: torch.device | str = "cpu") -> Model:
    """A model from a file that `Model.save` wrote (or the folder that holds model.safetensors).

    Raises:
        CheckpointError: If the file is damaged, of another format, has keys nobody reads or weights that do not fit.
        UnknownName: If its domain is not installed.
    """
    config = read_config(path)
    path = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    fields = dict(config["domain"])
    cls = domain_class(fields.pop("name"))
    package = sys.modules[cls.__module__.partition(".")[0]]
    try:
        domain = from_config({"kind": cls.__name__, **fields}, package, where=f"{path}: domain", means=cls)
        process = from_config(config["process"], package, where=f"{path}: process")
        head = from_config(config["head"], package, where=f"{path}: head")
        sampler = from_config(config["sampler"], package, where=f"{path}: sampler")
        size = from_config(config["network"], package, where=f"{path}: network")
        sizes = inspect.signature(domain.network).parameters.values()
        if all(p.kind is not p.VAR_KEYWORD for p in sizes):
            unread(size, [p.name for p in sizes], f"{path}: network")
    except GendiffError as error:
        raise CheckpointError(error.got, error.expected, error.fix) from error
    network = domain.network(**size)
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    own = network.state_dict()
    odd = sorted(set(own) ^ set(weights)) or [k for k in own if own[k].shape != weights[k].shape]
    if odd:
        raise CheckpointError(
            f"{path}: {len(odd)} weights do not fit the network, first {odd[0]!r}",
            f"the weights of {type(network).__name__}({size})",
        )
    network.load_state_dict(weights)
    model = Model(
        domain,
        Denoiser(network, head, process),
        size=size,
        sampler=sampler,
        recipe=config["recipe"],
        metrics=config["metrics"],
    )
    model.denoiser.eval()
    return model.to(device)
