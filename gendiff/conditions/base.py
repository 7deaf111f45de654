r"""The contract of a condition: from one user's value to what a network is told.

    value --encode--> one sample's numbers --collate--> a batch --embedder--> vector, tokens, field

Every step is the condition's own, so that no other part of the core asks which kind it is: a condition collates, pads
and drops itself. A batch is a tensor [B, ...] or a dict of such tensors: slicing, moving and stacking are those of
any state. None is "nothing asked", for which an embedder has numbers of its own, which training learns from examples
whose condition is dropped, and which guidance compares with.

An embedder gives a network any of

    "vector"  [B, W]               joins the embedding of the time                   Label, Number, Text
    "tokens"  [B, L, W], "mask"    are attended to                                   Text
    "field"   [B, *sites, W]       joins the input, site by site                     Sites, Field

and what it gives depends neither on x nor on t: it is computed once, before the loop.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.errors import GendiffError, RequestError, check, printable, refuse
from gendiff.evaluation import Measure
from gendiff.spaces import map_state
from gendiff.training import Auxiliary

Encoded: TypeAlias = Tensor | dict[str, Tensor]
"""One sample's condition: a tensor, or named ones, without batch axis."""

Batched: TypeAlias = Tensor | dict[str, Tensor]
"""The same for a batch, [B, ...] each."""


class Condition(ABC):
    """The interface; members are frozen dataclasses with JSON-able fields."""

    @property
    def gives(self) -> tuple[str, ...]:
        """What its embedder gives, of "vector", "tokens" and "field"."""
        return ("vector",)

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def encode(self, value: Any) -> Encoded:
        """One sample's value as numbers; None asks for nothing.

        Raises:
            RequestError: For a value that is none of this condition's.
        """

    def encode_example(self, value: Any) -> Encoded:
        """The same for a value beside training data."""
        return self.encode(value)

    def collate(self, singles: Sequence[Encoded], sites: tuple[int, ...] = ()) -> Batched:
        """A batch of encoded values, padded where their lengths differ.

        Args:
            singles: Encoded values.
            sites: How many sites a padded state of the batch has, along each axis; for conditions of sites.
        """
        return map_state(lambda *parts: torch.stack(parts), singles[0], *singles[1:])

    def fits(self, single: Encoded, sites: tuple[int, ...]) -> None:
        """Refuses a value of other sites than its sample's; of those that give a field.

        Raises:
            RequestError: With both numbers.
        """
        if "field" in self.gives and isinstance(single, Tensor) and tuple(single.shape[: len(sites)]) != sites:
            found = list(single.shape[: len(sites)])
            raise RequestError(f"a value for sites {found} of a sample of {list(sites)}", "one entry for each site")

    @abstractmethod
    def drop(self, batch: Batched, gone: Tensor) -> Batched:
        """The batch with nothing asked where `gone` (bool [B]) is True."""

    @abstractmethod
    def embedder(self, width: int) -> nn.Module:
        """The module that a network builds for it: f(batch) -> {"vector": [B, width]} and the like.

        f(None) is nothing asked of any sample, with a batch axis of 1.
        """

    def plan(self, value: Any, expects: Callable[[Any], Mapping[str, Tensor]]) -> Any:
        """One value with what it leaves open decided; a value that leaves nothing open stays as it is.

        Args:
            value: As a user gave it, not None.
            expects: f(value) -> the side outputs of this condition's embedder for a value, without batch axis.

        Raises:
            RequestError: For a value that cannot be completed.
        """
        return value

    def sites(self, value: Any) -> int | None:
        """How many sites along the first axis a value tells its sample to have; None where it tells nothing."""
        return None

    def scaled(self, value: Any, factor: float) -> Any:
        """The value for a sample that is longer by a factor; what does not lie along the sites stays as it is."""
        return value

    def follows(self, planned: Any, asked: Any) -> bool:
        """Whether a planned value is one of what is asked."""
        same = planned == asked
        return bool(same.all()) if hasattr(same, "all") else bool(same)

    def auxiliary(self, name: str) -> dict[str, Auxiliary]:
        """Losses on what its embedder gives beside what a network is told, by name; `name` is the condition's own."""
        return {}

    def single(self, value: Any) -> bool:
        """Whether a value is one sample's, rather than a list with one for each."""
        return not isinstance(value, list | tuple | range | np.ndarray | Tensor) or getattr(value, "ndim", 1) == 0

    def fit(self, values: Sequence[Any]) -> Self:
        """The same with what it takes from training values (None where an example has none): ranges, a vocabulary."""
        return self

    def audit(self, values: Sequence[Any]) -> list[str]:
        """What is odd about training values, a clause each, to be said before training starts."""
        count, missing = len(values), sum(value is None for value in values)
        asked = {str(value) for value in values if value is not None}
        if missing == count:
            return ["no example has it"]
        said = [f"{missing} of {count} examples have none"] if missing else []
        return said + ([f"all examples have {printed(next(iter(asked)))}"] if len(asked) == 1 else [])

    def turn(self) -> Sequence[Any]:
        """The values to ask for one after the other when nothing is said; empty: nothing is asked."""
        return ()

    def read(self, text: str) -> Any:
        """A value, or a list of values, from what a person typed."""
        return None if text.lower() == "none" else text

    @property
    def files(self) -> tuple[str, ...]:
        """The endings of the files whose paths `read` takes; empty where it reads what is typed."""
        return ()

    def words(self, value: Any) -> str:
        """A value in a few words, to stand under a sample."""
        return "" if value is None else str(value)

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the rows of its embedder's `table`, where it has one, but for that of nothing asked."""
        return ()

    @property
    def span(self) -> tuple[float, float] | None:
        """The smallest and largest value seen in training, of numbers."""
        return None

    def agreement(self, name: str) -> list[Measure]:
        """Measures of pairs (asked, found): how far samples are what was asked of the condition called `name`."""
        return []

    @abstractmethod
    def describe(self) -> str:
        """What may be asked, in one line."""


def unmasked(batch: Batched, gone: Tensor) -> dict[str, Tensor]:
    """The batch without the tokens of the samples that are `gone` (bool [B])."""
    assert isinstance(batch, dict)
    return {**batch, "mask": batch["mask"] & ~gone[:, None]}


def printed(text: str, most: int = 40) -> str:
    """A text in one line, without what a terminal would obey, cut where it is long."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 3] + "..."


def distinct(owner: Any, name: str) -> None:
    """Refuses a field of names of which one comes twice: its second number would never be asked for.

    Raises:
        RecipeError: With that name.
    """
    twice = next((word for word, count in Counter(getattr(owner, name)).items() if count > 1), None)
    if twice is not None:
        refuse(owner, name, f"each name once: {twice!r} comes more often")


@contextlib.contextmanager
def told_of(name: str, condition: Condition) -> Iterator[None]:
    """What is raised inside, of any kind, becomes an error that names the condition and what it takes.

    Raises:
        GendiffError: The condition's own, with its name before it; RequestError for what it did not foresee.
    """
    try:
        yield
    except GendiffError as error:
        raise type(error)(f"{name}: {error.got}", error.expected, error.fix.replace("NAME", name)) from None
    except Exception as error:
        raise RequestError(f"{name}: {type(error).__name__}: {error}", condition.describe()) from error


def batch_of(
    name: str, condition: Condition, value: Any, n: int, sites: tuple[int, ...] = (), lengths: Sequence[int] = ()
) -> Batched:
    """What is asked of n samples by one condition: one value for all, or a list of n.

    Args:
        name: The condition's, for errors.
        condition: Whose value it is.
        value: One, or a list with one for each sample.
        n: Of samples.
        sites: Of a padded state, for conditions of sites.
        lengths: The first of them of each sample, where states differ in length.

    Raises:
        RequestError: For another number of values, or one that is none of the condition's.
    """
    values = [value] * n if condition.single(value) else list(value)
    if len(values) != n:
        raise RequestError(
            f"{name} has {len(values)} values for {n} samples", f"one value, or {n}", f"{name}={values[:1]!r}"
        )
    own = {i: (length, *sites[1:]) for i, length in enumerate(lengths)}
    encoded: dict[int, Encoded] = {}
    for i, each in enumerate(values):
        with told_of(name, condition):
            if id(each) not in encoded:
                encoded[id(each)] = condition.encode(each)
            if own.get(i, sites) and each is not None:
                condition.fits(encoded[id(each)], own.get(i, sites))
    return condition.collate([encoded[id(each)] for each in values], sites)


def without(
    conditions: Mapping[str, Condition], cond: Mapping[str, Any], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """What is asked of a batch, with nothing asked by some conditions; all where no names are given.

    `cond` may hold what conditions gave when they were embedded once ("embedded"), which then says nothing too.
    """
    gone = [name for name in conditions if names is None or name in names]
    out = dict(cond)
    for name in gone:
        if (value := cond.get(name)) is not None:
            first = value if isinstance(value, Tensor) else next(iter(value.values()))
            out[name] = conditions[name].drop(value, torch.ones(len(first), dtype=torch.bool, device=first.device))
    if "embedded" in cond:
        out["embedded"] = {
            name: {**both, "asked": both["nothing"]} if name in gone else both
            for name, both in cond["embedded"].items()
        }
    return out
