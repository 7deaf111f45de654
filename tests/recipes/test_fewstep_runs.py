"""Runs that learn few steps: exact after any interruption, the teacher kept, saved, loaded and asked like any other."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import gendiff
from benchmarks.interruptions import Chains, Cut, Pairs, bits, cut_at, recipe
from gendiff import Adams, Heun, LoRA, Uniform
from gendiff.cli import main
from gendiff.errors import CheckpointError, GendiffError, RecipeError, RequestWarning, SamplerError
from gendiff.sampling.solvers import DDIM, Consistency, FlowMap
from gendiff.training import (
    ConsistencyTraining,
    ContinuousConsistency,
    DistributionMatching,
    FewStep,
    GuidanceDistillation,
    ImportanceTimes,
    MeanFlow,
    MomentMatching,
    Progressive,
    Reflow,
    ScoreRegularized,
    Shortcut,
)
from gendiff_recipes import audio, images, proteins
from gendiff_recipes.distill import NAMES
from gendiff_recipes.fewstep import METHODS, student, taught
from gendiff_recipes.recipe import Recipe
from gendiff_recipes.start import BASE
from gendiff_recipes.training import train

pytestmark = pytest.mark.usefixtures("strangers")

METHODS_TRIED: dict[str, FewStep] = {
    "meanflow": MeanFlow(guidance=(1.0, 3.0)),
    "baked": MeanFlow(guidance=2.0),
    "scm": ContinuousConsistency(warmup=0.5),
    "consistency": ConsistencyTraining(stages=3),
    "shortcut": Shortcut(),
    "moments": MomentMatching(),
    "reflow": Reflow(solver=Adams(3)),
    "dmd": DistributionMatching(steps=2, critic=2),
    "rcm": ScoreRegularized(begin=0.5, critic=2, guidance=(1.0, 3.0)),
    "progressive": Progressive(2),
    "guidance": GuidanceDistillation(),
}


def plain(domain: Any = None, steps: int = 8) -> Recipe:
    run = recipe(domain or Pairs(shift=0.5), steps=steps, show=4, measure=0, checkpoint=3)
    return dataclasses.replace(run, times=Uniform())


def short(method: FewStep, domain: Any = None, steps: int = 8) -> Recipe:
    return student(plain(domain, steps), method, 2)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, strangers: None) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("teachers")
    for domain in (Pairs(shift=0.5), Chains(shift=0.5)):
        train(plain(domain), out / domain.name, quiet=True)
    return {domain: out / domain for domain in ("pairs", "chains")}


@pytest.mark.parametrize("name", METHODS_TRIED)
@pytest.mark.parametrize("domain", [Pairs(shift=0.5), Chains(shift=0.5)], ids=["flat", "ragged"])
def test_a_run_that_was_cut_anywhere_ends_in_the_same_bits(
    name: str, domain: Pairs, teachers: dict[str, Path], tmp_path: Path
) -> None:
    """The critic's weights and moments are part of that; the teacher's bits stay; what comes out is asked as any."""
    method = METHODS_TRIED[name]
    if isinstance(method, MomentMatching) and domain.ragged:
        with pytest.raises(RecipeError, match="several sizes"):
            train(short(method, domain), tmp_path / "no", quiet=True)
        return
    teacher = None if method.taught is False else teachers[domain.name]
    before = None if teacher is None else (teacher / "model.safetensors").read_bytes()
    run = short(method, domain)
    whole = train(run, tmp_path / "whole", quiet=True, start=teacher)
    for step in (1, 4, 7):
        out = tmp_path / f"cut{step}"
        with pytest.raises(Cut), cut_at(step, ("before", "stepped", "averaged", "reported")[step % 4]):
            train(run, out, quiet=True, start=teacher)
        train(run, out, quiet=True, resume=True)
        assert bits(out) == bits(tmp_path / "whole"), step
    if teacher is not None:
        assert (teacher / "model.safetensors").read_bytes() == before
    again = gendiff.load(tmp_path / "whole")
    assert again.sampler == method.sampler(2)
    guidance = 2.0 if method.told else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = (model.sample(5, seed=1, guidance=guidance) for model in (whole, again))
        one = again.sample(5, seed=1, guidance=guidance, batch=2)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a, one, strict=True))


@pytest.mark.parametrize("method", [MeanFlow(), Shortcut(), ContinuousConsistency(), ConsistencyTraining()], ids=str)
def test_from_data_without_a_teacher(method: FewStep, tmp_path: Path) -> None:
    run = short(method)
    train(run, tmp_path / "whole", quiet=True)
    with pytest.raises(Cut), cut_at(5, "before"):
        train(run, tmp_path / "cut", quiet=True)
    train(run, tmp_path / "cut", quiet=True, resume=True)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_the_teacher_is_found_again_or_asked_for(teachers: dict[str, Path], tmp_path: Path) -> None:
    run = short(Progressive(2))
    with pytest.raises(RecipeError, match=r"no model to learn from.*--from MODEL"):
        train(run, tmp_path / "none", quiet=True)
    moved = shutil.copytree(teachers["pairs"], tmp_path / "moved")
    out = tmp_path / "run"
    with pytest.raises(Cut), cut_at(5, "before"):
        train(run, out, quiet=True, start=moved)
    (moved / "model.safetensors").rename(tmp_path / "away.safetensors")
    with pytest.raises(CheckpointError, match=r"is not there.*start=BASE"):
        train(run, out, quiet=True, resume=True)
    train(run, out, quiet=True, resume=True, start=tmp_path / "away.safetensors")
    train(run, tmp_path / "whole", quiet=True, start=teachers["pairs"])
    assert bits(out) == bits(tmp_path / "whole")
    model = gendiff.load(teachers["pairs"])
    model.origin = None  # a teacher that is in no file is kept beside the run
    with pytest.raises(Cut), cut_at(5, "before"):
        train(run, tmp_path / "kept", quiet=True, start=model)
    assert (tmp_path / "kept" / BASE).exists()
    train(run, tmp_path / "kept", quiet=True, resume=True)
    assert bits(tmp_path / "kept") == bits(out)


def test_a_student_is_asked_as_any_model(teachers: dict[str, Path], tmp_path: Path) -> None:
    baked = train(short(MeanFlow()), tmp_path / "baked", quiet=True, start=teachers["pairs"])
    with pytest.raises(SamplerError, match="whole jumps"):
        baked.sample(2, guidance=2.0)
    baked.sample(2, guidance=2.0, sampler=Heun(4))  # a denoiser to every other solver
    assert len(baked.sample(3, steps=1)) == 3
    teacher = gendiff.load(teachers["pairs"])
    with pytest.raises(SamplerError, match="not told the time"):
        teacher.sample(2, sampler=FlowMap(2))
    told = train(short(MeanFlow(guidance=(1.0, 3.0))), tmp_path / "told", quiet=True, start=teachers["pairs"])
    with torch.no_grad():  # so that the scale says something
        for p in told.denoiser.network.jumps.scale.parameters():
            p.add_(0.03)
    weak, strong = (told.sample(2, guidance=w, seed=0)[0] for w in (1.0, 3.0))
    assert not torch.equal(weak, strong)
    each = told.sample(2, guidance=[1.0, 3.0], seed=0)
    assert torch.equal(each[0], weak)
    assert torch.equal(each[1], told.sample(2, guidance=3.0, seed=0)[1])
    for far in (9.0, [1.0, 9.0]):
        with pytest.warns(RequestWarning, match="guidance=9 is outside what this model was trained on, 1 to 3"):
            told.sample(2, guidance=far)
    with pytest.raises(SamplerError, match="a number, or one for each sample"):
        told.sample(2, guidance={"kind": 2.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = told.calibrate(2, pilots=16, fine=12, rounds=1)
        assert told.sample(2, steps=2, guidance=1.0)
        few = baked.calibrate(2, pilots=16, fine=12, rounds=1, solver=FlowMap())
    assert found.tables or found.notes
    assert few.solver == FlowMap() or few.notes


def test_what_cannot_be_combined_is_refused(teachers: dict[str, Path], tmp_path: Path) -> None:
    run = short(MeanFlow())
    for field, value in (("times", ImportanceTimes()), ("adapter", LoRA(2))):
        with pytest.raises(RecipeError, match=field):
            dataclasses.replace(run, **{field: value})
    with pytest.raises(RecipeError, match="trainer"):
        run.override("trainer.compile=true")
    with pytest.raises(RecipeError, match=r"network\.jumps=true"):
        train(dataclasses.replace(run, network={}), tmp_path / "a", quiet=True, start=teachers["pairs"])
    other = run.override("process=VP")
    with pytest.raises(RecipeError, match="the teacher's process"):
        train(other, tmp_path / "b", quiet=True, start=teachers["pairs"])


@dataclass(frozen=True)
class Silent(Pairs):
    """Of which nothing can be asked."""

    name: ClassVar[str] = "silent"

    @property
    def conditions(self) -> dict[str, Any]:
        return {}


def test_critics_are_of_one_process_and_guidance_of_conditions() -> None:
    run = short(DistributionMatching())
    for change in ("trainer.devices=2", "trainer.nodes=2", "trainer.accumulate=2"):
        with pytest.raises(RecipeError, match="critic is of one process"):
            run.override(change)
    short(MeanFlow()).override("trainer.devices=2")
    with pytest.raises(RecipeError, match="nothing is guided"):
        student(dataclasses.replace(plain(), domain=Silent(), drop=0.0), MeanFlow(guidance=2.0), 2)


def distilled(*words: str) -> None:
    model, *rest = words
    assert main(["distill", model, "trainer.steps=4", "trainer.minutes=none", *rest, "--quiet"]) == 0


@pytest.mark.parametrize("name", METHODS)
def test_distill_from_the_command_line(name: str, teachers: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / name
    distilled(str(teachers["pairs"]), "--method", name, "--steps", "1,2", "--first", "4", "--out", str(out))
    told = capsys.readouterr().out
    folders = {"progressive": ["steps4", "steps2", "steps1"], "reflow": ["round1", "round2"]}.get(name, ["."])
    for folder in folders:
        model = gendiff.load(out / folder)
        assert str(out / folder / "model.safetensors") in told.replace("/./", "/") or folder == "."
        assert model.recipe["method"]["kind"] == METHODS[name].__name__
        assert model.sample(2)
    if name == "progressive":
        assert [gendiff.load(out / folder).sampler.steps for folder in folders] == [4, 2, 1]
        assert isinstance(gendiff.load(out / "steps1").sampler, DDIM)
        stamp = (out / "steps4" / "model.safetensors").stat().st_mtime_ns
        shutil.rmtree(out / "steps1")
        distilled(
            str(teachers["pairs"]), "--method", name, "--steps", "1,2", "--first", "4", "--out", str(out), "--resume"
        )  # fmt: skip
        assert (out / "steps4" / "model.safetensors").stat().st_mtime_ns == stamp
        assert (out / "steps1" / "model.safetensors").exists()


def test_distill_says_what_it_cannot_do(teachers: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    for words, said in (
        (["--method", "meanflaw"], "meanflow"),
        (["--steps", "one"], "whole numbers"),
        (["--steps", "0"], "1 or more"),
        (["--guidance", "strong"], "a number, or the two ends"),
        (["--method", "progressive", "--steps", "3", "--first", "8"], "some of [8, 4, 2, 1]"),
        (["--method", "progressive", "--steps", "1", "--first", "12"], "some of [12, 6, 3]"),
    ):
        assert main(["distill", str(teachers["pairs"]), "--out", str(tmp_path / "x"), *words]) != 0
        assert said in capsys.readouterr().err
    assert tuple(METHODS) == NAMES
    model = gendiff.load(teachers["pairs"])
    model.recipe = {}
    with pytest.raises(GendiffError, match="without a recipe"):
        taught(model)


def test_the_recipes_of_few_steps_are_whole() -> None:
    for make, solver in (
        (images.fashion_meanflow, FlowMap),
        (images.cifar10_consistency, Consistency),
        (audio.fsdd_meanflow, FlowMap),
        (proteins.backbones_shortcut, FlowMap),
    ):
        found = make()
        assert found.method is not None
        assert isinstance(found.sampler, solver)
        again = Recipe.of(json.loads(json.dumps(found.config())))
        assert again.config() == found.config()
        network = again.build()
        again.method.expect(network, again.process or again.domain.process, True)  # type: ignore[union-attr]
