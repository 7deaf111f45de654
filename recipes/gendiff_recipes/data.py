"""Batches as pure functions of (seed, number): the same after a resume and on any number of devices.

Every epoch is a permutation drawn from (seed, epoch). Ragged examples are sorted by length inside windows of 16
batches, and those batches shuffled, so that little is padding. Examples are encoded once and kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gendiff.domain import Domain, Examples, collate, finite
from gendiff.errors import DataError
from gendiff.spaces import State, tensors

WINDOW = 16


class Encoded(Dataset[tuple[State, dict[str, float]]]):
    """Examples as states, encoded once."""

    def __init__(self, domain: Domain, examples: Examples) -> None:
        if not len(examples):
            raise DataError(f"The training set is empty ({examples.report()})", "at least one example")
        self.states = [finite(domain.encode(e.artifact), e.name) for e in examples]
        self.cond = [dict(e.cond) for e in examples]
        self.lengths = [tensors(x)[0].shape[0] for x in self.states] if domain.ragged else None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int) -> tuple[State, dict[str, float]]:
        return self.states[index], self.cond[index]


class BatchStream(Sampler[list[tuple[int, int, int]]]):
    """An endless stream of batches from batch number `start`: lists of (example, place in the batch, batch number).

    Args:
        n: Number of examples.
        batch: Examples a batch, over all devices.
        seed: Of the order.
        start: The first batch's number.
        stop: The number after the last batch's.
        lengths: Of ragged examples.
        rank, world: This device's share: every world-th place.
    """

    def __init__(
        self, n: int, batch: int, *, seed: int = 0, start: int = 0, stop: int = 1 << 40,
        lengths: Sequence[int] | None = None, rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        self.n, self.batch, self.seed, self.start, self.stop = n, batch, seed, start, stop
        self.lengths, self.rank, self.world = lengths, rank, world

    def __len__(self) -> int:
        return self.stop - self.start

    def epoch(self, number: int) -> list[np.ndarray]:
        """The batches of one epoch; a set smaller than a batch is repeated to fill it."""
        rng = np.random.default_rng((self.seed, number))
        order = rng.permutation(self.n)
        while len(order) < self.batch:
            order = np.concatenate([order, rng.permutation(self.n)])
        count = len(order) // self.batch
        if self.lengths is None:
            return [order[i * self.batch : (i + 1) * self.batch] for i in range(count)]
        lengths = np.asarray(self.lengths)
        batches: list[np.ndarray] = []
        for i in range(0, count, WINDOW):
            window = order[i * self.batch : min(i + WINDOW, count) * self.batch]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += np.split(window, len(window) // self.batch)
        return [batches[i] for i in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        per_epoch = max(max(self.n, self.batch) // self.batch, 1)
        number = self.start
        while number < self.stop:
            for batch in self.epoch(number // per_epoch)[number % per_epoch :]:
                if number >= self.stop:
                    return
                yield [(int(batch[place]), place, number) for place in range(self.rank, self.batch, self.world)]
                number += 1


class Places(Dataset[tuple[Any, ...]]):
    """Examples addressed by (example, place, batch number), so that a batch knows its own number."""

    def __init__(self, data: Encoded) -> None:
        self.data = data

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Any, ...]:
        example, place, number = key
        return (*self.data[example], place, number)


class Batches(L.LightningDataModule):
    """The data module of every domain.

    Args:
        domain: Encodes artifacts.
        examples: The training split.
        batch: Examples a step, over all devices.
        steps: Batches in the run.
        seed: Of the order.
    """

    def __init__(self, domain: Domain, examples: Examples, *, batch: int, steps: int, seed: int = 0) -> None:
        super().__init__()
        self.domain, self.batch, self.steps, self.order_seed = domain, batch, steps, seed
        self.data = Encoded(domain, examples)

    def collate(self, items: list[tuple[Any, ...]]) -> dict[str, Any]:
        """States, conditions (labels as int64), places and number of one batch."""
        states, conds, places, numbers = zip(*items, strict=True)
        length = None
        if self.domain.ragged:
            longest = max(tensors(x)[0].shape[0] for x in states)
            length = -(-longest // self.domain.multiple) * self.domain.multiple
        x0, mask = collate(states, self.domain.ragged, length)
        cond: dict[str, Tensor] = {name: torch.tensor([c[name] for c in conds]) for name in conds[0]}
        return {
            "x0": x0,
            "cond": cond if mask is None else {**cond, "mask": mask},
            "place": torch.tensor(places),
            "number": numbers[0],
        }

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        rank, world, start = (trainer.global_rank, trainer.world_size, trainer.global_step) if trainer else (0, 1, 0)
        stream = BatchStream(
            len(self.data), self.batch, seed=self.order_seed, start=start, stop=self.steps,
            lengths=self.data.lengths, rank=rank, world=world,
        )  # fmt: skip
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return DataLoader(Places(self.data), batch_sampler=stream, collate_fn=self.collate, pin_memory=on_gpu)
