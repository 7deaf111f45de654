"""The workers of a Dask cluster, processes of this machine, prepare and draw what one process does, to the bit."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gendiff
from gendiff.cli import main
from gendiff_recipes.images import digits
from gendiff_recipes.prepared import prepare

pytestmark = pytest.mark.slow
FASHION = Path(__file__).resolve().parents[2] / "weights" / "images_fashion.safetensors"


@pytest.fixture
def client() -> Iterator[Any]:
    """A client of two worker processes."""
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as made:
            yield made


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((store / "shards").iterdir())}


def test_a_cluster_prepares_and_draws_though_a_worker_is_killed(client: Any, tmp_path: Path) -> None:
    recipe = digits().override("limit=400")
    prepare(recipe, tmp_path / "one")
    pids, found = client.run(os.getpid), []
    with client.get_executor() as pool:
        prepare(recipe, tmp_path / "many", executor=pool)
        assert contents(tmp_path / "many") == contents(tmp_path / "one")
        what: dict[str, Any] = {"steps": 4, "seed": 3, "batch": 4}
        whole = gendiff.load(FASHION).sample(48, **what)

        def killed(share: float) -> None:
            if not found:
                os.kill(next(iter(pids.values())), signal.SIGKILL)
            found.append(share)

        drawn = gendiff.draw(FASHION, 48, executor=pool, progress=killed, **what)
        assert all(torch.equal(a, b) for a, b in zip(drawn, whole, strict=True)) and len(found) == 12
        model = gendiff.load(FASHION)
        model.origin = None
        sent = gendiff.draw(model, 48, executor=pool, **what)
        assert all(torch.equal(a, b) for a, b in zip(sent, whole, strict=True))
    address = client.scheduler.address
    call = ["sample", str(FASHION), "-n", "8", "--batch", "4", "--steps", "2", "--threads", "1"]
    assert main([*call, "--out", str(tmp_path / "s")]) == 0
    assert main([*call, "--out", str(tmp_path / "t"), "--cluster", address]) == 0
    assert all((tmp_path / "t" / p.name).read_bytes() == p.read_bytes() for p in (tmp_path / "s").glob("*.png"))
    words = ["prepare", "images.digits", "limit=400", "--out", str(tmp_path / "again"), "--cluster", address]
    assert main([*words, "--quiet"]) == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "one")


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    dask = pytest.importorskip("dask")
    words = ["sample", str(FASHION), "--cluster", "tcp://127.0.0.1:9", "--out", str(tmp_path / "s")]
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        assert main(words) == 2
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
