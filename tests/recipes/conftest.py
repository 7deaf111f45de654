"""What the tests of runs share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from benchmarks.interruptions import install


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The small domains of these tests, installed as a package of a stranger."""
    path = list(sys.path)
    install(tmp_path_factory.mktemp("site"))
    yield
    sys.path[:] = path
