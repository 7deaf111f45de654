"""Batches are functions of (seed, number): no state to lose, none to share."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from gendiff_recipes.data import BatchStream


def take(stream: BatchStream, n: int) -> list[list[tuple[int, int, int]]]:
    return list(islice(iter(stream), n))


@pytest.mark.parametrize("lengths", [None, list(np.random.default_rng(0).integers(10, 90, 103))])
def test_a_stream_can_start_anywhere(lengths: list[int] | None) -> None:
    whole = take(BatchStream(103, 8, seed=3, lengths=lengths), 40)
    assert take(BatchStream(103, 8, seed=3, start=17, lengths=lengths), 23) == whole[17:]
    assert take(BatchStream(103, 8, seed=4, lengths=lengths), 40) != whole


def test_an_epoch_shows_every_example_once_at_most() -> None:
    batches = take(BatchStream(103, 8), 12)
    seen = [example for batch in batches for example, _, _ in batch]
    assert len(set(seen)) == len(seen) == 96


def test_devices_share_a_batch() -> None:
    whole = take(BatchStream(50, 8, seed=1), 20)
    parts = [take(BatchStream(50, 8, seed=1, rank=rank, world=4), 20) for rank in range(4)]
    for number, batch in enumerate(whole):
        assert sorted(item for part in parts for item in part[number]) == sorted(batch)


def test_batches_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(40, 97, 2000)
    padded = [
        max(lengths[e] for e, _, _ in b) * len(b) for b in take(BatchStream(2000, 16, lengths=lengths.tolist()), 125)
    ]
    plain = [max(lengths[e] for e, _, _ in b) * len(b) for b in take(BatchStream(2000, 16), 125)]
    assert sum(padded) < 1.03 * lengths.sum() < 1.3 * lengths.sum() < sum(plain)


def test_a_set_smaller_than_a_batch_is_repeated() -> None:
    for batch in take(BatchStream(3, 8), 5):
        assert len(batch) == 8
        assert {example for example, _, _ in batch} == {0, 1, 2}


def test_a_stream_ends() -> None:
    assert len(list(BatchStream(100, 10, start=3, stop=25))) == len(BatchStream(100, 10, start=3, stop=25)) == 22
