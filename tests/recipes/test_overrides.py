"""What can be said of a recipe by name: kinds, their fields, sizes of the network; mistakes are answered."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gendiff import (
    APG,
    DDPM,
    SO3,
    VP,
    X0,
    Centered,
    Exponential,
    Gaussian,
    Geodesic,
    GuidanceInterval,
    Heads,
    Heun,
    Joint,
    Karras,
    Linear,
    PowerGrid,
    SASolver,
    Tangent,
    Uniform,
    V,
)  # fmt: skip
from gendiff.cli.expressions import known_kinds, parse_kind, parse_object
from gendiff.errors import GendiffError, RecipeError
from gendiff.sampling.solvers import Solver
from gendiff.training import Objective, Term
from gendiff_images import Arrays, Images
from gendiff_recipes import audio, images, proteins
from gendiff_recipes.overrides import listing
from gendiff_recipes.recipe import Optimizer, Recipe, Trainer


def said(recipe: Recipe, text: str) -> Any:
    """What stands at the path after it was said."""
    value: Any = recipe.override(text)
    for key in text.partition("=")[0].split("."):
        parts = value.parts if isinstance(value, Joint | Heads) else value
        value = parts[key] if isinstance(parts, dict) else getattr(parts, key)
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("head=V", V()),
        ("process=VP", Gaussian(VP())),  # a schedule in the place of a process changes its schedule
        ("process=Gaussian(VP(0.2))", Gaussian(VP(0.2))),
        ("process.schedule=VP", VP()),
        ("sampler=Heun", Heun(12, times=PowerGrid(1.1))),  # steps and grid are those of every solver
        ("sampler=Heun(18)", Heun(18)),
        ("sampler=Heun(18, times=Karras(rho=5))", Heun(18, times=Karras(rho=5))),
        ("sampler.steps=18", 18),
        ("sampler.times=Karras", Karras()),
        ("sampler.times.power=2", 2.0),
        ("times=Uniform", Uniform()),
        ("network.channels=32,64", (32, 64)),
        ("network.channels=(32, 64)", (32, 64)),
        ("network.channels=32", (32,)),
        ("network.dropout=0.1", 0.1),
        ("optimizer.betas=(0.8, 0.95)", (0.8, 0.95)),
        ("optimizer=Optimizer(lr=2e-4)", Optimizer(lr=2e-4)),
        ("optimizer.clip=2", 2.0),
        ("trainer.minutes=none", None),
        ("trainer.steps=100", 100),
        ("trainer.logger=csv", ("csv",)),
        ("trainer.logger=csv,wandb", ("csv", "wandb")),
        ("trainer.precision=bfloat16", "bfloat16"),
        ("domain.flip=true", True),
        ("name=1", "1"),  # a text stays a text
    ],
)
def test_kinds_and_fields_by_name(text: str, value: Any) -> None:
    found = said(images.fashion(), text)
    assert found == value and type(found) is type(value)


def test_a_kind_of_a_slot_that_the_domain_fills() -> None:
    recipe = proteins.ideal()
    assert said(recipe, "process.pos.schedule=VP") == VP()
    assert recipe.override("process.pos=Gaussian(VP(), Centered())").process == Joint(
        pos=Gaussian(VP(), Centered()), rot=Geodesic(SO3(), Exponential(3.0))
    )
    assert recipe.override("head.pos=X0").head == Heads(pos=X0(), rot=Tangent())
    assert recipe.override("objective.parts.rot=0.25").objective.parts == {"rot": 0.25}
    terms = recipe.override("objective.auxiliary.geometry.weight=2", "objective.auxiliary.geometry.window=(0.0, 0.3)")
    assert terms.objective.auxiliary == {"geometry": Term(2.0, (0.0, 0.3))}
    assert Recipe.of(terms.config()).objective == terms.objective
    assert recipe.override("objective.auxiliary=0.0").objective.auxiliary == 0
    assert audio.tones().override("sampler=DDPM(40)").sampler == DDPM(40)


def test_changes_are_made_in_their_order() -> None:
    recipe = images.fashion().override("process=VP", "process.schedule.beta_max=10", "sampler=Heun", "sampler.steps=9")
    assert recipe.process == Gaussian(VP(beta_max=10.0)) and recipe.sampler == Heun(9, times=PowerGrid(1.1))
    assert Recipe.of(recipe.config()) == recipe


def test_another_source_brings_its_size_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    np.savez(tmp_path / "own.npz", x=np.zeros((3, 8, 8, 3), np.uint8), y=[0, 1, 1], classes=["a", "b"])
    monkeypatch.chdir(tmp_path)
    domain = images.fashion().override("domain.source=Arrays('own.npz')").domain
    assert isinstance(domain, Images) and domain.source == Arrays("own.npz")
    assert (domain.size, domain.channels, domain.classes) == (8, 3, ("a", "b"))
    other = ["domain.source=Arrays('own.npz')", "domain.mean=0.25", "domain.flip=true"]
    for changes in (other, other[::-1]):  # what is said beside the source holds
        domain = images.fashion().override(*changes).domain
        assert isinstance(domain, Images) and (domain.size, domain.mean, domain.flip) == (8, 0.25, True)


@pytest.mark.parametrize(
    ("make", "text", "message"),
    [
        (images.fashion, "network.width=192", r"a U-Net has these.*network\.channels=none network\.width=192"),
        (proteins.ideal, "network.channels=8", r"has no 'channels'\. It has .*width, depth, heads, pair"),
        (audio.tones, "network.chanels=8", 'Did you mean "channels"'),
        (images.fashion, "network.blocks=0", "at least 1"),
        (proteins.ideal, "network.depth=0", "at least 1"),
        (proteins.ideal, "network.heads=1.5", "of type int"),
        (images.fashion, "sampler=Hein", r"no sampler 'Hein'.*Did you mean \"Heun\""),
        (images.fashion, "sampler=Hein(3)", r"no sampler 'Hein'.*Did you mean \"Heun\""),
        (images.fashion, "sampler=Heun(stepz=3)", 'Did you mean "steps"'),
        (images.fashion, "sampler=Heun(18, times=Karas())", 'Did you mean "Karras"'),
        (images.fashion, "sampler.times=VP", r"no times 'VP'.*PowerGrid"),
        (images.fashion, "head=VP", r"Known: .*Velocity"),
        (images.fashion, "head=Head", "no head 'Head'|is the interface"),
        (images.fashion, "process.shedule=VP", 'Did you mean "schedule"'),
        (images.fashion, "domain.source.path=x", r"is Fashion, which has no 'path'.*domain\.source=\w+\(\.\.\.\)"),
        (proteins.ideal, "process=VP", r"process\.pos=VP, process\.rot=VP"),
        (proteins.ideal, "objective.parts.rto=1", 'Did you mean "rot"'),
        (proteins.ideal, "objective.auxiliary.geomtry.weight=1", 'Did you mean "geometry"'),
        (proteins.ideal, 'objective.auxiliary={"geomtry": 1.0}', 'Did you mean "geometry"'),
        (images.fashion, "objective=3", "Known: Objective"),
        (images.fashion, "optimizer.betas=0.8", r"tuple\[float, float\]"),
        (images.fashion, "trainer.compile=3", "of type bool"),
        (images.fashion, "trainer.steps=", "of type int"),
        (images.fashion, "sampler=__import__('os').system('true')", "got|no sampler"),
        (images.fashion, "sampler=" + "(" * 5000, "no sampler"),
    ],
)
def test_mistakes_are_answered_for_their_case(make: Any, text: str, message: str) -> None:
    with pytest.raises(GendiffError, match=message):
        make().override(text)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Trainer, "batch", -4), (Trainer, "steps", 0), (Trainer, "steps", 2.5), (Trainer, "devices", 0),
        (Trainer, "seed", -1), (Trainer, "minutes", 0.0), (Trainer, "minutes", math.nan), (Trainer, "show", -1),
        (Trainer, "precision", "float8"), (Trainer, "accelerator", "cuba"), (Trainer, "checkpoint", -1),
        (Trainer, "cache_gb", 0.0), (Trainer, "cache_gb", math.inf),
        (Optimizer, "lr", 0.0), (Optimizer, "decay", -1.0), (Optimizer, "decay", 1.5), (Optimizer, "clip", -1.0),
        (Optimizer, "betas", (0.9, 1.0)), (Optimizer, "warmup", -3), (Optimizer, "weight_decay", -0.1),
        (Recipe, "ema", 2.0), (Recipe, "drop", 5.0), (Recipe, "limit", 0), (Recipe, "guidance", math.inf),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_where_they_are_written(kind: Any, name: str, value: Any) -> None:
    whole = images.digits()
    owner = {Trainer: whole.trainer, Optimizer: whole.optimizer, Recipe: whole}[kind]
    with pytest.raises(RecipeError, match=f"{kind.__name__} got {name}="):
        dataclasses.replace(owner, **{name: value})


@pytest.mark.parametrize("make", [images.fashion, audio.tones, proteins.ideal])
def test_all_that_is_listed_can_be_said(make: Any) -> None:
    """Every path of --help, with the value that it shows, is an override that changes nothing."""
    recipe = make()
    rows = {path: value for path, value, _, _ in listing(recipe)}
    assert {"head", "process", "sampler.steps", "trainer.steps", "network.channels", "times"} - set(rows) <= {
        "network.channels"
    }
    for path, value in rows.items():
        if value.endswith("...") or not value or path in ("domain", "domain.source"):
            continue
        other = recipe.override(f"{path}={value}")
        own = dataclasses.replace(
            recipe,
            process=other.process and recipe.domain.process,
            head=other.head and recipe.domain.head,
            sampler=recipe.sampler or (other.sampler and recipe.domain.sampler()),
            network=other.network,
        )
        assert other == own, path


KNOWN = known_kinds()


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(GendiffError):
        parse_object(text, KNOWN, "here")


@given(st.integers(1, 99), st.floats(1.0, 9.0), st.sampled_from(["Karras", "LinearGrid"]))
def test_a_repr_is_read_back(steps: int, rho: float, grid: str) -> None:
    solver = Heun(steps, times=Karras(rho=rho) if grid == "Karras" else PowerGrid(rho))
    assert parse_kind(repr(solver), KNOWN, (Solver,), "sampler") == solver
    assert parse_object(repr(Objective()), KNOWN, "x") == Objective()
    for unbounded in (GuidanceInterval(APG(2.0), 0.3), SASolver(20)):  # "inf" was a text
        assert parse_object(repr(unbounded), KNOWN, "x") == unbounded
    assert (parse_object("inf", KNOWN, "x"), parse_object("[-inf, 1]", KNOWN, "x")) == (math.inf, (-math.inf, 1))
    assert parse_object(repr(Gaussian(Linear(), Centered())), KNOWN, "x") == Gaussian(Linear(), Centered())


def captioned() -> Recipe:
    from gendiff import Label, Text
    from gendiff_images import Images

    domain = Images(size=8, channels=1, classes=("a", "b"), asked={"caption": Text(), "style": Label(("x", "y"))})
    return Recipe("own", domain, network={"channels": (8, 8), "blocks": 1}, guidance=2.0)


def test_one_number_for_each_condition_from_the_shell() -> None:
    recipe = captioned()
    assert recipe.override("drop.caption=0.5").drop == {"all": 0.1, "caption": 0.5}
    assert recipe.override("drop.all=0", "drop.style=0.2").drop == {"all": 0.0, "style": 0.2}
    each = {"label": 2.0, "caption": 3.0, "style": 2.0}
    assert recipe.override("guidance.caption=3").guidance == each
    assert recipe.override("guidance={'caption': 3}", "guidance.style=1").guidance == {"caption": 3.0, "style": 1.0}
    assert recipe.override("guidance.caption=3", "guidance=1.5").guidance == 1.5
    with pytest.raises(RecipeError, match='Did you mean "caption"'):
        recipe.override("drop.captoin=1")
    with pytest.raises(RecipeError, match=r'scales by label, caption, style.*Did you mean "style"'):
        recipe.override("guidance={'stile': 1}")
    with pytest.raises(RecipeError, match="a finite number, or one for each"):
        recipe.override("guidance.caption=inf")
    for bad in ("guidance.caption=a", "drop.caption=yes"):
        with pytest.raises(RecipeError, match="a value of type float"):
            recipe.override(bad)
    assert Recipe.of(recipe.override("guidance.caption=3", "drop.caption=0.5").config()).guidance == each


def test_conditions_from_the_shell() -> None:
    from gendiff import PretrainedText, Text

    recipe = captioned()
    other = recipe.override("domain.asked.caption=Text(tokenizer='bpe')", "domain.asked.caption.longest=20")
    assert other.domain.conditions["caption"] == Text(tokenizer="bpe", longest=20)
    assert other.domain.asked.keys() == {"caption", "style"}  # type: ignore[attr-defined]
    named = recipe.override("domain.asked.caption=PretrainedText('clip')").domain.conditions["caption"]
    assert named == PretrainedText("clip")
    with pytest.raises(RecipeError, match='Did you mean "caption"'):
        recipe.override("domain.asked.captions=Text()")
    with pytest.raises(GendiffError, match=r"Known: .*PretrainedText"):
        recipe.override("domain.asked.caption=Heun(3)")
