"""A run's folder is a transaction: what interrupts, refuses, changes or fills it loses nothing and mixes nothing."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.interruptions import PLACES, Chains, Cut, Pairs, bits, cut_at, cuts, metrics, recipe
from gendiff.conditions import Label
from gendiff.denoisers import X0, Denoiser
from gendiff.domain import Examples
from gendiff.errors import CheckpointError, DataError, RecipeError
from gendiff.model import Model
from gendiff.training import Uniform
from gendiff_recipes import checkpoints
from gendiff_recipes.callbacks import EMAWeights
from gendiff_recipes.checkpoints import listed, newest, read_checkpoint, write_checkpoint
from gendiff_recipes.data import Batches, BatchStream, Encoded
from gendiff_recipes.folder import Folder, Lock, Pace, RunError, Table
from gendiff_recipes.module import Denoising
from gendiff_recipes.recipe import Optimizer, Recipe
from gendiff_recipes.start import begin_from
from gendiff_recipes.training import Interrupted, train

pytestmark = pytest.mark.usefixtures("strangers")


def short(steps: int = 12, domain: Any = None, **trainer: Any) -> Recipe:
    return recipe(domain or Pairs(), **{"steps": steps, "show": 0, "measure": 0, "checkpoint": 3, **trainer})


def interrupted(run: Recipe, out: Path, step: int, place: str = "before") -> None:
    with pytest.raises(Cut), cut_at(step, place):
        train(run, out, quiet=True)


# Whatever interrupts it


@pytest.mark.parametrize(
    ("domain", "workers", "steps"),
    [(Pairs(), 0, [1, 2, 10, 33, 56, 60]), (Chains(), 0, [4, 23, 45]), (Chains(), 2, [30])],
    ids=["flat", "ragged", "workers"],
)
def test_a_run_that_was_cut_ends_in_the_same_bits(
    domain: Pairs, workers: int, steps: list[int], tmp_path: Path
) -> None:
    """60 steps of dropout, dropped labels, learned times, samples and measures; every epoch has 6."""
    found = cuts(recipe(domain, workers=workers), tmp_path, steps)
    assert found == {"cuts": len(steps), "other_weights": [], "other_metrics": []}


@pytest.mark.slow
@pytest.mark.parametrize("domain", [Pairs(), Chains()], ids=["flat", "ragged"])
def test_a_run_that_was_cut_anywhere_ends_in_the_same_bits(domain: Pairs, tmp_path: Path) -> None:
    found = cuts(recipe(domain), tmp_path, range(1, 61), [*PLACES, "writing"])
    assert found == {"cuts": 300, "other_weights": [], "other_metrics": []}


def test_a_run_that_is_cut_again_and_again(tmp_path: Path) -> None:
    run = short(checkpoint=1)
    train(run, tmp_path / "whole", quiet=True)
    for step in range(1, 13):
        with pytest.raises(Cut), cut_at(step, list(PLACES)[step % len(PLACES)]):
            train(run, tmp_path / "cut", quiet=True, resume=step > 1)
    train(run, tmp_path / "cut", quiet=True, resume=True)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_the_cut_would_show_if_anything_were_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above is not blind: each thing that a checkpoint holds changes the end when it is lost."""
    run = short(20, checkpoint=9)
    train(run, tmp_path / "whole", quiet=True)
    whole = newest(tmp_path / "whole" / "checkpoints")
    interrupted(run, tmp_path / "cut", 14)
    path = listed(tmp_path / "cut" / "checkpoints")[0]
    state = read_checkpoint(path)
    assert state["step"] == 9 and isinstance(next(whole)[1], dict)
    other = {
        "optimizer": {}, "ema": {**state["ema"], "updates": 0}, "step": 8,
        "times": {**state["times"], "told": state["times"]["told"][:, :0]},
        "network": {k: v + 1e-3 for k, v in state["network"].items()},
    }  # fmt: skip
    kept = path.read_bytes()
    for name, lost in other.items():
        write_checkpoint(path, {**state, name: lost})
        train(run, tmp_path / "cut", quiet=True, resume=True)
        assert bits(tmp_path / "cut") != bits(tmp_path / "whole"), name
        for later in listed(tmp_path / "cut" / "checkpoints"):
            later.unlink()
        (tmp_path / "cut" / "training.json").unlink()
        path.write_bytes(kept)
    train(run, tmp_path / "cut", quiet=True, resume=True)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_processes_that_are_killed_lose_nothing(tmp_path: Path, root: Path) -> None:
    """Inside the write of a checkpoint; one of two that train together. In a process of their own, which forks."""
    command = [sys.executable, "-m", "benchmarks.interruptions", "--only", "kills", "devices", "--kills", "4"]
    command += ["--domains", "chains", "--every", "30"]
    paths = os.pathsep.join(str(root / name) for name in ("", "domains", "recipes"))
    subprocess.run(
        [*command, "--out", str(tmp_path / "found.json")],
        cwd=root, env={**os.environ, "PYTHONPATH": paths}, check=True, capture_output=True,
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    for key, count in {"kills: chains, 0 workers": 2, "two processes: chains": 2}.items():
        assert found[key].pop("kills") == count and found[key].pop("parts_left", 0) in range(count + 1)
        assert found[key].pop("runs", 1) == 1
        assert set(found[key].values()) == {0}, (key, found[key])


@pytest.fixture
def signals_as_in_a_terminal() -> Iterator[None]:
    """A process started in the background ignores SIGINT, and one under nohup SIGHUP; runs respect that."""
    own = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in own.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_as_in_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_a_checkpoint_and_the_line_that_resumes(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short(checkpoint=1000)
    train(run, tmp_path / "whole", quiet=True)
    step = Denoising.training_step

    def signalled(self: Denoising, *args: Any) -> Any:
        if self.step == 7:
            os.kill(os.getpid(), number)
        return step(self, *args)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "training_step", signalled)
        with pytest.raises(Interrupted) as caught:
            train(run, tmp_path / "cut", quiet=True)
    assert caught.value.code == 128 + number and caught.value.step == 8
    assert {n: signal.getsignal(n) for n in before} == before
    line = capsys.readouterr().err.strip().splitlines()[-1].split()
    assert line[:2] == ["gendiff", "train"] and line[-1] == "--resume"
    assert listed(tmp_path / "cut" / "checkpoints")[0].name == "step-00000008.ckpt"
    train(run, tmp_path / "cut", quiet=True, resume=True)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


@pytest.mark.usefixtures("signals_as_in_a_terminal")
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Denoising.training_step

    def impatient(self: Denoising, *args: Any) -> Any:
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    monkeypatch.setattr(Denoising, "training_step", impatient)
    with pytest.raises(Interrupted) as caught:
        train(short(), tmp_path, quiet=True)
    assert (caught.value.code, caught.value.step) == (130, 6)


def test_training_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(short(3), tmp_path), kwargs={"quiet": True})
    thread.start()
    thread.join()
    assert (tmp_path / "model.safetensors").exists()


# What a folder refuses


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    train(short(), tmp_path, quiet=True)
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    with pytest.raises(RunError, match=r"holds a run already.*--resume.*--overwrite"):
        train(short(), tmp_path, quiet=True)
    assert {p: p.read_bytes() for p in kept} == kept
    (tmp_path / "notes.txt").write_text("mine")
    train(short(6), tmp_path, quiet=True, overwrite=True)
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 6
    assert [p.name for p in listed(tmp_path / "checkpoints")] == ["step-00000006.ckpt", "step-00000003.ckpt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(RecipeError, match="resume=True"):
        train(short(), tmp_path, quiet=True, overwrite=True, resume=True)


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    with Folder(tmp_path):
        every: list[dict[str, Any]] = [{}, {"resume": True}, {"overwrite": True}]
        for options in every:
            with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
                train(short(), tmp_path, quiet=True, **options)
        pid = os.fork()  # a worker that loads data
        if not pid:
            os._exit(len(Lock.held))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with pytest.raises(RunError, match="in use"), Folder(tmp_path):
            pass
    train(short(3), tmp_path, quiet=True)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        train(short(), tmp_path, quiet=True, resume=True)


def test_a_run_that_is_over_is_given_back_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = train(short(), tmp_path, quiet=True)
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    again = train(short(), tmp_path, quiet=True, resume=True)
    assert "used up" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in kept} == kept
    for a, b in zip(model.denoiser.parameters(), again.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    before = bits(tmp_path)
    (tmp_path / "training.json").unlink()  # killed between the last checkpoint and the model's file
    (tmp_path / "model.safetensors").unlink()
    train(short(), tmp_path, quiet=True, resume=True)
    assert bits(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimizer": Optimizer(lr=2e-2, warmup=5)}, r"optimizer\.lr \(0\.01, now 0\.02\)"),
        ({"optimizer": Optimizer(lr=1e-2, warmup=5, betas=(0.8, 0.99))}, r"optimizer\.betas \(\[0\.9, 0\.99\], now"),
        ({"ema": 0.8}, r"ema \(0\.9, now 0\.8\)"),
        ({"drop": 0.0}, "drop"),
        ({"limit": 20}, r"limit \(None, now 20\).*set of examples \(50, now 20\)"),
        ({"network": {"width": 8}}, r"network\.width"),
        ({"times": Uniform()}, r"times\.kind \('ImportanceTimes', now 'Uniform'\)"),
        ({"domain": Pairs(shift=0.5)}, r"domain\.shift.*set of examples \(50, now others\)"),
        ({"domain": Chains()}, r"domain\.name \('pairs', now 'chains'\)"),
        ({"trainer": {"seed": 1}}, r"trainer\.seed \(0, now 1\)"),
        ({"trainer": {"batch": 10}}, r"trainer\.batch \(8, now 10\)"),
        ({"trainer": {"precision": "float64"}}, "precision"),
        ({"trainer": {"steps": 3}}, "less than the 4 steps"),
    ],
)
def test_another_recipe_is_refused_by_name(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    interrupted(short(checkpoint=4), tmp_path, 6)
    kept = (tmp_path / "recipe.json").read_bytes()
    run = short(checkpoint=4)
    trainer = dataclasses.replace(run.trainer, **change.pop("trainer", {}))
    with pytest.raises(RecipeError, match=named):
        train(dataclasses.replace(run, trainer=trainer, **change), tmp_path, quiet=True, resume=True)
    assert (tmp_path / "recipe.json").read_bytes() == kept


def test_a_run_written_before_a_field_existed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(short(checkpoint=4), tmp_path / "whole", quiet=True)
    interrupted(short(checkpoint=4), tmp_path / "cut", 6)

    def older(self: Folder) -> dict[str, Any]:
        config = dict(config_of(self))
        del config["adapter"], config["guidance"], config["limit"]
        config["trainer"] = {k: v for k, v in config["trainer"].items() if k not in ("cache_gb", "prepared")}
        return config

    config_of = Folder.config
    monkeypatch.setattr(Folder, "config", older)
    with pytest.raises(RecipeError, match=r"limit \(None, now 20\)"):
        train(dataclasses.replace(short(checkpoint=4), limit=20), tmp_path / "cut", quiet=True, resume=True)
    train(short(checkpoint=4), tmp_path / "cut", quiet=True, resume=True)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_data_that_changed_under_the_same_recipe_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(short(), tmp_path, 8)
    encode = Pairs.encode
    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "encode", lambda self, x: -encode(self, x))
        with pytest.raises(RecipeError, match="set of examples"):
            train(short(), tmp_path, quiet=True, resume=True)
    monkeypatch.setattr(Pairs, "encode", lambda self, x: encode(self, x) * (1 + 1e-7))
    train(short(), tmp_path, quiet=True, resume=True)  # another machine's rounding


# What may change


def test_a_larger_budget_goes_on_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = dataclasses.replace(short(), optimizer=Optimizer(lr=1e-2, warmup=5, decay=0.0))
    longer = dataclasses.replace(flat, trainer=dataclasses.replace(flat.trainer, steps=20))
    train(flat, tmp_path / "a", quiet=True)
    train(longer, tmp_path / "a", quiet=True, resume=True)
    said = capsys.readouterr().err
    assert "trainer.steps was 12 and is 20." in said and "planned anew" in said
    train(longer, tmp_path / "b", quiet=True)
    assert bits(tmp_path / "a") == bits(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "training.json").read_text())["steps"] == 20
    assert Recipe.load(tmp_path / "a" / "recipe.json").trainer.steps == 20


@pytest.mark.parametrize(
    ("change", "exact"),
    [
        ({"workers": 2}, True),
        ({"checkpoint": 5, "show": 6, "logger": ("csv", "tensorboard")}, True),
        ({"checkpoint_activations": True}, True),
        ({"accumulate": 2}, False),
    ],
)
def test_how_it_runs_may_change(
    change: dict[str, Any], exact: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(short(), tmp_path / "whole", quiet=True)
    interrupted(short(), tmp_path / "cut", 8)
    train(short(**change), tmp_path / "cut", quiet=True, resume=True)
    assert ("to rounding" in capsys.readouterr().err) is not exact
    assert (bits(tmp_path / "cut") == bits(tmp_path / "whole")) is exact


@pytest.mark.parametrize("domain", [Pairs(), Chains()], ids=["flat", "ragged"])
def test_a_batch_in_parts_is_the_same_step(domain: Pairs, tmp_path: Path) -> None:
    """Without dropout, which belongs to the part; to rounding."""
    run = dataclasses.replace(short(5, domain), network={"dropout": 0.0})
    a = train(run, tmp_path / "a", quiet=True)
    run = dataclasses.replace(run, trainer=dataclasses.replace(run.trainer, accumulate=4))
    b = train(run, tmp_path / "b", quiet=True)
    for p, q in zip(a.denoiser.parameters(), b.denoiser.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-6, rtol=1e-5)
    rows = [[row["train/loss"] for row in metrics(tmp_path / name)] for name in "ab"]
    assert rows[0] and [float(x) for x in rows[1]] == pytest.approx([float(x) for x in rows[0]], rel=1e-5)


def test_parts_and_devices_deal_out_every_place_once() -> None:
    whole = [item for batch in BatchStream(50, 24, stop=3) for item in batch]
    for world, parts in [(1, 4), (2, 1), (2, 3)]:
        streams = [BatchStream(50, 24, stop=3, rank=r, world=world, parts=parts) for r in range(world)]
        assert all(len(list(s)) == len(s) == 3 * parts for s in streams)
        assert sorted(item for s in streams for batch in s for item in batch) == sorted(whole)


# Time


def test_a_budget_of_time_repeats_what_was_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps cost what a random clock says; the steps that a resume takes again cost what they cost the first time."""
    clock = iter(torch.rand(100_000, generator=torch.Generator().manual_seed(1)).cumsum(0).double().tolist())
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    run = short(1000, minutes=0.3, checkpoint=5)
    interrupted(run, tmp_path / "cut", 18)
    first = array("d", (tmp_path / "cut" / "pace.f64").read_bytes())
    assert len(first) == 17
    train(run, tmp_path / "cut", quiet=True, resume=True)
    times = array("d", (tmp_path / "cut" / "pace.f64").read_bytes())
    assert times[:17] == first and len(times) > 20 and times[-1] >= 18 > times[-2]
    # The same run, uninterrupted: its times are those.
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "recipe.json").write_bytes((tmp_path / "cut" / "recipe.json").read_bytes())
    (tmp_path / "whole" / "pace.f64").write_bytes(times.tobytes())
    train(run, tmp_path / "whole", quiet=True, resume=True)
    assert bits(tmp_path / "whole") == bits(tmp_path / "cut")
    assert (tmp_path / "whole" / "pace.f64").read_bytes() == times.tobytes()


def test_a_halted_process_has_not_trained() -> None:
    pace = Pace(None)
    counted = [pace.counted(seconds) for seconds in [0.01] * 30 + [3600.0] + [0.01] * 30]
    assert sum(counted) < 0.01 * 60 + 0.2
    assert Pace(None).counted(3600.0) == Pace.FIRST


def test_the_times_survive_a_torn_write(tmp_path: Path) -> None:
    path = tmp_path / "pace.f64"
    path.write_bytes(array("d", [1.0, 2.0]).tobytes() + b"abc")
    pace = Pace(path, step=4, spent=7.0)
    pace.add(8.0)
    assert array("d", path.read_bytes()).tolist() == [1.0, 2.0, 7.0, 7.0, 8.0]
    assert [pace.spent(i) for i in range(6)] == [0.0, 1.0, 2.0, 7.0, 7.0, 8.0]


def test_checkpoints_go_by_time_too(tmp_path: Path) -> None:
    run = short(6, checkpoint=0, checkpoint_minutes=1e-9)
    interrupted(run, tmp_path, 5)
    assert [p.name for p in listed(tmp_path / "checkpoints")] == ["step-00000004.ckpt", "step-00000003.ckpt"]


# Files


def test_a_full_disk_is_said_and_older_checkpoints_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = checkpoints.raw
    train(short(), tmp_path / "whole", quiet=True)
    sync = os.fsync

    def full(number: int) -> None:
        if len(listed(tmp_path / "cut" / "checkpoints")) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"No space left on device.*Make room and resume"):
            train(short(), tmp_path / "cut", quiet=True)
    assert whole is checkpoints.raw
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir() if p.suffix != ".ckpt"] == []
    assert all(isinstance(state, dict) for _, state in newest(tmp_path / "cut" / "checkpoints"))
    train(short(), tmp_path / "cut", quiet=True, resume=True)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Denoising.training_step

    def spoiled(self: Denoising, batch: dict[str, Any], i: int) -> Any:
        return step(self, {**batch, "x0": batch["x0"] * (math.nan if self.step == 6 else 1)}, i)

    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "training_step", spoiled)
        with pytest.raises(RunError, match="loss of step 7 is not finite"):
            train(short(checkpoint=7), tmp_path / "loss", quiet=True)
    assert [p.name for p in listed(tmp_path / "loss" / "checkpoints")] == ["step-00000000.ckpt"]
    update = EMAWeights.after

    def broken(self: EMAWeights, trainer: Any, module: Denoising) -> None:
        update(self, trainer, module)
        if module.step == 7:
            with torch.no_grad():
                next(module.denoiser.network.parameters()).view(-1)[0] = math.inf

    monkeypatch.setattr(EMAWeights, "after", broken)
    with pytest.raises(RunError, match="After step 7 there are weights"):
        train(short(checkpoint=7), tmp_path / "weights", quiet=True)
    assert [p.name for p in listed(tmp_path / "weights" / "checkpoints")] == ["step-00000000.ckpt"]
    assert not (tmp_path / "weights" / "model.safetensors").exists()


def test_damaged_checkpoints_are_passed_over_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(short(), tmp_path / "whole", quiet=True)
    interrupted(short(), tmp_path / "cut", 11)
    first, second = listed(tmp_path / "cut" / "checkpoints")
    data = bytearray(first.read_bytes())
    data[-3] ^= 4
    first.write_bytes(data)
    kept = second.read_bytes()
    second.write_bytes(kept[:-1])
    with pytest.raises(RunError, match="damaged"):
        train(short(), tmp_path / "cut", quiet=True, resume=True)
    second.write_bytes(kept)
    train(short(), tmp_path / "cut", quiet=True, resume=True)
    assert "step-00000009.ckpt is cut or damaged" in capsys.readouterr().err
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_a_checkpoint_knows_every_bit_of_itself(tmp_path: Path) -> None:
    state = {
        "a": torch.randn(2, 3), "b": [1, 0.1, None, "x", {"c": torch.tensor(2), "d": torch.empty(0, 3)}],
        "e": {0.5: torch.ones(2).bfloat16()}, "f": math.inf,
    }  # fmt: skip
    path = tmp_path / "step-00000001.ckpt"
    write_checkpoint(path, state)
    again = read_checkpoint(path)
    assert torch.equal(again["a"], state["a"]) and again["b"][:4] == state["b"][:4] and again["f"] == math.inf
    assert (
        again["b"][4]["c"].shape == ()
        and again["b"][4]["d"].shape == (0, 3)
        and again["e"][0.5].dtype == torch.bfloat16
    )
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="cut or damaged"):
            read_checkpoint(path)
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cut or damaged"):
            read_checkpoint(path)


def test_a_table_is_appended_and_cut_where_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = Table(path, 0)
    table.add(10, {"a": 1.0})
    table.add(20, {"a": 0.1, "b": math.nan})
    table.add(30, {"b": 3.0})
    path.write_text(path.read_text() + "40,1.")
    table = Table(path, 20)
    table.add(30, {"a": 5.0})
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert [row["a"] for row in rows] == ["1.0", "0.1", "5.0"] and [row["b"] for row in rows] == ["", "nan", ""]


# Weights of examples


@dataclasses.dataclass(frozen=True)
class Weighted(Pairs):
    """The same, its examples of another weight by kind."""

    left: float = 1.0
    right: float = 1.0

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        examples = super().dataset(split, root)
        own = (self.left, self.right)
        return Examples([dataclasses.replace(e, weight=own[int(e.cond["kind"])]) for e in examples])


def test_examples_count_by_their_weight(tmp_path: Path) -> None:
    """Equal weights are no weights, bit for bit; with unequal ones the loss is that of the weighted mean."""

    def weights(left: float, right: float) -> list[torch.Tensor]:
        run = dataclasses.replace(short(3), domain=Weighted(left=left, right=right))
        return [p.clone() for p in train(run, tmp_path / f"{left} {right}", quiet=True).denoiser.parameters()]

    plain = [p.clone() for p in train(short(3), tmp_path / "plain", quiet=True).denoiser.parameters()]
    assert all(map(torch.equal, plain, weights(3.0, 3.0)))
    assert not all(map(torch.equal, plain, weights(1.0, 3.0)))
    data = Encoded(Weighted(left=1.0, right=3.0), Weighted(left=1.0, right=3.0).dataset("train"))
    assert data.weights is not None and float(data.weights.mean()) == pytest.approx(1.0)
    batches = Batches(Weighted(), data, batch=4, stop=1)
    items = [(*data[i], i, place, 0) for place, i in enumerate((7, 3, 0, 5))]
    kinds = [int(data.asked[i]["kind"]) for i in (7, 3, 0, 5)]
    share = batches.collate(items)["weight"] / batches.collate(items)["weight"].min()
    assert share.tolist() == pytest.approx([(1.0, 3.0)[k] / min((1.0, 3.0)[j] for j in kinds) for k in kinds])
    with pytest.raises(DataError, match=r"the weight 0\.0"):
        weights(0.0, 1.0)


# Beginning from weights


@dataclasses.dataclass(frozen=True)
class More(Pairs):
    """The same with a class more, and in another order."""

    @property
    def conditions(self) -> dict[str, Label]:
        return {"kind": Label(("right", "above", "left"))}

    def network(self, **size: Any) -> Any:
        net: Any = super().network(**size)
        net.label = type(net.label)(3, net.first.out_features)
        return net


def test_a_run_can_begin_from_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = train(short(), tmp_path / "source", quiet=True)
    run = dataclasses.replace(short(4), optimizer=Optimizer(lr=1e-12, warmup=0))
    again = train(run, tmp_path / "same", quiet=True, start=tmp_path / "source")
    for p, q in zip(source.denoiser.parameters(), again.denoiser.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-9)
    assert "5 of 5 taken" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="None of the 5 weights to begin from fits"):
        begin_from(Model(Pairs(), Denoiser(torch.nn.Linear(9, 9), X0(), Pairs().process)), source)


def test_rows_of_classes_are_taken_by_name() -> None:
    source, model = Model.new(Pairs()), Model.new(More(), head=X0())
    old = {name: value.clone() for name, value in source.denoiser.network.state_dict().items()}
    found = begin_from(model, source)
    left, right, none = old["label.table.weight"]
    assert torch.equal(model.denoiser.network.label.table.weight, torch.stack([right, none, left, none]))  # type: ignore[union-attr]
    assert torch.equal(model.denoiser.network.first.weight, old["first.weight"])  # type: ignore[union-attr]
    assert found["new_classes"] == {"kind": ["above"]} and found["new"] == [] and "new rows for above" in found["said"]
    assert "another head" in found["said"]
    found = begin_from(Model.new(Pairs(), width=24), source)
    assert found["taken"] == ["last.bias"] and len(found["new"]) == len(found["left"]) == 4


def test_files_that_were_damaged_or_are_not_the_run_s(tmp_path: Path) -> None:
    """A power cut, an editor, a folder of one's own beside the samples: none of them stops a run, or is deleted."""
    run = short()
    train(run, tmp_path, quiet=True)
    (tmp_path / "samples" / "step_mine").mkdir(parents=True)
    (tmp_path / "training.json").write_text('{"st')
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n3,0.5\n\xc2\xb2,1\n\xff\xfe,2\n")
    longer = short(15)
    train(longer, tmp_path, quiet=True, resume=True)
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 15
    assert (tmp_path / "samples" / "step_mine").is_dir()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1].startswith("3,0.5")
    (tmp_path / "model.safetensors").unlink()
    train(longer, tmp_path, quiet=True, resume=True)
    assert (tmp_path / "model.safetensors").exists()  # the last checkpoint is the model
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(RunError, match=r"metrics\.csv cannot be written"):
        train(short(20), tmp_path, quiet=True, resume=True)
    for path in listed(tmp_path / "checkpoints"):
        path.unlink()
    for text in (b'{"st', b"\xff\xfe", b"[1]"):
        (tmp_path / "recipe.json").write_bytes(text)
        with pytest.raises(RecipeError, match=r"recipe\.json"):
            train(run, tmp_path, quiet=True, resume=True)


def test_two_devices_from_the_command_line(tmp_path: Path, root: Path) -> None:
    """The second process, which repeats the command, found the folder in use by the first, and both ended at once."""
    train(short(4), tmp_path / "run", quiet=True)
    paths = os.pathsep.join([*(str(root / name) for name in ("", "domains", "recipes")), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "gendiff", "train", "run", "trainer.devices=2", "--quiet"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2"]
    assert read_checkpoint(listed(tmp_path / "run-2" / "checkpoints")[0])["step"] == 4
    assert done.stdout.count("The model is") == 1
