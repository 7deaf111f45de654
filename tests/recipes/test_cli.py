"""The command line: what it is asked, what it answers, and that nothing of the user's is lost or misread."""

from __future__ import annotations

import csv
import errno
import json
import os
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gendiff
from gendiff.cli import main
from gendiff.cli.commands import free_folder
from gendiff.cli.words import asked
from gendiff.conditions import Label
from gendiff.domain import Domain, Example, Examples, Request
from gendiff.errors import DataError, RequestError, RequestWarning, nearest
from gendiff.samples import captions
from gendiff_images import Images
from gendiff_recipes import images
from gendiff_recipes.evaluation import about_examples, asked_for, asked_lengths, evaluate
from gendiff_recipes.folder import RunError, written
from gendiff_recipes.recipe import Recipe
from gendiff_recipes.training import train

BAR = 0.3  # seconds of the processor, beyond an interpreter that imports argparse and importlib.metadata


def python(code: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(root), str(root / "domains"), str(root / "recipes")])
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)


def test_help_is_quick_and_knows_no_torch(root: Path, tmp_path: Path) -> None:
    cache = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    code = "import sys; from gendiff.cli import main; main(['--help']); print('torch' in sys.modules)"
    out = python(code, root, **cache).stdout
    assert out.endswith("False\n")
    for name in ("train", "sample", "info", "evaluate", "report", "bench", "calibrate", "demo", "cite"):
        assert f"\n  {name} " in out
    timed = (
        "import time, argparse, importlib.metadata, dataclasses, difflib; start = time.process_time(); "
        "from gendiff.cli import main; main(['--help']); print(time.process_time() - start)"
    )
    seconds = min(float(python(timed, root, **cache).stdout.splitlines()[-1]) for _ in range(5))
    assert seconds < BAR, f"{seconds:.2f} s"


def test_help_lists_what_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "images.digits", "--help"]) == 0
    out = capsys.readouterr().out
    for line in ("trainer.steps=2000", "network.channels=(64, 128)", "optimizer.lr=0.001", "sampler.steps=12"):
        assert f"  {line}\n" in out
    assert "Velocity X0" in out and "Optimiser steps." in out
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "images.folder" in out and "trainer.batch=" in out
    assert main(["train", "images.folder", "--help"]) == 0
    assert "--size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "classes", "value"),
    [
        ("1", ("1", "2", "3"), "1"),  # the class of that name, not the second one
        ("2,3", ("1", "2", "3"), ["2", "3"]),
        ("0", ("1", "2", "3"), "0"),  # no class, and no number among classes with numbers: refused by the domain
        ("1", ("cat", "dog"), 1),
        ("none", ("cat", "none"), "none"),
        ("none", ("cat", "dog"), None),
        ("dog,cat", ("dog,cat", "dog"), "dog,cat"),
        ("dog,cat", ("dog", "cat"), ["dog", "cat"]),
        ('"dog,cat",dog', ("dog,cat", "dog"), ["dog,cat", "dog"]),
        ("true", ("true", "false"), "true"),
        ("1e3", ("1e3",), "1e3"),
        ("DOG", ("dog",), "dog"),
        ("", ("a",), ""),
    ],
)
def test_a_label_is_read_by_its_classes(text: str, classes: tuple[str, ...], value: Any) -> None:
    assert asked([f"label={text}"], {"label": Label(tuple(classes))}) == {"label": value}


def test_other_words_are_numbers_lists_and_texts() -> None:
    words = ["length=80", "seconds=0.5,0.8", "name=a b", "x=none"]
    assert asked(words, {}) == {"length": 80, "seconds": [0.5, 0.8], "name": "a b", "x": None}
    with pytest.raises(RequestError, match="name=value"):
        asked(["label"], {})
    with pytest.raises(RequestError, match="twice"):
        asked(["a=1", "a=2"], {})


def test_a_class_called_one_is_drawn_and_not_the_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domain = Images(size=8, channels=1, classes=("1", "none", "dog,cat"))
    gendiff.Model.new(domain, channels=(8,), blocks=1).save(tmp_path / "m.safetensors")
    for text in domain.classes:
        out = tmp_path / f"of {text}"
        assert (
            main(
                [
                    "sample",
                    str(tmp_path / "m.safetensors"),
                    "-n",
                    "1",
                    f"label={text}",
                    "--steps",
                    "1",
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
        assert json.loads((out / "manifest.json").read_text())["request"]["label"] == text
    assert main(["sample", str(tmp_path / "m.safetensors"), "label=0", "--out", str(tmp_path / "x")]) == 2
    assert "not a class" in capsys.readouterr().err


def test_what_is_drawn_without_a_word_is_what_was_judged(run: Path) -> None:
    """All classes in turn, at the recipe's guidance; sample i is the same whatever n."""
    model = gendiff.load(run)
    assert model.guidance == 1.5
    plain = model.sample(3, steps=2, seed=1)
    said = model.sample(3, steps=2, seed=1, label=["0", "1", "2"], guidance=1.5)
    assert all(torch.equal(a, b) for a, b in zip(plain, said, strict=True))
    assert not torch.equal(plain[1], model.sample(3, steps=2, seed=1, label=["0", "1", "2"], guidance=1.0)[1])
    more = model.sample(12, steps=2, seed=1)
    assert torch.allclose(more[2], plain[2], atol=1e-5)
    assert captions(model.domain, model.plan(12), 12)[9:] == ["9", "0", "1"]


def test_what_was_hardly_meant_is_said(run: Path) -> None:
    model = gendiff.load(run)
    with pytest.warns(RequestWarning, match="nothing to guide"):
        model.sample(1, steps=1, label=None, guidance=2.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?!.* saturated)")
        model.sample(1, steps=1, label=None)  # nobody said a guidance, so nobody meant one
    with torch.no_grad():
        next(model.denoiser.network.parameters()).fill_(float("nan"))
    with pytest.warns(RequestWarning, match="2 of 2 samples hold numbers that are not finite"):
        model.sample(2, steps=1)


def test_tables_of_another_guidance_are_said_to_rest(run: Path) -> None:
    model = gendiff.load(run)
    model.calibrate(2, pilots=8, rounds=0, fine=8)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?!.* saturated)")
        model.sample(1, steps=2)  # the model's own guidance, for which they were fitted
    with pytest.warns(RequestWarning, match="fitted at guidance"):
        model.sample(1, steps=2, guidance=3.0)


def test_lengths_outside_training_are_said(root: Path) -> None:
    model = gendiff.load(root / "weights" / "proteins_backbones.safetensors")
    with pytest.warns(RequestWarning, match="length=20 is outside what this model was trained on, 40 to 96"):
        model.check_ranges({"length": [60, 20]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.check_ranges({"length": [40, 96], "fold": "alpha"})
    lengths = model.plan(50)["length"]
    assert lengths[:3] == model.plan(3)["length"] and min(lengths) < 44 and max(lengths) > 92


def test_samples_are_written_with_what_draws_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    call = [
        "sample",
        str(run),
        "-n",
        "3",
        "label=4",
        "--sampler",
        "Heun(2)",
        "--guidance",
        "APG(2)",
        "--seed",
        "5",
        "--out",
        str(out),
    ]
    assert main(call) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] and manifest["seed"] == 5 and manifest["request"]["label"] == "4"
    assert manifest["command"] == shlex.join(["gendiff", *call])
    assert manifest["sampler"].startswith("Heun(steps=2") and manifest["guidance"].startswith("APG(")
    assert sorted(p.name for p in out.iterdir()) == ["0000.png", "0001.png", "0002.png", "all.png", "manifest.json"]
    assert main(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite"]) == 0
    start = ["sample", str(run), "-n", "1", "--start", str(out / "0000.png"), "--strength", "0.01", "--steps", "8"]
    assert main([*start, "label=4", "--guidance", "1", "--out", str(tmp_path / "t")]) == 0
    model = gendiff.load(run)
    near = model.domain.read(tmp_path / "t" / "0000.png") - model.domain.read(out / "0000.png")
    assert near.abs().max() < 0.2


def test_samples_without_a_folder_get_one_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_folder("samples") == Path("samples")
    for name in ("samples", "samples-2"):
        Path(name).mkdir()
    assert free_folder("samples") == Path("samples-3")


def test_what_is_drawn_before_an_end_is_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Images.write, []

    def interrupted(self: Images, artifact: Any, path: Any) -> None:
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        write(self, artifact, path)

    monkeypatch.setattr(Images, "write", interrupted)
    call = ["sample", str(run), "-n", "10", "--batch", "2", "--steps", "1", "--out", str(tmp_path / "s")]
    assert main(call) == 130
    assert sorted(p.name for p in (tmp_path / "s").glob("0*.png")) == [f"000{i}.png" for i in range(4)]
    assert not json.loads((tmp_path / "s" / "manifest.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "RUN", "--sampler", "Hein(3)"], 'Did you mean "Heun"'),
        (["sample", "RUN", "--sampler", "VP"], "no sampler 'VP'"),
        (["sample", "RUN", "--format", "pdb"], r"does not write .pdb"),
        (["sample", "RUN", "--guidance", "strong"], "a rule with its numbers"),
        (["sample", "RUN", "--strength", "0.5"], "--strength without --start"),
        (["sample", "RUN", "label=ten"], "is not a class"),
        (["sample", "RUN", "lable=3"], 'Did you mean "label"'),
        (["sample", "RUN", "--device", "cuba"], "cuba"),
        (["train", "images.folder"], "needs PATH"),
        (["train", "images.folder", "nowhere"], "no folder 'nowhere'"),
        (["train", "audio.folder", "nowhere"], "no folder 'nowhere'"),
        (["train", "proteins.folder", "nowhere"], "no folder 'nowhere'"),
        (["train", "images.digits", "pictures"], "gendiff train images.folder pictures"),
        (["train", "bad.json"], "JSON"),
        (["report", "nowhere"], "no folder nowhere"),
        (["report", "."], "no model in ."),
        (["train", "images.digits", "--from", "nomodel", "--out", "bad.json"], "nomodel"),  # before the folder is made
        (["train", "images.digits", "--out", "bad.json"], "Choose a folder that can be written"),
        (["train", "images.digits", "trainer.minutes=0"], "trainer.minutes=None"),
        (["sample", "RUN", "--out", "bad.json"], "bad.json is a file"),
        (["sample", "RUN", "--out", "/proc/x"], "Name another: --out FOLDER"),
        (["sample", "RUN", "--out", "bad.json/x"], "Name another: --out FOLDER"),
        (["evaluate", "RUN", "label=sevens"], "is not a class"),
        (["evaluate", "RUN", "label=ten"], "is not a class"),
    ],
)
def test_mistakes_are_answered(
    arguments: list[str], message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{'name': 1}")
    assert main([str(run) if word == "RUN" else word for word in arguments]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.json"]  # nothing was begun


@pytest.mark.parametrize(
    "words", [["-n", "0"], ["-n", "many"], ["--batch", "-1"], ["--seed", "-1"], ["--strength", "2"]]
)
def test_numbers_that_cannot_be_are_refused(words: list[str], run: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sample", str(run), *words])


def test_info_says_what_may_be_asked(run: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run)]) == 0
    out = capsys.readouterr().out
    assert "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in out and "guidance     1.5" in out and "parameters" in out
    assert "trained      3 steps, " in out and " s, 1500 examples, float32" in out
    assert main(["info", str(root / "weights" / "proteins_backbones.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "length=96   40 to 96 in training" in out and "ca_step_share" in out
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["name"] == "images.tiny"


def test_a_run_has_its_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    assert main(["report", str(run), "-n", "3", "--out", str(out)]) == 0
    page = out.read_text()
    assert all(
        text in page for text in ("Training loss", "Generated", "Test data", "images.tiny", "data:image/png;base64")
    )


def pictures(home: Path, count: int = 24) -> None:
    """Class folders of noisy pictures, red and blue, 40 by 30 pixels, with a caption beside each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, channel in (("1", 0), ("none", 2)):
        (home / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (30, 40, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(home / name / f"{i}.png")


def test_a_folder_of_pictures_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    changes = ["trainer.steps=2", "trainer.show=0", "network.channels=8", "trainer.batch=4"]
    assert main(["train", "images.folder", "mine", *changes, "--quiet", "--seed", "3", "--out", "run"]) == 0
    recipe = Recipe.load("run/recipe.json")
    domain: Any = recipe.domain
    assert (domain.size, domain.channels, domain.classes, recipe.trainer.seed) == (24, 3, ("1", "none"), 3)
    assert main(["sample", "run", "label=none", "-n", "2", "--steps", "1", "--out", "drawn"]) == 0
    monkeypatch.chdir(tmp_path.parent)  # the folder is known from anywhere
    assert main(["evaluate", str(tmp_path / "run"), "label=1", "-n", "4", "--halves", "0"]) == 0
    monkeypatch.chdir(tmp_path)
    assert (
        main(["train", "images.folder", "mine", "--size", "8", "--flip", "true", *changes, "--quiet", "--out", "other"])
        == 0
    )
    domain = Recipe.load("other/recipe.json").domain
    assert domain.size == 8 and domain.flip


@pytest.mark.filterwarnings("default")
def test_a_run_tells_what_it_learns_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "mine")
    (tmp_path / "mine" / "lost").mkdir()
    (tmp_path / "mine" / "lost" / "broken.png").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "mine" / "1" / "pipe.png")  # which would never be read to its end
    changes = [
        "trainer.steps=2",
        "trainer.show=0",
        "network.channels=8",
        "trainer.batch=4",
        "domain.source.test_share=0",
    ]
    call = ["train", "images.folder", str(tmp_path / "mine"), *changes, "--quiet", "--out", str(tmp_path / "run")]
    assert main(call) == 0
    said = capsys.readouterr().err
    assert "48 read, 2 rejected" in said and "broken.png" in said
    assert "images.folder: 48 examples; label: 1 24, lost 0, none 24." in said
    assert "label: nothing to learn from: lost." in said
    assert "The warm-up of 100 steps is longer than the run of 2" in said


def test_pictures_kept_apart_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "mine")
    recipe = images.folder(str(tmp_path / "mine")).override("domain.source.test_share=0.5")
    train_set, test_set = (recipe.domain.dataset(split) for split in ("train", "test"))
    assert (
        about_examples(recipe, train_set)[1] == f"images.folder: {len(test_set)} more are test pictures, to judge by."
    )
    assert not test_set.notes and len(test_set) > 0


def test_a_folder_of_few_pictures_says_what_is_missing(tmp_path: Path) -> None:
    pictures(tmp_path / "mine")
    (tmp_path / "mine" / "wolves").mkdir()
    recipe = images.folder(str(tmp_path / "mine")).override("domain.source.test_share=1e-9")
    notes = recipe.domain.dataset("train").notes
    assert "nothing can be judged" in notes[0] and notes[1] == "no class, without a picture: wolves"


def test_a_size_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "mine")
    for option in ("--size", "--channels"):
        assert main(["train", "images.folder", str(tmp_path / "mine"), option, "0", "--out", str(tmp_path / "r")]) == 2
        assert "RequestError" in capsys.readouterr().err


def test_a_line_to_type_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["trainer.steps=1", "trainer.show=0", "network.channels=8", "--quiet"]
    assert main(["train", "images.digits", *changes, "--out", str(tmp_path / "my run")]) == 0
    said = capsys.readouterr().out
    assert shlex.split(said.split("sample it: ")[1])[2] == str(tmp_path / "my run")
    (tmp_path / "my samples").mkdir()
    (tmp_path / "my samples" / "0000.png").touch()
    assert main(["sample", str(tmp_path / "my run"), "-n", "1", "--out", str(tmp_path / "my samples")]) == 2
    assert f"--out '{tmp_path / 'my samples-2'}'" in capsys.readouterr().err


def test_a_wrong_option_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "images.folder", "pictures", "--sise", "32"])
    assert 'Did you mean "--size"?' in capsys.readouterr().err


def test_a_used_folder_is_refused_before_the_data_are_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "images.folder", "nowhere", "--out", str(run)]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["train", "images.folder", "nowhere", "--out", str(run), "--overwrite"]) == 2
    assert "no folder 'nowhere'" in capsys.readouterr().err
    assert (run / "model.safetensors").exists()


def test_a_folder_of_grey_pictures_is_grey(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(30):
        Image.fromarray(np.full((70, 90), 5 * i, np.uint8)).save(tmp_path / f"{i}.png")
    recipe = images.folder(str(tmp_path))
    domain: Any = recipe.domain
    assert (domain.size, domain.channels, domain.classes, recipe.guidance, recipe.drop) == (64, 1, (), 1.0, 0.0)


def test_a_folder_of_recordings_with_a_table(tmp_path: Path) -> None:
    import soundfile

    rng = np.random.default_rng(0)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for i in range(30):
            soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.normal(size=16000), 22050)
            table.writerow([f"{i}.wav", "ab"[i % 2]])
    from gendiff_recipes import audio

    recipe = audio.folder(str(tmp_path), labels=str(tmp_path / "labels.csv"))
    domain: Any = recipe.domain
    assert domain.spectrogram.sample_rate == domain.source.prepare.sample_rate == 22050
    assert domain.labels == {"label": ("a", "b")} and recipe.guidance == 1.5
    assert len(domain.dataset("train")) + len(domain.dataset("test")) == 30


def test_a_folder_of_structures(tmp_path: Path) -> None:
    from gendiff_proteins import Ideal, write
    from gendiff_recipes import proteins

    for e in Ideal(count=24, min_length=20, max_length=50).load("train"):
        write(e.artifact, tmp_path / f"{e.name}.pdb")
    recipe = proteins.folder(str(tmp_path))
    domain: Any = recipe.domain
    assert 20 <= domain.source.min_length < domain.source.max_length <= 50
    assert len(domain.dataset("train")) + len(domain.dataset("test")) == 24
    assert proteins.folder(str(tmp_path), max_length=30).domain.source.max_length == 30  # type: ignore[attr-defined]


def test_an_empty_variable_is_no_data_folder(root: Path) -> None:
    code = "import conftest, os; print(os.environ.get('GENDIFF_DATA') or 'unset')"
    out = python(
        f"import sys; sys.path.insert(0, {str(root / 'tests')!r}); {code}", root, GENDIFF_DATA=""
    ).stdout.strip()
    beside = root.parent / "shared" / "data"
    assert out == (str(beside) if beside.is_dir() else "unset")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "images.digits", "--minutes", "0"], "no positive number of minutes"),
        (["train", "images.digits", "--minutes", "nan"], "no positive number of minutes"),
        (["demo", "--minutes", "-1"], "no positive number of minutes"),
        (["evaluate", "RUN", "--json", "nowhere/e.json"], "name a file in a folder that is there"),
        (["evaluate", "RUN", "--csv", "."], "a folder"),
        (["report", "RUN", "--out", "nowhere/r.html"], "name a file in a folder that is there"),
    ],
)
def test_options_that_cannot_be_are_refused_in_the_words_of_the_shell(
    words: list[str], message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([str(run) if word == "RUN" else word for word in words])
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_weights_to_begin_from_are_refused_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("the data were read")

    monkeypatch.setattr(Images, "dataset", read)
    with pytest.raises(gendiff.errors.GendiffError, match="nomodel"):
        train(images.digits(), tmp_path / "run", start="nomodel", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_told_from_a_place_that_cannot_be_written() -> None:
    for number, fix in ((errno.ENOSPC, "Make room and resume"), (errno.EACCES, "--out FOLDER")):
        with pytest.raises(RunError, match=fix), written("x", "room"):
            raise OSError(number, os.strerror(number))


def test_too_few_real_examples_are_said_in_short(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gendiff.load(run)
    few = model.domain.dataset("test")[:1]
    monkeypatch.setattr(Images, "dataset", lambda self, split, root=None: few)
    name = model.domain.labels["label"][int(few[0].cond["label"])]
    with pytest.raises(DataError, match=f"images hold 1 training and 1 test examples of label={name}") as error:
        evaluate(model, 4, label=name)
    assert "Images(" not in str(error.value)


def test_the_nearest_name_is_the_singular_in_any_case() -> None:
    assert nearest("cats", ["coats", "Cat", "car"]) == ' Did you mean "Cat"?'
    assert nearest("CATS", ["boats", "cat"]) == ' Did you mean "cat"?'
    assert nearest("caption", ["captions", "option"]) == ' Did you mean "captions"?'
    assert nearest("xyz", ["cat"]) == ""


@dataclass(frozen=True)
class Rows(Domain):
    """States [length, 1] of any length, and as many numbers as artifacts."""

    name = "rows"
    ragged = True

    @property
    def process(self) -> Any:
        return gendiff.Gaussian(gendiff.VP())

    def encode(self, artifact: Any) -> torch.Tensor:
        return artifact[:, None]

    def decode(self, x: Any) -> Any:
        return x[:, 0]

    def request(self, n: int, *args: Any, length: Any = 10, **what: Any) -> Request:
        lengths = torch.tensor(length if isinstance(length, list) else [length] * n)
        longest = int(lengths.max())
        return Request(torch.zeros(n, longest, 1), {"mask": torch.arange(longest)[None] < lengths[:, None]})

    def network(self, **size: Any) -> Any:
        raise NotImplementedError

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return Examples([Example(torch.zeros(length)) for length in range(10, 101)])

    def ranges(self) -> dict[str, tuple[float, float]]:
        return {"length": (10, 100)}


def test_real_examples_are_asked_for_lengths_as_the_samples_are() -> None:
    domain = Rows()
    for what, expected in (
        ({"length": 80}, range(72, 89)),
        ({"length": [20, 80]}, [*range(18, 23), *range(72, 89)]),
        ({}, range(10, 101)),
    ):
        lengths = asked_lengths(domain, 2, what, what)
        found = asked_for(domain, domain.dataset("test"), what, lengths)
        assert [len(example.artifact) for example in found] == list(expected)


def test_an_error_is_made_of_sentences() -> None:
    error = gendiff.errors.GendiffError
    assert str(error("n=0", "a positive number", "n=1")) == "n=0; expected a positive number. n=1."
    assert str(error("There is none.", "it is not installed", "pip install x")) == (
        "There is none; it is not installed. pip install x."
    )
    assert str(error("There is none", "Name one")) == "There is none. Name one."
    assert str(error("a", fix="Do b")) == "a. Do b." and str(error("a")) == "a."


def test_a_folder_with_captions_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    home, run = tmp_path / "mine", tmp_path / "run"
    home.mkdir()
    for i in range(12):
        kind = ("red", "blue")[i % 2]
        Image.fromarray(np.full((16, 16, 3), 10 * i, np.uint8)).save(home / f"{i}.png")
        (home / f"{i}.txt").write_text(f"a {kind} card", encoding="utf8")
    changes = ["trainer.steps=2", "trainer.show=0", "network.channels=8,8", "trainer.batch=4"]
    call = ["train", "images.folder", str(home), "--captions", "txt", *changes, "--quiet", "--out", str(run)]
    assert main(call) == 0
    assert 'caption: a text of 4 known words, such as "a blue card"' in capsys.readouterr().err
    assert main(["info", str(run)]) == 0
    assert "caption='a blue card'" in capsys.readouterr().out
    asked = ["caption=a red card", "-n", "2", "--guidance", "{'caption': 3}", "--sampler", "Euler(2)"]
    assert main(["sample", str(run), *asked, "--out", str(tmp_path / "drawn")]) == 0
    manifest = json.loads((tmp_path / "drawn" / "manifest.json").read_text())
    assert manifest["request"]["caption"] == "a red card"
    capsys.readouterr()
    assert main(["sample", str(run), "caption=a rde card", "--out", str(tmp_path / "more")]) != 0
    assert "'rde' (number 2 of 'a rde card') was never seen" in capsys.readouterr().err


def test_sigterm_stops_a_command_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    from gendiff.cli import commands

    class Waits:
        help = "wait"

        def arguments(self, parser: Any, words: Any) -> None:
            pass

        def run(self, args: Any) -> None:
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("3 of 9 samples are in there") from None

    monkeypatch.setitem(commands.BUILT_IN, "waits", Waits())
    before = signal.getsignal(signal.SIGTERM)
    assert main(["waits"]) == 143
    assert "Stopped. 3 of 9 samples are in there" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
