"""`gendiff bench SUITE`: what it declares and refuses, what it counts, what it keeps, and what it shows."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import gendiff
from gendiff.cli import main
from gendiff.errors import GendiffError
from gendiff.evaluation import measure_of
from gendiff.executors import local
from gendiff.sampling.solvers import DDIM, RK4, Adams, Euler, Heun
from gendiff_recipes.bench import cells, running
from gendiff_recipes.bench.page import write_page
from gendiff_recipes.bench.parts import use_parts
from gendiff_recipes.bench.running import Outcome, run_suite
from gendiff_recipes.bench.suite import Entry, Method, Suite, read_suite
from gendiff_recipes.bench.tables import Stat, Tables, best_of, write_tables
from gendiff_recipes.evaluation import evaluate
from gendiff_recipes.folder import Lock, RunError
from gendiff_recipes.recipe import Recipe
from tests.recipes.test_report import Page

MINE = '''
from dataclasses import dataclass, field
from typing import ClassVar
from gendiff.sampling.grids import Grid, LinearGrid
from gendiff.sampling.solvers import Row, Solver

@dataclass(frozen=True)
class Twice(Solver):
    """Euler's steps, each prediction made twice."""
    order: ClassVar[int] = 1
    steps: int = 10
    times: Grid = field(default_factory=LinearGrid)
    def step(self, process, t, s, past):
        yield Row(t, (t + s) / 2, at=t, move=process.move(t, (t + s) / 2), last=False)
        yield Row((t + s) / 2, s, at=(t + s) / 2, move=process.move((t + s) / 2, s))

@dataclass(frozen=True)
class Broken(Twice):
    """Raises for more than two steps."""
    def step(self, process, t, s, past):
        if self.steps > 2:
            raise ValueError("a solver that breaks")
        yield from super().step(process, t, s, past)
'''


@pytest.fixture(autouse=True)
def _fresh() -> None:
    cells.models.clear()
    cells.real.clear()


def declared(folder: Path, text: str, name: str = "suite.toml") -> Suite:
    """A suite from its text."""
    (folder / name).write_text(text)
    return read_suite(folder / name)


def text_of(run: Path, more: str = "", methods: str = 'DDIM = "DDIM()"\nHeun = "Heun()"') -> str:
    """A small suite on a run of digits."""
    return f"""
evaluations = [1, 3]
seeds = 2
{more}
[methods]
{methods}
[domains.digits]
model = "{run}"
n = 6
batch = 4
measures = ["energy"]
shown = 2
"""


def measures(outcome: Outcome) -> dict[str, Any]:
    """What was measured, by unit."""
    rows = [*outcome.cells, *outcome.real]
    return {f"{r['kind']} {r['domain']} {r['method']} {r['evaluations']} {r['seed']}": r["measures"] for r in rows}


# Declared


def test_a_suite_says_what_is_compared(tmp_path: Path) -> None:
    (tmp_path / "few.safetensors").write_bytes(b"")
    suite = declared(tmp_path, """
name = "few steps"
evaluations = [4, 8]
seeds = [3, 5]
[methods]
DDIM = "DDIM()"
distilled = {sampler = "Euler()", guidance = "CFG(2.0)", models = {clothes = "few.safetensors"}, evaluations = [4]}
fitted = {sampler = "calibrated", pilots = 32, rounds = 0}
[domains.clothes]
model = "few.safetensors"
ask = {label = "boot"}
[domains.own]
domain = "Torsions(length=4)"
changes = ["trainer.steps=4"]
n = 8
""")  # fmt: skip
    assert suite == Suite(
        "few steps",
        (
            Entry("clothes", "few.safetensors", ask={"label": "boot"}),
            Entry("own", domain="Torsions(length=4)", changes=("trainer.steps=4",), n=8),
        ),
        (
            Method("DDIM", "DDIM()"),
            Method("distilled", "Euler()", "CFG(2.0)", {"clothes": "few.safetensors"}, (4,)),
            Method("fitted", "calibrated", pilots=32, rounds=0),
        ),
        (4, 8), (3, 5), folder=str(tmp_path),
    )  # fmt: skip
    as_json = {
        "evaluations": [4], "methods": {"a": "DDIM()"}, "domains": {"d": {"model": "few.safetensors"}}, "seeds": 3,
    }  # fmt: skip
    assert declared(tmp_path, json.dumps(as_json), "s.json").seeds == (0, 1, 2)
    assert suite.path("few.safetensors") == (tmp_path / "few.safetensors").resolve()


WRONG = {
    "an unknown key": ("sedes = 3", r"suite.toml has 'sedes'.*Did you mean \"seeds\""),
    "an unknown key of a method": ("[methods.a]\nsampler = 'DDIM()'\npilot = 4", r"methods.a has 'pilot'.*\"pilots\""),
    "no sampler": ("[methods.a]\nguidance = 2", r"methods.a has no sampler"),
    "no domains": ("", "Suite got domains=\\(\\); expected at least one"),
    "two models": ("[domains.d]\nmodel = 'a'\nrecipe = 'b'", "names model and recipe of model, recipe, domain"),
    "none": ("[domains.d]\nn = 4", "names none of model, recipe, domain"),
    "one sample": ("[domains.d]\nmodel = 'a'\nn = 1", "n=1.*at least 2"),
    "a text for a number": ("[domains.d]\nmodel = 'a'\nn = '4'", "n='4'"),
    "changes of a model": ("[domains.d]\nmodel = 'a'\nchanges = ['a=b']", "changes=.*beside a model"),
    "a split": ("[domains.d]\nmodel = 'a'\nsplit = 'tests'", 'split=.*Did you mean "test"'),
    "a model for no domain": (
        "[methods.a]\nsampler='DDIM()'\nmodels={clothe='x'}\n[domains.clothes]\nmodel='x'", 'Did you mean "clothes"',
    ),
    "evaluations of none": (
        "[methods.a]\nsampler='DDIM()'\nevaluations=[5]\n[domains.d]\nmodel='x'", "has evaluations=5",
    ),
    "no evaluations": ("[methods]\na='DDIM()'\n[domains.d]\nmodel='x'\n#", "evaluations=\\(\\)"),
    "no seed": ("seeds = 0\n[methods]\na='DDIM()'\n[domains.d]\nmodel='x'", "seeds=0"),
    "pilots of a solver": ("[methods.a]\nsampler='DDIM()'\npilots=9\n", "pilots=9.*calibrated"),
    "names that are one folder": ("[methods]\n'a b'='DDIM()'\n'a-b'='Heun()'\n[domains.d]\nmodel='x'", "'a-b' twice"),
    "a text of parts": ("parts = 'my.py'", "parts='my.py'.*a list"),
    "a row's name": ("[methods]\nchance='DDIM()'\n[domains.d]\nmodel='x'", "called 'chance'"),
    "no TOML": ("methods = [", "no TOML"),
    "methods in a list": ("methods = ['DDIM()']", "a table by names"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    text, expected = WRONG[name]
    first = "" if name in ("no evaluations", "no TOML") else "evaluations = [4]\n"
    with pytest.raises(GendiffError, match=expected):
        declared(tmp_path, first + text)


def test_what_cannot_be_run_is_refused_before_anything_is(run: Path, tmp_path: Path) -> None:
    for methods, more, expected in (
        ('a = "DDIMM()"', "", "sampler of a 'DDIMM'.*Did you mean \"DDIM\""),
        ('a = "DDIM(step=3)"', "", "DDIM has no 'step'.*Did you mean \"steps\""),
        ('a = "DDIM()"', 'parts = ["none.py:A"]', "no file .*none.py"),
        ('a = {sampler = "DDIM()", guidance = "APGG(3)"}', "", "APGG"),
        ('a = {sampler = "DDIM()", models = {digits = "none.safetensors"}}', "", "no model none.safetensors"),
    ):
        with pytest.raises(GendiffError, match=expected):
            run_suite(declared(tmp_path, text_of(run, more, methods)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(GendiffError, match="other things"):
        run_suite(declared(tmp_path, text_of(run)), tmp_path / "other")
    with pytest.raises(GendiffError, match="There is no suite"):
        read_suite(tmp_path / "none.toml")


# Counted


@pytest.mark.parametrize(("solver", "wanted", "made"), [
    (DDIM(), 4, 4), (Heun(), 4, 3), (Heun(), 7, 7), (RK4(), 8, 5), (RK4(), 3, 1), (Adams(), 5, 5), (Euler(99), 1, 1),
])  # fmt: skip
def test_steps_make_the_evaluations(run: Path, solver: Any, wanted: int, made: int) -> None:
    """The most steps that take at most so many; the last step of Heun and RK4, to no noise, takes one."""
    process = gendiff.load(run).denoiser.process
    found = cells.with_evaluations(solver, process, wanted)
    assert found.evaluations(process) == made
    more = dataclasses.replace(found, steps=found.steps + 1)
    assert more.evaluations(process) > wanted


@pytest.mark.parametrize(("guidance", "branches"), [(1, 1), (1.5, 2)])
def test_calls_of_the_network_are_counted(
    run: Path, tmp_path: Path, guidance: float, branches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against someone who counts by himself, in the network's forward."""
    seen: list[int] = []
    kind = type(gendiff.load(run).denoiser.network)
    whole = kind.forward

    def forward(self: Any, x: Any, *args: Any, **more: Any) -> Any:
        seen.append(len(x))
        return whole(self, x, *args, **more)

    monkeypatch.setattr(kind, "forward", forward)
    methods = f'Heun = {{sampler = "Heun()", guidance = {guidance}}}'
    outcome = run_suite(declared(tmp_path, text_of(run, methods=methods)), tmp_path / "out")
    for one in outcome.cells:
        assert one["calls"] == {1: 1, 3: 3}[one["evaluations"]] and one["exact"]
        assert one["passes"] == branches * one["calls"]
    assert sum(seen) == sum(one["passes"] * one["n"] for one in outcome.cells)
    assert len(seen) == sum(one["calls"] * 2 for one in outcome.cells)  # two batches, of four and of two


def test_joules_are_those_of_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "POWER", tmp_path)
    for name, used in {"intel-rapl:0": 900, "intel-rapl:1": 50, "intel-rapl:0:0": 7}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{used}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("999\n")
    with cells.Clock() as clock:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100")  # its counter began anew: 200
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("53")
        (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("400")  # a part of the first
    assert clock.found["joules"] == pytest.approx(203e-6)
    monkeypatch.setattr(cells, "POWER", tmp_path / "none")
    with cells.Clock() as clock:
        pass
    assert clock.found.keys() == {"seconds", "cpu_seconds"}


# Measured


def test_a_cell_is_what_one_finds_by_hand(run: Path, tmp_path: Path) -> None:
    outcome = run_suite(declared(tmp_path, text_of(run)), tmp_path / "out")
    model = gendiff.load(run)
    samples = model.sample(6, sampler=Heun(2, times=DDIM().times), seed=1, batch=4, guidance=None)
    (cell,) = (c for c in outcome.cells if (c["method"], c["evaluations"], c["seed"]) == ("Heun", 3, 1))
    test = list(model.domain.dataset("test").artifacts)
    reference = [test[i] for i in np.random.default_rng(0).permutation(len(test))[:6]]
    own = measure_of("energy", model.domain.metrics()["energy"])
    if "LinearGrid" in cell["sampler"]:
        assert cell["measures"]["energy"]["value"] == own(samples, reference)
    train = list(model.domain.dataset("train").artifacts)
    real = [train[i] for i in np.random.default_rng(1).permutation(len(train))[:6]]
    (floor,) = (one for one in outcome.real if one["seed"] == 1)
    assert floor["measures"]["energy"]["value"] == own(real, reference) and floor["n"] == 6
    found = evaluate(model, 6, seed=0, halves=0, data=None)
    text = text_of(run, methods='own = "own"').replace("[1, 3]", f"[{model.sampler.steps}]").replace("batch = 4", "")
    own_sampler = run_suite(declared(tmp_path, text), tmp_path / "own")
    assert own_sampler.cells[0]["measures"]["energy"]["value"] == pytest.approx(found.generated["energy"], abs=1e-9)


def test_chance_and_judges_have_rows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge's measure of what was asked, with shuffled requests beside it; and the interval-free floor."""
    from gendiff.evaluation import Judge
    from gendiff_images import Images

    def guess(pictures: Any) -> list[str]:
        return [str(int(100 * float(one.mean())) % 10) for one in pictures]

    monkeypatch.setattr(Images, "judges", lambda self: {"eye": lambda train, test: Judge("eye", (), {"label": guess})})
    suite = declared(
        tmp_path, text_of(run).replace('measures = ["energy"]', 'judges = ["eye"]\nmeasures = ["label as asked (eye)"]')
    )
    outcome = run_suite(suite, tmp_path / "out")
    for one in outcome.cells:
        assert list(one["measures"]) == ["label as asked (eye)"]
        row = one["measures"]["label as asked (eye)"]
        assert 0 <= row["value"] <= 1 and 0 <= row["chance"] <= 1 and row["better"] == "higher"
    (table, *_) = Tables.of(outcome).tables
    assert table.floor is not None and table.floor.seeds == 2 and table.chance is not None
    wrong = declared(tmp_path, text_of(run).replace('["energy"]', '["enery"]'))
    failed = run_suite(wrong, tmp_path / "wrong")
    assert all('Did you mean "energy"' in one["error"] for one in failed.errors) and len(failed.errors) == 10


# Kept


def test_two_processes_do_not_work_in_one_folder(run: Path, tmp_path: Path) -> None:
    suite, out = declared(tmp_path, text_of(run)), tmp_path / "out"
    out.mkdir()
    (out / "suite.json").write_text("{}")
    with Lock(out / ".lock"), pytest.raises(RunError, match="in use by process"):
        run_suite(suite, out)
    assert run_suite(suite, out).done


class Stop(BaseException):
    """As a kill: nothing catches it."""


def crash_at(monkeypatch: pytest.MonkeyPatch, k: int) -> Callable[[], int]:
    """Files are written until the k-th; the counter of writes."""
    whole, count = running.write_whole, [0]

    def write(path: Path, content: bytes) -> Path:
        count[0] += 1
        if count[0] == k:
            raise Stop
        return whole(path, content)

    monkeypatch.setattr(running, "write_whole", write)
    return lambda: count[0]


def test_a_run_that_is_killed_between_any_two_files_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = declared(tmp_path, text_of(run).replace("seeds = 2", "seeds = 1"))
    with monkeypatch.context() as patch:
        count = crash_at(patch, -1)
        whole = run_suite(suite, tmp_path / "whole")
        total = count()
    assert (whole.done, whole.kept) == (5, 0) and total == 1 + 5 + 4 * 2  # suite.json, results, two pictures a cell
    for k in range(1, total + 1):
        out = tmp_path / f"out-{k}"
        with monkeypatch.context() as patch:
            crash_at(patch, k)
            with pytest.raises(Stop):
                run_suite(suite, out)
        before = len(list(out.rglob("result.json")))
        again = run_suite(suite, out)
        assert (again.kept, again.done) == (before, 5 - before)
        assert measures(again) == measures(whole)
        assert len(list(out.rglob("000?.png"))) == 8
    assert run_suite(suite, tmp_path / "whole").done == 0


@pytest.mark.slow
def test_a_run_that_is_really_killed_goes_on(run: Path, tmp_path: Path) -> None:
    """SIGKILL of the process, with a worker beside it, after the first cells; a training among what is done."""
    changes = '["trainer.steps=30", "trainer.show=0", "trainer.checkpoint=5", "network.channels=8,16"]'
    more = f'\n[domains.trained]\nrecipe = "images.digits"\nchanges = {changes}\nn = 4\n'
    path, out = tmp_path / "suite.toml", tmp_path / "out"
    path.write_text(text_of(run) + more)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "gendiff", "bench", str(path), "--out", str(out), "--quiet", "--workers", "1"]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(list(out.rglob("result.json"))) < 3 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.0)  # the worker sees that it is alone
    before = len(list(out.rglob("result.json")))
    assert before >= 3
    again = run_suite(read_suite(path), out)
    assert again.kept >= before and not again.errors and again.done > 0


def test_processes_give_the_same_measures(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    methods = 'Twice = "Twice()"\nfitted = {sampler = "calibrated", pilots = 8, rounds = 0, fine = 12}'
    suite = declared(tmp_path, text_of(run, 'parts = ["mine.py:Twice"]', methods))
    one = run_suite(suite, tmp_path / "one")
    pool = local(1)
    assert pool is not None
    with pool:
        two = run_suite(suite, tmp_path / "two", executor=pool)
    assert not one.errors and not two.errors
    assert measures(one) == measures(two) and two.done == one.done == 8 + 2 + 1


def test_what_is_changed_is_redone_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    methods = 'DDIM = "DDIM()"\nTwice = "Twice()"'
    part = 'parts = ["mine.py:Twice"]'
    model = tmp_path / "model.safetensors"
    model.write_bytes((run / "model.safetensors").read_bytes())

    def again(text: str, keep: tuple[int, int]) -> Outcome:
        found = run_suite(declared(tmp_path, text), tmp_path / "out")
        assert (found.done, found.kept) == keep
        return found

    first = again(text_of(model, part, methods), (10, 0))
    again(text_of(model, part, methods), (0, 10))
    again(text_of(model, part, methods.replace('"DDIM()"', '"DDIM(eta=1.0)"')), (4, 6))
    again(text_of(model, part, methods), (4, 6))
    (tmp_path / "mine.py").write_text(MINE + "\n# changed\n")
    again(text_of(model, part, methods), (4, 6))
    again(text_of(model, part, methods).replace("seeds = 2", "seeds = 3"), (5, 10))
    again(text_of(model, part, methods + '\nEuler = "Euler()"'), (4, 10))
    result = tmp_path / "out" / "cells" / "digits" / "DDIM" / "3-1" / "result.json"
    result.write_text(result.read_text()[:-40])  # cut
    again(text_of(model, part, methods), (1, 9))
    (tmp_path / "out" / "cells" / "digits" / "DDIM" / "3-0" / "0001.png").unlink()
    same = again(text_of(model, part, methods), (1, 9))
    assert measures(same) == measures(first)
    loaded = gendiff.load(model)
    next(loaded.denoiser.parameters()).data.mul_(1.5)
    loaded.save(model)
    other = again(text_of(model, part, methods), (10, 0))
    assert measures(other) != measures(first)


def test_a_stranger_brings_a_solver_and_a_domain_by_a_line_each(run: Path, tmp_path: Path, root: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    torsions = root / "examples" / "gendiff_torsions" / "gendiff_torsions.py"
    text = f"""
evaluations = [4, 5]
parts = ["mine.py:Twice", "{torsions}:Torsions"]
[methods]
Twice = "Twice()"
[domains.torsions]
domain = "Torsions(length=5)"
changes = ["trainer.steps=4", "trainer.show=0", "trainer.batch=8"]
n = 5
[domains.digits]
model = "{run}"
n = 4
"""
    outcome = run_suite(declared(tmp_path, text), tmp_path / "out")
    assert not outcome.errors
    assert {(c["domain"], c["calls"], c["exact"]) for c in outcome.cells} == {
        ("torsions", 4.0, True), ("torsions", 4.0, False), ("digits", 4.0, True), ("digits", 4.0, False),
    }  # fmt: skip
    assert (tmp_path / "out" / "models" / "torsions" / "model.safetensors").exists()
    assert np.load(tmp_path / "out" / "cells" / "torsions" / "Twice" / "4-0" / "0000.npy").shape == (5, 2)
    # By --parts, and what is wrong in it.
    (tmp_path / "plain.toml").write_text(text_of(run, methods='Twice = "Twice()"'))
    line = ["bench", str(tmp_path / "plain.toml"), "--out", str(tmp_path / "plain"), "--quiet"]
    assert main([*line, "--parts", str(tmp_path / "mine.py")]) == 0
    with pytest.raises(GendiffError, match=r"no 'Twise'.*Did you mean \"Twice\""):
        use_parts([f"{tmp_path / 'mine.py'}:Twise"])
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(GendiffError, match=r"bad.py cannot be run \(ZeroDivisionError"):
        use_parts([str(tmp_path / "bad.py")])


def test_a_training_goes_on_or_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
evaluations = [1]
[methods]
DDIM = "DDIM()"
[domains.digits]
recipe = "images.digits"
changes = ["trainer.steps=4", "trainer.show=0", "network.channels=8,16"]
n = 4
measures = ["energy"]
"""
    first = run_suite(declared(tmp_path, text), tmp_path / "out")
    path = tmp_path / "out" / "models" / "digits" / "model.safetensors"
    digest = cells.file_digest(path)
    (tmp_path / "out" / "models" / "digits.json").unlink()  # stopped before it was kept: a declaration is not known
    assert run_suite(declared(tmp_path, text), tmp_path / "out").done == 1
    assert cells.file_digest(path) == digest
    again = run_suite(declared(tmp_path, text.replace("steps=4", "steps=5")), tmp_path / "out")
    assert again.done == 3 and gendiff.load(path).recipe["trainer"]["steps"] == 5
    assert again.cells[0]["measures"] != first.cells[0]["measures"]
    odd = text.replace("changes = [", 'changes = ["optimizer.lr=1e30", ')
    failed = run_suite(declared(tmp_path, odd), tmp_path / "bad")
    assert failed.errors and all("error" in one for one in failed.cells)


# Shown


def test_a_failing_cell_is_an_error_in_the_table(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    text = text_of(run, 'parts = ["mine.py:Broken"]', 'DDIM = "DDIM()"\nBroken = "Broken()"').replace(
        "[1, 3]", "[2, 4]"
    )
    (tmp_path / "suite.toml").write_text(text)
    line = ["bench", str(tmp_path / "suite.toml"), "--out", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code == 1
    told = capsys.readouterr()
    assert "failed: digits: Broken, 4 evaluations, seed 0: ValueError: a solver that breaks" in told.err
    assert re.search(r"Broken +\S+ ± \S+ +error", told.out)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "results.csv").read_text())))
    assert sum(row["error"] != "" for row in rows) >= 2 and any(
        row["method"] == "DDIM" and row["value"] for row in rows
    )
    assert "a solver that breaks" in (tmp_path / "out" / "page.html").read_text()
    with pytest.raises(SystemExit):
        main(line)
    assert "2 units done now, 8 before" in capsys.readouterr().out  # what failed is tried again


def test_intervals_are_students() -> None:
    values = [0.3, 0.5, 0.1, 0.45]
    found = Stat.of([*values, None, math.nan])
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.mean, found.low, found.high, found.seeds) == pytest.approx((np.mean(values), low, high, 4))
    assert math.isnan(Stat.of([1.0]).low) and Stat.of([]).text() == "–" and Stat.of([None], error="x").text() == "error"
    assert Stat.of([1.0], calls=3.0).text(4) == "1 (3)" and Stat.of([1.0], calls=4.0).text(4) == "1"


def test_the_best_is_as_the_measure_says() -> None:
    rows = {"a": {4: Stat(1.0, seeds=1)}, "b": {4: Stat(3.0, seeds=1)}, "c": {4: Stat(2.2, seeds=1)}, "d": {4: Stat()}}
    assert best_of(rows, [4], "lower", math.nan) == [("a", 4)]
    assert best_of(rows, [4], "higher", 0.0) == [("b", 4)]
    assert best_of(rows, [4], "real", 2.0) == [("c", 4)] and best_of(rows, [4], "real", math.nan) == []


@pytest.fixture(scope="module")
def shown(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("shown")
    methods = "\n".join(
        f'"{name}" = "DDIM(eta={k / 10})"' for k, name in enumerate(("a & b", "c_d", "e", "f", "g", "<h>"))
    )
    return run_suite(declared(folder, text_of(run, 'name = "<script>alert(1)</script>"', methods)), folder / "out")


def test_tables_come_in_four_forms(shown: Outcome, tmp_path: Path) -> None:
    tables = Tables.of(shown)
    write_tables(tables, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert len(rows) == 6 * 2 * 2 + 2
    one = next(c for c in shown.cells if (c["method"], c["evaluations"], c["seed"]) == ("c_d", 1, 1))
    row = next(r for r in rows if (r["method"], r["evaluations"], r["seed"]) == ("c_d", "1", "1"))
    assert float(row["value"]) == one["measures"]["energy"]["value"] and float(row["passes"]) == one["passes"]
    data = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    values = [c["measures"]["energy"]["value"] for c in shown.cells if (c["method"], c["evaluations"]) == ("e", 3)]
    assert data["tables"][0]["rows"]["e"]["3"]["mean"] == pytest.approx(np.mean(values))
    means = {name: own["3"]["mean"] for name, own in data["tables"][0]["rows"].items()}
    assert [min(means, key=means.__getitem__), 3] in data["tables"][0]["best"]
    text = (tmp_path / "tables.md").read_text()
    block = [line for line in text.split("energy ↓")[1].strip().splitlines() if line.startswith("|")][:9]
    assert {line.count("|") for line in block} == {4}
    bold = [
        (k, line)
        for line in block[2:8]
        for k, text in ((1, line.split("|")[2]), (3, line.split("|")[3]))
        if "**" in text
    ]
    assert sorted((line.split("|")[1].strip(), k) for k, line in bold) == sorted(tables.tables[0].best)
    tex = (tmp_path / "tables.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == tex.count(r"\toprule") == len(tables.tables)
    assert (
        r"a \& b" in tex
        and r"c\_d" in tex
        and r"\textbf{" in tex
        and "±" not in tex
        and "<script>" not in tex.split("%")[0]
    )


def test_the_page_is_whole_and_loads_nothing(shown: Outcome, tmp_path: Path) -> None:
    text = write_page(shown, Tables.of(shown), tmp_path / "page.html").read_text()
    page = Page(text)  # tags nest
    assert {link.split(":")[0] if link.startswith("data:") else link[0] for _, link in page.links} <= {"data", "#"}
    assert "http:" not in text and "https:" not in text and "<script>alert" not in text
    assert "default-src 'none'" in text
    sheets, buttons = re.findall(r'<dialog id="([^"]+)"', text), re.findall(r'data-sheet="([^"]+)"', text)
    assert set(sheets) == set(buttons) and len(sheets) == 12
    pictures = [link for _, link in page.links if link.startswith("data:image/png")]
    assert len(pictures) == 12 * 2
    assert "real data" in page.text and "a & b" in page.text and text.count("<svg") == 1


# Published settings


def test_presets_are_as_published() -> None:
    from gendiff_recipes import images, proteins

    def preset(name: str) -> Recipe:
        return images.digits().override(f"preset={name}")

    def schedule(recipe: Recipe, t: float) -> tuple[float, float]:
        process: Any = recipe.process
        return process.schedule(t)

    ddpm = preset("ddpm")
    betas = np.linspace(1e-4, 0.02, 1000)
    for k in (1, 500, 1000):
        alpha2 = float(np.prod(1 - betas[:k]))
        assert schedule(ddpm, k / 1000) == pytest.approx((alpha2**0.5, (1 - alpha2) ** 0.5), rel=1e-9)
    assert type(ddpm.head).__name__ == "Eps" and ddpm.sampler is not None and ddpm.sampler.steps == 1000
    edm: Any = preset("edm")
    sigmas = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    times = edm.sampler.times(edm.process, 18)
    assert [edm.process.schedule(t)[1] for t in times] == pytest.approx([*sigmas, 0.0])
    assert (edm.times.mean, edm.times.std, edm.head.sigma_data) == (-1.2, 1.2, 0.5)
    assert edm.sampler.evaluations(edm.process) == 35
    assert schedule(preset("rectified_flow"), 0.3) == pytest.approx((0.7, 0.3))
    assert type(preset("rectified_flow_logit_normal").times).__name__ == "LogitNormal"
    alpha = math.exp(-0.25 * 0.3**2 * 19.9 - 0.5 * 0.3 * 0.1)
    assert schedule(preset("vp_sde"), 0.3) == pytest.approx((alpha, (1 - alpha**2) ** 0.5))
    changed = images.digits().override("sampler.steps=5", "preset=edm", "head.sigma_data=0.3")
    assert changed.sampler is not None and (changed.sampler.steps, edm.sampler.steps) == (5, 18)
    assert changed.head == type(edm.head)(0.3) and Recipe.of(json.loads(json.dumps(changed.config()))) == changed
    with pytest.raises(GendiffError, match=r"preset 'edn'.*Did you mean \"edm\""):
        images.digits().override("preset=edn")
    with pytest.raises(GendiffError, match="process Joint"):
        proteins.ideal().override("preset=edm")


def test_the_committed_suites_are_suites(root: Path) -> None:
    suites = {path.stem: read_suite(path) for path in (root / "benchmarks" / "suites").glob("*.toml")}
    for suite in suites.values():
        running.check_suite(suite)
    for name in ("leaderboard", "longer"):
        assert len(suites[name].domains) >= 4 and len(suites[name].methods) >= 5
    assert any(method.models for method in suites["few_steps"].methods)


def test_a_method_may_have_a_model_of_its_own(run: Path, tmp_path: Path) -> None:
    """A distilled model stands beside solvers: its cells are those of a suite on that model."""
    other = gendiff.load(run)
    next(other.denoiser.parameters()).data.mul_(2.0)
    other.save(tmp_path / "few.safetensors")
    methods = 'DDIM = "DDIM()"\nfew = {sampler = "DDIM()", models = {digits = "few.safetensors"}, evaluations = [3]}'
    both = run_suite(declared(tmp_path, text_of(run, methods=methods)), tmp_path / "both")
    text = text_of(tmp_path / "few.safetensors", methods='few = "DDIM()"')
    alone = run_suite(declared(tmp_path, text), tmp_path / "alone")
    found = {key: value for key, value in measures(both).items() if " few 3 " in key}
    assert len(found) == 2 and found.items() <= measures(alone).items()
    assert found["cell digits few 3 0"] != measures(both)["cell digits DDIM 3 0"]


def test_a_worker_without_the_models_file_is_sent_it(run: Path, tmp_path: Path) -> None:
    suite = declared(tmp_path, text_of(run))
    board = running.Board(suite, tmp_path / "out", "cpu")
    job = board.complete(board.jobs["cells/digits/DDIM/3-0"])
    here = cells.do(job)
    sent = running.with_content(job, {"absent": True})
    assert sent is not None and sent.content == {job.model: Path(job.model).read_bytes()}
    assert running.with_content(job, here) is None
    cells.models.clear()
    cells.real.clear()
    away = {"model": "/nowhere/model.safetensors", "measured": "/nowhere/model.safetensors"}
    assert cells.do(dataclasses.replace(job, **away)) == {"absent": True}
    there = cells.do(dataclasses.replace(job, **away, content={away["model"]: sent.content[job.model]}))
    assert there["measures"] == here["measures"]
    stale = dataclasses.replace(job, digest="another")
    cells.models.clear()
    assert cells.do(stale) == {"absent": True}
