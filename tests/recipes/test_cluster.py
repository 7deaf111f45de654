"""The workers of a Dask cluster, processes of this machine, prepare and draw what one process does, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import gendiff
from gendiff import executors
from gendiff.cli import main
from gendiff.errors import WorkerError
from gendiff.executors import results
from gendiff_recipes.images import digits
from gendiff_recipes.prepared import prepare

pytestmark = pytest.mark.slow
FASHION = Path(__file__).resolve().parents[2] / "weights" / "images_fashion.safetensors"


@contextmanager
def local_cluster(config: dict[str, Any]) -> Iterator[Any]:
    """A client of two worker processes of this machine."""
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    dask = pytest.importorskip("dask")
    with warnings.catch_warnings(), dask.config.set(config):
        warnings.simplefilter("ignore")
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as made:
            yield made


@pytest.fixture
def client() -> Iterator[Any]:
    with local_cluster({"distributed.deploy.lost-worker-timeout": "5 minutes"}) as made:
        yield made


def ended(seconds: float, work: Callable[[], Any]) -> Any:
    """What some work gives or raises; work that hangs fails the test."""
    found: Future[Any] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised by who waits
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    assert wait([found], timeout=seconds).done, f"the work did not end in {seconds} s"
    return found.result()


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


WHEN = {"before it has read its model": 0.0, "while it reads or draws": 1.0, "in the middle": None}


@pytest.mark.parametrize("when", WHEN)
def test_the_same_bits_whenever_a_worker_is_killed(client: Any, when: str) -> None:
    """By its process number, at a moment or at a third of the samples; its nanny begins another."""
    what: dict[str, Any] = {"steps": 2, "seed": 1, "batch": 4}
    pids, delay = list(client.run(os.getpid).values()), WHEN[when]
    whole = gendiff.load(FASHION).sample(24, **what)

    def kill(share: float = 1.0) -> None:
        if share > 1 / 3 and len(pids) == 2:
            os.kill(pids.pop(), signal.SIGKILL)

    if delay is not None:
        threading.Timer(delay, kill).start()
    with client.get_executor() as pool:
        drawn = ended(240, lambda: gendiff.draw(FASHION, 24, executor=pool, progress=kill, **what))
    assert all(torch.equal(a, b) for a, b in zip(drawn, whole, strict=True)) and len(pids) == 1


def test_a_cluster_whose_workers_are_given_up_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask closes the nanny of a worker that is not back in 15 s, for good; the work had waited for ever."""
    monkeypatch.setattr(executors, "LOOK", 0.5)
    monkeypatch.setattr(executors, "PATIENCE", 5.0)

    def work(job: int) -> int:
        if job == 3:
            time.sleep(600)
        return job

    with local_cluster({"distributed.deploy.lost-worker-timeout": "0.2s"}) as client, client.get_executor() as pool:
        pids, got = list(client.run(os.getpid).values()), []

        def take() -> None:
            for _, found in results(work, range(6), pool):
                got.append(found)
                while pids and len(got) == 5:
                    os.kill(pids.pop(), signal.SIGKILL)

        with pytest.raises(WorkerError, match=r"No worker of the cluster was left for \d+ s \(it has none\)"):
            ended(120, take)
    assert sorted(got) == [0, 1, 2, 4, 5]


def test_a_job_that_dask_gives_up_is_tried_anew(tmp_path: Path) -> None:
    """Equal jobs had one key, whose failure Dask keeps: three further tries were none."""
    flag = tmp_path / "died"

    def work(job: str) -> str:
        if not Path(job).exists():
            Path(job).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    with local_cluster({"distributed.scheduler.allowed-failures": 0}) as client, client.get_executor() as pool:
        assert ended(240, lambda: list(results(work, [str(flag)], pool))) == [(str(flag), "done")]


@pytest.mark.filterwarnings("ignore:No worker of the cluster answers")
def test_a_scheduler_that_is_killed_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    dask = pytest.importorskip("dask")
    monkeypatch.setattr(executors, "LOOK", 0.5)
    monkeypatch.setattr(executors, "PATIENCE", 5.0)
    file = tmp_path / "scheduler.json"
    begin = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file), "--no-dashboard"]
    begin += ["--port", "0", "--host", "127.0.0.1"]
    work_at = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-nanny"]
    own = [subprocess.Popen(words, stderr=subprocess.DEVNULL) for words in (begin, [*work_at, "--no-dashboard"])]
    try:
        with dask.config.set({"distributed.comm.timeouts.connect": "60s"}):
            client = distributed.Client(scheduler_file=str(file))
        client.wait_for_workers(1, timeout=120)
        pool = client.get_executor()

        def take() -> None:
            for job, _ in results(time.sleep, [0.0, 600.0], pool):
                assert job == 0.0
                own[0].kill()

        with dask.config.set({"distributed.comm.timeouts.connect": "2s"}), pytest.raises(WorkerError) as caught:
            ended(120, take)
        assert "No worker of the cluster was left" in str(caught.value) or "CancelledError" in str(caught.value)
        client.close(timeout=2)
    finally:
        for one in own:
            one.kill()
            one.wait()
