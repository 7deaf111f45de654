"""The contract of a domain: from what a person opens to a state, and back.

    raw --encode--> x0 in a space --process--> x_t --denoiser--> x0_hat --decode--> raw

An *artifact* is one picture, sound or structure, in the user's units. A domain turns one artifact into one state
(no batch axis) and back; the core does the batching: `collate` pads ragged states along their first axis (that of
elements, or of pairs of them, as each part's space says) and makes the mask, `crop` undoes it. Trainer, sampler,
guidance, checkpoint and benchmark know a domain through this class alone.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.conditions import Condition, Expects, Label, batch_of, completed, listed, sites_of, told_of, without
from gendiff.denoisers import Head, default_head
from gendiff.errors import DataError, RequestError, nearest, printable
from gendiff.evaluation import Judge, Measure, Observer
from gendiff.files import data_root as data_root
from gendiff.files import sealed as sealed
from gendiff.files import unsealed as unsealed
from gendiff.guidance import Given, Measurement
from gendiff.processes import Process, pick
from gendiff.random import Noise
from gendiff.sampling.grids import PowerGrid
from gendiff.sampling.solvers import Adams, Solver
from gendiff.spaces import ELEMENTS, SiteKind, Space, State, kinds_of, map_state, tensors
from gendiff.training import Auxiliary


@dataclass(frozen=True)
class Example:
    """One artifact with its conditions.

    Attributes:
        artifact: What a person opens, in the user's units.
        cond: What its conditions say of it, by name, as a user would ask for it: a class, a number, a text. A name that
            is missing, and None, is nothing said.
        name: Where it came from, for reports.
        weight: How much it counts in training, against the mean of all; 1/n in a cluster of n makes clusters alike.
    """

    artifact: Any
    cond: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Rejected:
    """A file or record that was left out, and why."""

    name: str
    reason: str


class Examples(Sequence[Example]):
    """Examples, with what was rejected on the way: nothing is skipped silently.

    Args:
        items: What can be used; a sequence that is no list stays as it is, and may make its examples when asked.
        rejected: What was meant to be used and cannot, with the reason.
        others: Names of files beside the data that are of another kind: captions, tables, texts.
        notes: What was done to the data on the way, a sentence each, to be said once.
    """

    def __init__(
        self,
        items: Sequence[Example],
        rejected: Sequence[Rejected] = (),
        others: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.items = tuple(items) if isinstance(items, list | tuple) else items
        self.rejected, self.others, self.notes = tuple(rejected), tuple(others), tuple(notes)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return Examples(self.items[index], self.rejected, self.others, self.notes)
        return self.items[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.items)

    @property
    def artifacts(self) -> Sequence[Any]:
        """The artifacts alone: a list, or one at a time where the examples are made when asked for."""
        if isinstance(self.items, tuple):
            return [item.artifact for item in self.items]
        if isinstance(self.items, Made) and type(self.items).artifact is Made.artifact:  # values are artifacts
            return self.items.values if isinstance(self.items.values, Sequence) else Artifacts(self.items)
        return Artifacts(self.items)

    @property
    def conds(self) -> Sequence[Mapping[str, Any]]:
        """What is said of each, without its artifact being made."""
        return self.items.cond if isinstance(self.items, Made) else [item.cond for item in self.items]

    @property
    def names(self) -> Sequence[str]:
        """Where each came from, without its artifact being made."""
        return self.items.names if isinstance(self.items, Made) else [item.name for item in self.items]

    def report(self) -> str:
        """How many were read, how many rejected, by reason, with the first names of each, and how many are others."""
        lines = [f"{len(self)} read, {len(self.rejected)} rejected"]
        for reason, number in Counter(r.reason for r in self.rejected).most_common():
            names = [r.name for r in self.rejected if r.reason == reason][:3]
            lines.append(printable(f"  {number} x {reason}: {', '.join(names)}{', ...' if number > 3 else ''}"))
        if self.others:
            kinds = Counter(Path(name).suffix.lower() or "without a suffix" for name in self.others).most_common()
            listed = ", ".join(f"{number} x {kind}" for kind, number in kinds[:8]) + (", ..." if len(kinds) > 8 else "")
            lines.append(printable(f"  {len(self.others)} other files: {listed}"))
        lines += [printable(f"  {note}") for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Made(Sequence[Example]):
    """Examples of which each artifact is made when it is asked for, while what is said of it is at hand.

    Args:
        values: What artifacts are made of: a sequence that may make its items too (see `gendiff.lazy`).
        cond: What is said of each.
        names: Of each.
    """

    values: Sequence[Any] | np.ndarray
    cond: Sequence[Mapping[str, Any]]
    names: Sequence[str]

    def artifact(self, value: Any) -> Any:
        """The artifact of a value; by default itself."""
        return value

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Example | Self:
        if isinstance(index, slice):
            return type(self)(self.values[index], self.cond[index], self.names[index])
        return Example(self.artifact(self.values[index]), self.cond[index], self.names[index])


class Artifacts(Sequence[Any]):
    """The artifacts of examples that are made when asked for, of which none is kept."""

    def __init__(self, items: Sequence[Example]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return Artifacts(self.items[index]) if isinstance(index, slice) else self.items[index].artifact


class Source(ABC):
    """Where examples come from: a frozen dataclass with JSON-able fields."""

    @abstractmethod
    def load(self, split: str, root: Path | None = None) -> Examples:
        """The examples of "train" or "test"; `root` overrides the data folder."""

    @abstractmethod
    def describe(self) -> str:
        """One sentence: what it is and where it comes from."""


def data_file(relative: str, root: str | Path | None = None, source: str = "") -> Path:
    """A file under the data folder; a missing one raises DataError with where to get it."""
    path = unsealed(data_root(root) / relative)
    if not path.exists():
        raise DataError(
            f"The data file {path} does not exist",
            f"{relative} below the data folder{f': {source}' if source else ''}",
            "Put it there, or point to the folder with --data FOLDER or GENDIFF_DATA=FOLDER",
        )
    return path


@dataclass(frozen=True)
class Request:
    """What to sample: a template [n, ...] (shapes, dtype; values unread) and the conditions [n, ...] of the network."""

    like: State
    cond: dict[str, Any] = field(default_factory=dict)


if TYPE_CHECKING:
    derived = property
else:

    class derived:
        """A property that an instance may hold its own value of, as `Domain.with_process` gives it one."""

        def __init__(self, get: Callable[[Any], Any]) -> None:
            self.get, self.__doc__ = get, get.__doc__

        def __get__(self, owner: Any, kind: type | None = None) -> Any:
            return self if owner is None else self.get(owner)


class Domain(ABC):
    """The contract; subclasses are frozen dataclasses whose fields are JSON-able (see `gendiff.config`).

    `gendiff.testing.check_domain` tries a subclass and says what is missing.

    Attributes:
        name: Its entry point's name.
        ragged: Whether states differ in length along their first axis; batches then carry a mask.
        multiple: Ragged batches are padded to a multiple of this length.
    """

    name: ClassVar[str]
    ragged: ClassVar[bool] = False
    multiple: ClassVar[int] = 1

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for word in ("process", "head"):
            own = cls.__dict__.get(word)
            if isinstance(own, property) and own.fget is not None:
                setattr(cls, word, derived(own.fget))

    @property
    @abstractmethod
    def process(self) -> Process:
        """How data become noise on batched states."""

    @abstractmethod
    def encode(self, artifact: Any) -> State:
        """One artifact to one state, without batch axis."""

    def encode_given(self, artifact: Any) -> State:
        """One artifact to start from, or with a known part; by default `encode`, which may ask for more (no gaps)."""
        return self.encode(artifact)

    @abstractmethod
    def decode(self, x: State) -> Any:
        """One state, cropped to its length, to one artifact."""

    @abstractmethod
    def request(self, n: int, *args: Any, **what: Any) -> Request:
        """What a user may ask for, as template and conditions. Raises RequestError for what it cannot answer."""

    def asks(self) -> dict[str, Any]:
        """What `request` takes by name beside the conditions, with the defaults: lengths, seconds."""
        named = inspect.signature(self.request).parameters.values()
        return {p.name: None if p.default is p.empty else p.default for p in named if p.kind is p.KEYWORD_ONLY}

    @abstractmethod
    def network(self, **size: Any) -> nn.Module:
        """f(x, t, **cond) -> raw output."""

    @abstractmethod
    def dataset(self, split: str, root: Path | None = None) -> Examples:
        """The examples of "train" or "test"."""

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What may be asked, by name (see `gendiff.conditions`)."""
        return {}

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The class names of each condition that is a class."""
        return {name: own.classes for name, own in self.conditions.items() if isinstance(own, Label)}

    def with_conditions(self, conditions: Mapping[str, Condition]) -> Self:
        """The same with conditions that were fitted to training values, kept in the field `asked`.

        Raises:
            RequestError: For a domain without that field.
        """
        changed = {name: own for name, own in conditions.items() if own != self.conditions.get(name)}
        if not changed:
            return self
        if "asked" not in {f.name for f in dataclasses.fields(self)}:  # type: ignore[arg-type]
            raise RequestError(
                f"{type(self).__name__} was given fitted conditions ({', '.join(changed)})",
                "a dataclass with the field asked: Mapping[str, Condition]",
                "or with_conditions of its own",
            )
        return dataclasses.replace(self, asked={**getattr(self, "asked"), **changed})  # type: ignore[type-var]  # noqa: B009

    def fit_conditions(self, examples: Sequence[Example]) -> Self:
        """The same with ranges and vocabularies taken from the conditions of training examples."""
        said = (
            []
            if not self.conditions
            else examples.conds
            if isinstance(examples, Examples)
            else [e.cond for e in examples]
        )
        fitted = {}
        for name, own in self.conditions.items():
            with told_of(name, own):
                fitted[name] = own.fit([cond.get(name) for cond in said])
        return self.with_conditions(fitted)

    @derived
    def head(self) -> Head:
        """What the network emits."""
        return default_head(self.process)

    def with_process(self, process: Process | None = None, head: Head | None = None) -> Self:
        """The same domain with another process, or another head: its network, sampler and losses follow them.

        `dataclasses.replace` gives the domain's own back.
        """
        other = copy.copy(self)
        vars(other).update(process=process or self.process)
        vars(other).update(head=head or other.head)
        return self if (other.process, other.head) == (self.process, self.head) else other

    def metrics(self) -> Mapping[str, Measure | Callable[[list[Any], list[Any]], float]]:
        """Measures by name; a plain f(samples, reference) of two lists of artifacts is one, whose direction is open."""
        return {}

    def observed(self) -> Mapping[str, Observer]:
        """What artifacts show of conditions without a trained judge: by a condition's name, f(artifacts) -> values."""
        return {}

    def judges(self) -> Mapping[str, Callable[[Examples, Examples], Judge]]:
        """Who else may judge samples: by name, what is made of training and of test examples, which are real.

        Raises:
            GendiffError: When one is made whose package is not installed, with the line that installs it.
        """
        return {}

    def feature_network(self, root: Path | None = None) -> nn.Module:
        """A network that tells states apart as one who looks or listens does, for the perceptual loss of a codec:
        states [B, C, *sites] to features [B, F, ...], or a list of such, with gradients.

        Args:
            root: The data folder, of one that is trained on the domain's own examples.

        Raises:
            RequestError: For a domain that has none, by default.
        """
        raise RequestError(
            f"{type(self).__name__} has no feature network",
            "a domain with feature_network(), or a network of yours",
            'loss=Reconstruction(perceptual=0.1, features={"kind": MyNet})',
        )

    def sampler(self) -> Solver:
        """The sampler of a user who chooses none."""
        return Adams(20, times=PowerGrid(1.2))

    def preview(self, n: int) -> dict[str, Any]:
        """What to ask `request` for, beside labels, when n samples are drawn to look at: lengths, seconds."""
        return {}

    def plan(self, n: int, expects: Expects, /, **asked: Any) -> dict[str, Any]:
        """What is asked of n samples, with what is decided before they are drawn: durations, sizes, layouts.

        By default the values of conditions are completed by these. Planning what is planned changes nothing.

        Args:
            n: Of samples.
            expects: f(condition's name, value) -> side outputs of the network for it, without batch axis.
            asked: By name.
        """
        return completed(self.conditions, expects, asked)

    def size_for(self, sites: int) -> dict[str, Any]:
        """What `request` is asked for to get a sample of so many sites: {"length": sites}; nothing by default."""
        return {}

    def sized(self, n: int, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked of n samples, with the sizes that the values of conditions tell, where no other is said."""
        told, out = self.told_sizes(n, asked), dict(asked)
        for name in {name: None for size in told for name in size}:
            said = listed(asked.get(name), None, n)
            if len(said) == n:  # else `request` refuses it
                out[name] = [size.get(name) if one is None else one for one, size in zip(said, told, strict=True)]
        return out

    def told_sizes(self, n: int, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        """By `size_for`, the sizes that the values of conditions tell each of n samples to have."""
        return [self.size_for(sites) if sites else {} for sites in sites_of(n, self.conditions, asked)]

    def in_turn(self, n: int, said: Container[str] = ()) -> dict[str, list[Any]]:
        """What to ask for in n samples by each condition that was not `said`: every one goes round its `turn`, and all
        combinations come once before one comes again. Of turns whose numbers have a common divisor g, the later one
        skips a value after each lcm samples, g times.
        """
        period, out = 1, {}
        for name, condition in self.conditions.items():
            values = condition.turn()
            if name not in said and values:
                k = len(values)
                common, divisor = math.lcm(period, k), math.gcd(period, k)
                out[name] = [values[(i + i // common % divisor) % k] for i in range(n)]
                period *= k
        return out

    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The smallest and largest value seen in training of what `request` takes as numbers: lengths, seconds."""
        return {}

    def spans(self) -> dict[str, tuple[float, float]]:
        """`ranges`, and those of conditions that are numbers."""
        own = {name: condition.span for name, condition in self.conditions.items()}
        return {**self.ranges(), **{name: span for name, span in own.items() if span is not None}}

    def units(self) -> tuple[float, float] | Mapping[str, tuple[float, float]] | None:
        """(scale, shift) of states = scale artifact + shift, number by number; by part for bundles. None elsewhere."""
        return None

    def augment(self, x: State, noise: Noise) -> State:
        """A random variant of a batch of clean states."""
        return x

    def variants(self, artifact: Any) -> Sequence[Any]:
        """All that `augment` may make of an artifact, each as likely, where states are made once and kept (`Latent`).

        Raises:
            RequestError: For a domain that draws variants and does not list them.
        """
        if type(self).augment is not Domain.augment:
            raise RequestError(
                f"{type(self).__name__} draws variants of its states at random, and lists none",
                "variants(artifact) beside augment, where they are few",
            )
        return [artifact]

    @property
    def auxiliary(self) -> Mapping[str, Auxiliary]:
        """Losses beside the denoising loss, by name: on the predicted clean state, or on side outputs."""
        return {}

    @property
    def losses(self) -> dict[str, Auxiliary]:
        """`auxiliary`, and those of conditions ("CONDITION_NAME").

        Raises:
            RequestError: For an `auxiliary` that is no mapping.
        """
        if not isinstance(self.auxiliary, Mapping):
            raise RequestError(
                f"{type(self).__name__}.auxiliary is a {type(self.auxiliary).__name__}",
                "a property with losses by name",
                '@property\ndef auxiliary(self): return {"geometry": Auxiliary(self.geometry)}',
            )
        own = {
            f"{name}_{what}": loss
            for name, one in self.conditions.items()
            for what, loss in one.auxiliary(name).items()
        }
        return {**own, **self.auxiliary}

    def constrain(self, prediction: State, t: float, **cond: Any) -> State:
        """What every clean state obeys, imposed on each prediction while sampling."""
        return prediction

    def finish(self, artifacts: list[Any]) -> list[Any]:
        """Decoded samples, as many as come at once, after what acts on them as a batch: a vocoder, a relaxation.

        By default they are as they were decoded. A sample must not depend on the others.
        """
        return artifacts

    @property
    def finishes(self) -> bool:
        """Whether `finish` does anything, so that samples are told apart as raw and finished."""
        return type(self).finish is not Domain.finish

    def cut(self, x: State) -> float:
        """The share of a state's numbers that lie far beyond what an artifact can show, so that `decode` cuts them."""
        return 0.0

    def vocabulary(self, network: nn.Module) -> Mapping[str, tuple[int, tuple[str, ...]]]:
        """Which weights of its network have an axis of named things: by a weight's name, the axis and their names.

        A network that begins from another's takes those of the same name, wherever they stand: kinds of atoms.
        """
        return {}

    def fit(self, artifacts: Sequence[Any]) -> Domain:
        """The same domain with statistics taken from training artifacts."""
        return self

    def with_statistics(self, other: Domain) -> Self:
        """The same with what `fit` of another domain of this kind found, so that states mean the same in both.

        By default all that `fit` finds is taken to leave states as they are.
        """
        return self

    def carried(self) -> Mapping[str, nn.Module]:
        """Networks that are part of the domain and stand in a model's file, by name: a codec."""
        return {}

    def pinned(self) -> Mapping[str, str]:
        """The SHA-256 of trained networks that states are made by, by name: a codec's."""
        return {}

    def carry(self, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], Tensor], where: str) -> Domain:
        """The same with the networks that a file carries: its tensors by "NAME.weight", as `carried` named them.

        Args:
            shapes: Of the tensors, by name.
            tensor: f(name) -> the tensor.
            where: What is being read, for messages.

        Raises:
            RequestError: For tensors that are not this domain's.
        """
        if shapes:
            raise RequestError(
                f"{where} carries {len(shapes)} weights of a domain that has none", "a model's own weights"
            )
        return self

    def read(self, path: str | Path) -> Any:
        """An artifact from a file; by default a tensor from .npy."""
        return torch.from_numpy(np.load(path, allow_pickle=False))

    def write(self, artifact: Any, path: str | Path) -> None:
        """An artifact to a file; by default a tensor to .npy."""
        np.save(path, np.asarray(artifact), allow_pickle=False)

    def plot(self, artifacts: Sequence[Any], path: str | Path, *, labels: Sequence[str] | None = None) -> None:
        """A picture of some artifacts, with a line of text for each."""
        raise RequestError(f"The domain {self.name} draws no pictures", "a domain with plot()", "write() saves samples")

    @property
    def suffix(self) -> str:
        """The file name ending that `write` makes."""
        return ".npy"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The endings of all formats that `write` knows, the usual one first."""
        return (self.suffix,)

    def known(self, given: Any, what: Mapping[str, Any]) -> tuple[Given | Measurement, dict[str, Any]]:
        """What a user says is known of the samples, for the sampler, and what is then asked of `request`.

        The core takes `Given` and `Measurement`. A domain turns its own words (a recording with a gap, a picture with
        a mask) into one of them, and completes what is asked: a gap tells how long the samples are.

        Raises:
            RequestError: For something that is neither, or does not fit what is asked.
        """
        if not isinstance(given, Given | Measurement):
            raise RequestError(
                f"given={type(given).__name__}",
                f"something of which {type(self).__name__} knows what is known in it, a Given or a Measurement",
                "model.sample(4, given=model.known(artifact, keep))",
            )
        return given, dict(what)

    @property
    def givens(self) -> Mapping[str, str]:
        """Words that say what is known of samples, beside those of `request`, and what each means: a file's name."""
        return {}

    def given(self, n: int, seed: int = 0, **said: Any) -> Any:
        """What is known of n samples, for `sample(given=...)`, from some of the words `givens`.

        Raises:
            RequestError: For what cannot be read, or does not fit together.
        """
        raise RequestError(f"{type(self).__name__} was told {', '.join(said)}", "nothing that is known of samples", "")

    def implied(self, what: Mapping[str, Any]) -> Any:
        """What is known of samples by what is asked of them, in the words of `completed`; None, as by default, where
        states hold all of it. Of side chains that are asked for on a backbone it is the backbone.

        Args:
            what: What is asked, by name.
        """
        return None

    def completed(self, artifact: Any, given: Any, number: int) -> Any:
        """A decoded sample with what is known put back as it was, where a state does not hold all of it.

        Args:
            artifact: As it was decoded.
            given: What `sample` was given, in the domain's own words, or what `implied` says.
            number: Of the sample among all that were asked for.
        """
        return artifact

    def size_of(self, artifact: Any) -> dict[str, Any]:
        """What `request` is asked for to get samples of an artifact's size: a length, seconds; nothing by default."""
        return {}

    def without(self, cond: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, Any]:
        """What is asked of a batch with nothing asked by these conditions, all by default, for guidance."""
        return without(self.conditions, cond, names)

    def encode_conditions(
        self, n: int, /, *, sites: tuple[int, ...] = (), lengths: Sequence[int] = (), **asked: Any
    ) -> dict[str, Any]:
        """What is asked of n samples as batches by name: one value for all, or a list of n; None asks for nothing.

        Args:
            n: Of samples.
            sites: Of a (padded) state, for conditions of sites.
            lengths: The first of them of each sample, where they differ.
            asked: By condition.

        Raises:
            RequestError: For an unknown condition, value or count, with the nearest name.
        """
        own = self.conditions
        unknown = [name for name in asked if name not in own]
        if unknown:
            raise RequestError(
                f"{type(self).__name__} was asked for {unknown[0]!r}",
                f"It takes {', '.join(own) or 'no conditions'}.{nearest(unknown[0], own)}",
            )
        return {name: batch_of(name, c, asked.get(name), n, sites, lengths) for name, c in own.items()}


def site_kinds(x: State, space: Space | None) -> dict[str, SiteKind]:
    """The kind of sites of each tensor of a state, by part or by the empty name; elements where no space is known."""
    found = ELEMENTS if space is None else kinds_of(space, x)
    return {name: pick(found, name) for name in (x if isinstance(x, Mapping) else ("",))}


def length_of(state: State, space: Space | None = None) -> int:
    """How many elements (atoms, residues, frames) a single ragged state has, whatever its parts count.

    Raises:
        DataError: For parts that disagree.
    """
    kinds = site_kinds(state, space)
    parts = dict(zip(kinds, tensors(state), strict=True))
    first = next((name for name, kind in kinds.items() if kind == ELEMENTS), next(iter(kinds)))
    n = kinds[first].size(len(parts[first]))
    for name, kind in kinds.items():
        if len(parts[name]) != kind.count(n):
            raise DataError(
                f"A state of {n} elements (by {first!r}) has {len(parts[name])} entries in {name!r}",
                f"{kind.count(n)}: sites of the kind {kind!r}",
            )
    return n


def collate(
    states: Sequence[State], ragged: bool, length: int | None = None, space: Space | None = None
) -> tuple[State, Tensor | None]:
    """One batch [B, ...] from single states; ragged ones are padded along their first axis.

    Args:
        states: Single states.
        ragged: Whether lengths differ.
        length: Pad to this length, in elements, instead of the longest.
        space: Whose parts say what their sites are: elements, or pairs of them; elements if it is not given.

    Returns:
        The batch, and the mask bool [B, length] of real elements (None if not ragged).
    """
    if not ragged:
        return map_state(lambda *parts: torch.stack(parts), states[0], *states[1:]), None
    lengths = [length_of(state, space) for state in states]
    longest, kinds = length or max(lengths), site_kinds(states[0], space)

    def pad(kind: SiteKind, *parts: Tensor) -> Tensor:
        out = parts[0].new_zeros(len(parts), kind.count(longest), *parts[0].shape[1:])
        for row, part in zip(out, parts, strict=True):
            row[: len(part)] = part
        return out

    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return map_state(pad, kinds if isinstance(states[0], Mapping) else kinds[""], *states), mask


def crop(x: State, mask: Tensor | None, space: Space | None = None) -> list[State]:
    """Single states on the host from a batch: `collate` undone."""
    x = map_state(lambda part: part.detach().cpu(), x)
    n = tensors(x)[0].shape[0]
    if mask is None:
        return [map_state(lambda part: part[i], x) for i in range(n)]  # noqa: B023
    found, lengths = site_kinds(x, space), mask.sum(1).tolist()
    kinds = found if isinstance(x, Mapping) else found[""]
    return [map_state(lambda part, kind: part[i, : kind.count(lengths[i])], x, kinds) for i in range(n)]  # noqa: B023


def finite(x: State, name: str) -> State:
    """The state itself, or DataError naming the example if a number in it is not finite."""
    for part in tensors(x):
        if part.is_floating_point() and not torch.isfinite(part).all():
            raise DataError(
                f"The example {name!r} holds {int((~torch.isfinite(part)).sum())} values that are not finite",
                "finite numbers",
                "Remove or repair it",
            )
    return x
