"""A hundred damaged files of each format are read or refused, nothing else; benchmarks/fuzz_readers.py tries more."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[2] / "benchmarks" / "fuzz_readers.py"
spec = importlib.util.spec_from_file_location("fuzz_readers", PLACE)
assert spec is not None and spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
sys.modules["fuzz_readers"] = fuzz
spec.loader.exec_module(fuzz)


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_damaged_files_are_read_or_refused(name, tmp_path):
    good = fuzz.FORMATS[name].good()
    for i, data in enumerate(good):
        (tmp_path / str(i)).mkdir()
        assert fuzz.FORMATS[name].read(data, tmp_path / str(i)) == "read"
    count = 40 if name in ("tar", "csv") else 100
    before = fuzz.peak()
    outcomes = Counter(fuzz.attempt(name, data) for data in fuzz.damaged(name, count, seed=0))
    assert set(outcomes) <= {"read", "refused"}, outcomes
    assert outcomes["refused"] > count / 10
    assert fuzz.peak() - before < 2**29
