"""Batches as pure functions of (seed, number): the same after a resume, on any number of devices and of workers.

Every epoch is a permutation drawn from (seed, epoch). Examples whose states could not be stacked, since their shapes
differ, are batched apart from each other. Ragged examples are sorted by length inside windows of 16 batches, and those
batches shuffled, so that little is padding. Examples are encoded once and kept in memory while they fit into an eighth
of a gibibyte; of a larger set each is encoded when its batch comes, or read from a store (see `prepared`).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gendiff.conditions import told_of
from gendiff.domain import Domain, Example, Examples, collate, finite, length_of
from gendiff.errors import DataError, GendiffError, nearest
from gendiff.executors import leave_signals
from gendiff.spaces import State, leaves, tensors

WINDOW = 16
MOST = 2**28
"""Bytes of encoded states that are kept in memory."""
RETURNED = [0.0]  # when memory was last given back


def same_data(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of the same examples, but for rounding."""
    if a["bits"] == b["bits"] and a["labels"] == b["labels"]:
        return True
    alike = np.allclose(a["moments"], b["moments"], rtol=1e-5, atol=1e-7)
    return alike and a["examples"] == b["examples"] and a["labels"] == b["labels"]


@dataclass(frozen=True)
class Fact:
    """What tells an example from others: a digest of the bits of its state, the sums over its parts of their mean and
    mean square, what is said of it, the shapes of its state, its weight, and its elements, of a ragged state.
    """

    bits: str
    moments: tuple[float, float]
    said: str
    shapes: tuple[tuple[int, ...], ...]
    weight: float
    length: int | None


@contextmanager
def one_thread() -> Iterator[None]:
    """Encodes in one thread, so that sums are formed in one order whatever the number of threads and processes is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def encoded(domain: Domain, example: Example) -> tuple[State, dict[str, Any], Fact]:
    """The state of an example, what is asked of it, and what there is to know of both.

    Raises:
        DataError: For one that is not finite, and values or weights that cannot be.
    """
    state = finite(domain.encode(example.artifact), example.name)
    shapes = tuple(tuple(x.shape) for x in tensors(state))
    length = length_of(state, domain.process.space) if domain.ragged else None
    asked = encode_conditions(domain, example, () if length is None else (length,))
    bits, mean, square = hashlib.sha256(), 0.0, 0.0
    for x in tensors(state):
        bits.update(x.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        wide, count = x.double(), max(x.numel(), 1)
        mean, square = mean + float(wide.sum()) / count, square + float(wide.square().sum()) / count
    said = repr(sorted((k, spelled(v, asked.get(k))) for k, v in example.cond.items()))
    return_memory(every=1.0)
    return state, asked, Fact(bits.hexdigest(), (mean, square), said, shapes, checked_weight(example), length)


class Data(Dataset[tuple[State, dict[str, Any]]]):
    """What a training reads: by index a state, and what is asked of it, as its conditions encode that.

    `Encoded` encodes examples in this process, `Prepared` reads what was encoded before, from a folder or a URL;
    whoever streams from elsewhere gives the same attributes.

    Attributes:
        lengths: The elements of each, of ragged states; else None.
        groups: A number for each, the same for states that can be stacked; None where all can.
        weights: The weight of each over their mean, float32; None where all are alike.
        fingerprint: What tells these examples from others: their number, a digest of every bit of them, and 32 moments,
            by which the same data are known again on a machine that encodes them with other rounding.
    """

    lengths: list[int] | None
    groups: list[int] | None
    weights: Tensor | None
    fingerprint: dict[str, Any]

    def describe(self, facts: Sequence[Fact]) -> None:
        """Takes the attributes from what is known of each example."""
        lengths = [fact.length for fact in facts if fact.length is not None]
        self.lengths = lengths or None
        kinds: dict[Any, int] = {}
        alike = [tuple(shape[1:] for shape in fact.shapes) if lengths else fact.shapes for fact in facts]
        groups = [kinds.setdefault(kind, len(kinds)) for kind in alike]
        self.groups = groups if len(kinds) > 1 else None
        relative = torch.tensor([fact.weight for fact in facts], dtype=torch.float64)
        self.weights = None if bool((relative == relative[0]).all()) else (relative / relative.mean()).float()
        bits, labels, moments = hashlib.sha256(), hashlib.sha256(), np.zeros((16, 2))
        for i, fact in enumerate(facts):
            bits.update(fact.bits.encode())
            own = "" if self.weights is None else f", {float(self.weights[i])!r}"
            labels.update(f"({fact.said}, {list(fact.shapes)!r}{own})".encode())
            moments[i % 16] += fact.moments
        self.fingerprint = {
            "examples": len(facts), "bits": bits.hexdigest(), "labels": labels.hexdigest(), "moments": moments.tolist(),
        }  # fmt: skip

    def __len__(self) -> int:
        return self.fingerprint["examples"]

    def batches(self, stream: BatchStream) -> Sampler[list[tuple[int, int, int]]]:
        """The same stream of batches, for whoever has to make ready what they need."""
        return stream


class Encoded(Data):
    """Examples as states with their conditions, each encoded once where there is room, else whenever it is asked for.

    Args:
        domain: Encodes.
        examples: To learn from; where they are made when asked for, nothing else is held of them.
        most: Bytes of states that are kept.

    Attributes:
        about: Says so where they are not kept.

    Raises:
        DataError: For no examples, one that is not finite, and values or weights that cannot be.
    """

    def __init__(self, domain: Domain, examples: Examples, most: int = MOST) -> None:
        if not len(examples):
            raise DataError(f"The training set is empty ({examples.report()})", "at least one example")
        self.domain, self.examples = domain, examples
        self.states: list[State] | None = []
        self.asked: list[dict[str, Any]] = []
        self.about: list[str] = []
        facts, held = [], 0
        with one_thread():
            for i, example in enumerate(examples, 1):
                state, asked, fact = encoded(domain, example)
                self.asked.append(asked)
                facts.append(fact)
                held += sum(x.nbytes for x in tensors(state))
                if self.states is not None:
                    self.states.append(state)
                if held > most or (i == 32 and held / 32 * len(examples) > 2 * most):  # as it is going to be
                    self.states = None
        self.describe(facts)
        facts.clear()
        if self.states is None:
            self.about.append(
                f"The states of {len(examples)} examples are more than the {most / 1e6:.0f} MB that are kept in "
                "memory: each is encoded whenever it is asked for; `gendiff prepare` encodes them once."
            )
        return_memory()

    def __getitem__(self, index: int) -> tuple[State, dict[str, Any]]:
        if self.states is not None:
            return self.states[index], self.asked[index]
        with one_thread():
            return self.domain.encode(self.examples[index].artifact), self.asked[index]


def return_memory(every: float = 0.0) -> None:
    """Gives what was freed back to the system where the C library can (glibc): what was encoded and let go leaves holes
    between what is kept. At most once in so many seconds.
    """
    if time.monotonic() < RETURNED[0] + every:
        return
    RETURNED[0] = time.monotonic()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def spelled(value: Any, encoded: Any) -> Any:
    """A value as its text tells it from others: of numbers for each site, which print in part, the digest of all; of
    what has no text of its own (a recording), that of what its condition made of it.
    """
    if isinstance(value, Tensor | np.ndarray):
        whole = np.ascontiguousarray(value.detach().cpu().float() if isinstance(value, Tensor) else value)
        return str(whole.dtype), whole.shape, hashlib.sha256(whole.tobytes()).hexdigest()
    return value if is_plain(value) else [spelled(part, None) for part in leaves(encoded)]


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, or a list or table of them."""
    if isinstance(value, Mapping | list | tuple):
        return all(map(is_plain, value.values() if isinstance(value, Mapping) else value))
    return value is None or isinstance(value, str | int | float | np.generic)


def checked_weight(example: Example) -> float:
    """The weight of an example, a positive number, or DataError."""
    if not (0 < example.weight < float("inf")):
        raise DataError(f"The example {example.name!r} has the weight {example.weight!r}", "a positive number")
    return example.weight


def encode_conditions(domain: Domain, example: Example, sites: tuple[int, ...] = ()) -> dict[str, Any]:
    """What the conditions of a domain make of what an example says.

    Args:
        domain: Whose conditions.
        example: That says something.
        sites: Of its state, where lengths differ: those that what is said must have.

    Raises:
        DataError: For a value that is none of its condition's, or a condition that there is not, naming the example.
    """
    encoded, own = {}, domain.conditions
    for name in example.cond:
        if name not in own:
            raise DataError(
                f"The example {example.name!r} says {name}={example.cond[name]!r:.60}, and {type(domain).__name__} "
                "asks for none",
                f"some of {', '.join(own) or 'no conditions'}.{nearest(name, own)}",
                f"asked={{{name!r}: ...}} of the domain makes it a condition",
            )
    try:
        for name, condition in own.items():
            value = example.cond.get(name)
            with told_of(name, condition):
                encoded[name] = condition.encode_example(value)
                if sites and value is not None:
                    condition.fits(encoded[name], sites)
    except GendiffError as error:
        raise DataError(f"The example {example.name!r}: {error.got}", error.expected, error.fix) from error
    return encoded


class BatchStream(Sampler[list[tuple[int, int, int]]]):
    """An endless stream of batches from batch number `start`: lists of (example, place in the batch, batch number).

    Args:
        n: Number of examples.
        batch: Examples a batch, over all devices.
        seed: Of the order.
        start: The first batch's number.
        stop: The number after the last batch's.
        lengths: Of ragged examples.
        groups: A number for each example: those of one number are batched together, and apart from others.
        rank, world: This device's share: every world-th place.
        parts: This device's share in so many lists, one after the other.
    """

    def __init__(
        self, n: int, batch: int, *, seed: int = 0, start: int = 0, stop: int = 1 << 40,
        lengths: Sequence[int] | None = None, groups: Sequence[int] | None = None, rank: int = 0, world: int = 1,
        parts: int = 1,
    ) -> None:  # fmt: skip
        self.n, self.batch, self.seed, self.start, self.stop = n, batch, seed, start, stop
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.rank, self.world, self.parts = rank, world, parts
        kinds = np.zeros(n, int) if groups is None else np.asarray(groups)
        self.groups = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]

    def __len__(self) -> int:
        return (self.stop - self.start) * self.parts

    def epoch(self, number: int) -> list[np.ndarray]:
        """The batches of one epoch; examples of a group smaller than a batch are repeated to fill it."""
        rng = np.random.default_rng((self.seed, number))
        batches: list[np.ndarray] = []
        for group in self.groups:
            order = rng.permutation(group)
            while len(order) < self.batch:
                order = np.concatenate([order, rng.permutation(group)])
            count = len(order) // self.batch
            for i in range(0, count, WINDOW):
                window = order[i * self.batch : min(i + WINDOW, count) * self.batch]
                if self.lengths is not None:
                    window = window[np.argsort(self.lengths[window], kind="stable")]
                batches += np.split(window, len(window) // self.batch)
        if self.lengths is None and len(self.groups) == 1:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        per_epoch = sum(max(len(group), self.batch) // self.batch for group in self.groups)
        number = self.start
        while number < self.stop:
            for batch in self.epoch(number // per_epoch)[number % per_epoch :]:
                if number >= self.stop:
                    return
                for first in range(self.rank, self.world * self.parts, self.world):
                    places = range(first, self.batch, self.world * self.parts)
                    yield [(int(batch[place]), place, number) for place in places]
                number += 1


class Places(Dataset[tuple[Any, ...]]):
    """Examples addressed by (example, place, batch number), so that a batch knows its own number."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Any, ...]:
        example, place, number = key
        return (*self.data[example], example, place, number)


class Batches(L.LightningDataModule):
    """The data module of every domain.

    Args:
        domain: Encodes artifacts.
        data: The training split, encoded.
        batch: Examples a step, over all devices.
        start, stop: The first batch's number, and the number after the last one's.
        seed: Of the order.
        parts: A device's share of a batch comes in so many parts.
        workers: Processes that put batches together; what is in them does not depend on how many.
        multiple: Ragged batches are padded to a multiple of this length too, beside the domain's.
    """

    def __init__(
        self, domain: Domain, data: Data, *, batch: int, start: int = 0, stop: int, seed: int = 0, parts: int = 1,
        workers: int = 0, multiple: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.multiple = math.lcm(multiple, domain.multiple)
        self.domain, self.data, self.batch, self.start, self.stop = domain, data, batch, start, stop
        self.order_seed, self.parts, self.workers = seed, parts, workers

    def collate(self, items: list[tuple[Any, ...]]) -> dict[str, Any]:
        """States, conditions, places and number of one batch."""
        states, conds, indices, places, numbers = zip(*items, strict=True)
        length, space = None, self.domain.process.space
        if self.domain.ragged:
            longest = max(length_of(x, space) for x in states)
            length = -(-longest // self.multiple) * self.multiple
        x0, mask = collate(states, self.domain.ragged, length, space)
        sites = () if mask is None else (mask.shape[1],)  # else what is said has the states'
        own = self.domain.conditions
        cond: dict[str, Any] = {name: own[name].collate([c[name] for c in conds], sites) for name in own}
        weights = self.data.weights
        return {
            **({} if weights is None else {"weight": weights[list(indices)]}),
            "x0": x0,
            "cond": cond if mask is None else {**cond, "mask": mask},
            "place": torch.tensor(places),
            "number": numbers[0],
        }

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        stream = BatchStream(
            len(self.data), self.batch, seed=self.order_seed, start=self.start, stop=self.stop,
            lengths=self.data.lengths, groups=self.data.groups, rank=rank, world=world, parts=self.parts,
        )  # fmt: skip
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            Places(self.data), batch_sampler=self.data.batches(stream), collate_fn=self.collate, pin_memory=on_gpu,
            num_workers=self.workers, worker_init_fn=quiet_worker if self.workers else None,
        )  # fmt: skip


def quiet_worker(number: int) -> None:
    """A worker leaves the signals that end a run to the trainer, which ends its workers."""
    leave_signals()
