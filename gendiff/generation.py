r"""What is asked of a model, and how it is drawn.

    draws = model.draws(n, label="frog", guidance=1.8)    planned and checked;  any part of them: draws.select(64, 128)
    drawn = model.drawn(draws)                            batches of states and masks
    artifacts = model.sample(n, ...)                      the same, decoded

Sample i of seed s is the same whatever n, the batch size and the device's order of work: its noise is a function of
(s, i) alone, and what is asked of it is planned before the loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gendiff.conditions import Plan, listed, with_plan
from gendiff.config import from_config
from gendiff.denoisers import Denoiser, asides, rows_of, takes
from gendiff.domain import Domain, Request, collate, crop
from gendiff.errors import (
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
    ScaleInput,
    as_rule,
    check_parts,
    guidance_name,
    is_one,
    noised_start,
    of_samples,
    start_at,
)
from gendiff.processes import Joint, leaf_of
from gendiff.random import Noise
from gendiff.sampling import Loop, Progress, replace_solver, sample, table
from gendiff.sampling import Path as FlowPath
from gendiff.sampling.solvers import Calibrated, Solver
from gendiff.spaces import State, leaves, map_state, tensors

P = ParamSpec("P")

States: TypeAlias = tuple[list[State], list[Tensor | None]]

SATURATED = 0.05
"""The share of cut values above which a sample is called saturated (`Domain.cut`)."""


def decoded(states: Callable[Concatenate[Generation, P], States]) -> Callable[Concatenate[Generation, P], list[Any]]:
    """The method that draws artifacts, from the one that draws states: the same arguments, one artifact a sample."""

    @functools.wraps(states)
    def sample(self: Generation, *args: P.args, **kwargs: P.kwargs) -> list[Any]:
        artifacts: list[Any] = []
        report: Any = kwargs.get("arrived")
        raw: Any = kwargs.get("raw")
        given: Any = self.domain.implied(kwargs) if kwargs.get("given") is None else kwargs["given"]

        def decode(singles: list[State]) -> None:
            new = [self.domain.decode(x) for x in singles]
            if given is not None:
                new = [self.domain.completed(x, given, len(artifacts) + k) for k, x in enumerate(new)]
            if self.domain.finishes and kwargs.get("finished", True):
                if raw is not None:
                    raw(new)
                new = finished(self.domain, new)
            artifacts.extend(new)
            if report is not None:
                report(new)

        states(self, *args, **{**kwargs, "arrived": decode})  # type: ignore[arg-type]
        return artifacts

    sample.__name__, sample.__qualname__ = "sample", "Generation.sample"
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
        given: The same in the user's words, for what a state does not hold of it.
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
    given: Any = None
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


class Generation:
    """Samples of a domain by a denoiser: what `Model` is asked for.

    Attributes:
        domain: From artifacts to states and back.
        denoiser: Predicts clean states.
        sampler: Used when `sample` is given none.
        recipe: The resolved recipe it was trained by, as JSON-able dict; empty for none.
    """

    domain: Domain
    denoiser: Denoiser
    sampler: Solver
    recipe: dict[str, Any]

    @property
    def device(self) -> torch.device:
        parameter = next(self.denoiser.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

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
        if not all(isinstance(count, int | np.integer) and count >= 1 for count in (n, batch)):
            got = f"sample got n={n!r:.40}, batch={batch!r:.40}"
            raise RequestError(got, "whole numbers: at least one sample and a batch of at least one")
        n, batch = int(n), int(batch)
        if plan is not None:
            what = with_plan(n, plan, what, self.domain.conditions)
        said_known = self.domain.implied(what) if given is None else given
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
        turn = given is None and start is None  # what is known says what it is
        what = self.domain.sized(n, {**what, **self.plan(n, *args, shown=shown, turn=turn, **what)})
        request = self.domain.request(n, *args, **what)
        self.check_ranges({**what, "guidance": guidance})
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
            solver = replace_solver(solver, given.paced)
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
            n, request, solver, rule=rule, known=known, given=said_known, first=first, each=len(starts) > 1,
            strength=strength, seed=seed, batch=batch, precision=precision, corrected=corrected,
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
    def plan(self, n: int, *args: Any, shown: bool = True, turn: bool = True, **what: Any) -> Plan:
        """What n samples are drawn from: what is asked, all classes in turn where a label is not said, and what the
        domain decides before sampling (`Domain.plan`), such as durations. It can be looked at, edited and given:
        `model.sample(n, plan=plan.scaled(0.8))`.

        `shown`: also the lengths and the like that `Domain.preview` asks for, unless there are unnamed arguments, or
        something that is asked tells them. `turn`: also what conditions ask for one after the other where nothing is
        said, such as classes; not of samples of which something is known, or that start from something.

        Raises:
            RequestError: For what cannot be planned.
        """
        domain = self.domain
        with self.at_rest():
            asked = domain.plan(n, self.expects, **{**(domain.in_turn(n, what) if turn else {}), **what})
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
        """Warns of numbers that a trained model never saw, a guidance that its network is told among them."""
        spans = dict(self.domain.spans()) if self.recipe else {}
        scales = (self.recipe.get("method") or {}).get("guidance")
        if isinstance(scales, list | tuple):
            spans["guidance"] = scales[0], scales[-1]
        for name, (low, high) in spans.items():
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
        if is_one(guidance):
            return denoiser
        if takes(denoiser, "guidance"):
            return ScaleInput(denoiser, guidance)
        return Guided(denoiser, guidance, self.domain.without)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """The network in evaluation mode, for a while."""
        was_training = self.denoiser.training
        self.denoiser.eval()
        try:
            yield
        finally:
            self.denoiser.train(was_training)

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
