"""What every test may count on: one thread, fixed seeds, repeatable hypotheses, and the data if there are any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
BESIDE = (
    ROOT.parent / "shared" / "data"
)  # where a developer's checkout has the data, unless GENDIFF_DATA says otherwise

torch.set_num_threads(1)
# Autograd begins here, without threads. In a test of fake devices it would begin with a thread for each of them, after
# which a process cannot fork and differentiate.
torch.ones(1, requires_grad=True).sum().backward()
if not os.environ.get("GENDIFF_DATA") and BESIDE.is_dir():
    os.environ["GENDIFF_DATA"] = str(BESIDE)

hypothesis.settings.register_profile("gendiff", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("gendiff")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: make test-slow runs it"))


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """A test draws the same numbers whatever ran before it, and leaves the default dtype as it was."""
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real data; the test is skipped where there is none."""
    path = Path(os.environ.get("GENDIFF_DATA") or BESIDE)
    if not path.is_dir():
        pytest.skip("needs real data: set GENDIFF_DATA to a folder with images/, audio/ and proteins/")
    return path
