"""What every domain leans on: batches, files that are missing, values that are not finite, errors in full sentences."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gendiff import Example, Examples, Rejected
from gendiff.conditions import Label
from gendiff.domain import Domain, collate, crop, data_file, finite
from gendiff.errors import DataError, RequestError, UnknownName, nearest


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"'7.png' holds 2 values"):
        finite({"a": torch.tensor([1.0, float("nan"), float("inf")])}, "7.png")
    x = torch.zeros(3)
    assert finite(x, "") is x and finite(torch.zeros(2, dtype=torch.int64), "") is not None


def test_batches_are_padded_and_cropped_back() -> None:
    states = [{"a": torch.randn(n, 2), "b": torch.randn(n)} for n in (3, 1, 4)]
    batch, mask = collate(states, ragged=True, length=6)
    assert mask is not None and mask.sum(1).tolist() == [3, 1, 4] and batch["a"].shape == (3, 6, 2)
    assert bool((batch["a"][~mask] == 0).all())
    for state, back in zip(states, crop(batch, mask), strict=True):
        assert torch.equal(state["a"], back["a"]) and torch.equal(state["b"], back["b"])


def test_nothing_is_skipped_silently() -> None:
    rejected = [Rejected("a.wav", "too short"), Rejected("b.wav", "too short"), Rejected("c.wav", "silent")]
    examples = Examples([Example(1), Example(2)], rejected)
    assert examples[:1].rejected == tuple(rejected) and examples.artifacts == [1, 2]
    report = examples.report()
    assert "2 read, 3 rejected" in report and "2 x too short: a.wav, b.wav" in report and "c.wav" in report


def test_a_report_obeys_no_file_name_and_counts_the_other_files():
    """Names of files are a stranger's text: an escape code in one does not reach the terminal."""
    rejected = [Rejected("\x1b[2J\x1b]0;owned\x07.wav", "silent\u202e"), Rejected("a\nb.wav", "silent\u202e")]
    examples = Examples([], rejected, others=["a.txt", "b.TXT", "notes"])
    report = examples.report()
    assert not set(report) & set("\x1b\x07\u202e")
    assert report.split("\n")[1] == r"  2 x silent\u202e: \x1b[2J\x1b]0;owned\x07.wav, a\nb.wav"
    assert report.split("\n")[2] == "  3 other files: 2 x .txt, 1 x without a suffix"
    assert examples[:0].others == examples.others
    assert str(DataError("\x1b[31m.wav is\nempty")) == "\\x1b[31m.wav is\nempty."


def test_missing_data_say_where_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images/x.npz.*does not exist.*GENDIFF_DATA"):
        data_file("images/x.npz", tmp_path, "from nowhere")


def test_errors_are_complete_sentences_and_survive_a_process_border() -> None:
    for error in (RequestError("a", "b", "c"), UnknownName("domain", "imges", ["images"]), DataError("x")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert str(again) == str(error) and type(again) is type(error)
    assert str(RequestError("got", "wanted", "do")) == "got; expected wanted. do."
    assert nearest("step", ["steps", "times"]) == ' Did you mean "steps"?' and nearest("qqq", ["steps"]) == ""


@pytest.mark.parametrize("sizes", [(10,), (10, 6), (4, 4), (2, 3, 4), (6, 4, 9)])
def test_all_combinations_of_classes_come_in_turn(sizes: tuple[int, ...]) -> None:
    """Each once in a round, and few samples too show every class of every label."""
    labels = {f"l{k}": Label(tuple(f"{i}" for i in range(size))) for k, size in enumerate(sizes)}
    domain: Any = SimpleNamespace(conditions=labels)
    total = math.prod(sizes)
    turns = Domain.in_turn(domain, 2 * total)
    combinations = list(zip(*turns.values(), strict=True))
    assert len(set(combinations[:total])) == total and combinations[total:] == combinations[:total]
    for name, size in zip(turns, sizes, strict=True):
        assert len(set(turns[name][:size])) == size
        assert max(Counter(turns[name][: max(sizes)]).values()) <= -(-max(sizes) // size)
    assert Domain.in_turn(domain, 3, ("l0",)).keys() == {f"l{k}" for k in range(1, len(sizes))}
