"""An artifact to look at: pictures by pictures, clips by clips, chains by pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gendiff
from gendiff import Absorbing, Domain, Euler, Example, Examples, Gaussian, Joint, Model, Pairs, Reference, Request
from gendiff.conditions import batch_of
from gendiff.conditions.reference import patches
from gendiff.errors import DataError, RecipeError, RequestError
from gendiff.testing import check_condition, distance, randomised
from gendiff_audio import Audio, Clip, Tones
from gendiff_images import Digits, Images
from gendiff_images.sources import Look, PictureSource
from gendiff_proteins import Ideal, Proteins
from gendiff_recipes import train
from gendiff_recipes.data import Encoded, encode_conditions, same_data
from gendiff_recipes.recipe import Recipe, Trainer

PICTURES = [torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def clips(count: int = 4) -> list[Clip]:
    return [example.artifact for example in Tones(count=count).load("train")]


def beside(examples: Examples) -> Examples:
    """Every second example has the next one as its reference."""
    items = list(examples)
    said = [items[(i + 1) % len(items)].artifact if i % 2 else None for i in range(len(items))]
    return Examples([Example(e.artifact, {"like": own}, e.name) for e, own in zip(items, said, strict=True)])


@gendiff.register
@dataclass(frozen=True)
class LikeDigits(PictureSource):
    """Digits, each with another to look at."""

    def look(self, root: Path | None = None) -> Look:
        return Look(8, 1, (), {"like": Reference(Images(size=8, channels=1), patch=2, layers=1)})

    def load(self, split: str, root: Path | None = None) -> Examples:
        return beside(Examples(list(Digits().load(split))[:16]))

    def describe(self) -> str:
        return "digits"


@gendiff.register
@dataclass(frozen=True)
class LikeTones(Tones):
    """Tones, each with another to look at."""

    @property
    def conditions(self) -> dict[str, Any]:
        return {"like": Reference(Audio(), layers=1)}

    def load(self, split: str, root: Path | None = None) -> Examples:
        return beside(super().load(split, root))


LAWS: dict[str, Any] = {
    "pictures": lambda: (Reference(Images(size=8, channels=1)), PICTURES),
    "pictures in patches of 3": lambda: (Reference(Images(size=8, channels=1), patch=3, pooled=False), PICTURES),
    "clips": lambda: (Reference(Audio(), layers=1), clips()),
    "clips by 4 frames": lambda: (Reference(Audio(), patch=4, layers=0), clips()),
    "chains": lambda: (Reference(Proteins(source=Ideal())), [e.artifact for e in Ideal(3).load("train")]),
}


@pytest.mark.parametrize("name", LAWS)
def test_references_obey_the_laws_of_a_condition(name: str) -> None:
    own, values = LAWS[name]()
    fitted = own.fit([*values, None])
    check_condition(fitted, values[:3])
    assert fitted.fit(values[:1]) == fitted  # once
    assert fitted.domain == own.domain.fit(values)


def test_patches_hold_every_number() -> None:
    x = torch.arange(2 * 3 * 5.0).reshape(2, 3, 5) + 1
    found, grid = patches(x, 2)
    assert grid == (2, 3) and found.shape == (6, 8)
    assert found[0].tolist() == [1, 2, 6, 7, 16, 17, 21, 22] and found[2].tolist()[:4] == [5, 0, 10, 0]
    assert found.sum() == x.sum()


class Letters(Domain):
    """Classes beside numbers, without sites of a grid."""

    name = "letters"

    @property
    def process(self) -> Any:
        return Joint(kind=Absorbing(3), x=Gaussian())

    def encode(self, artifact: Any) -> Any:
        return {"kind": torch.tensor(artifact), "x": torch.zeros(len(artifact), 2)}

    def decode(self, x: Any) -> Any:
        return x

    def request(self, n: int, *args: Any, **what: Any) -> Request:
        raise NotImplementedError

    def network(self, **size: Any) -> Any:
        raise NotImplementedError

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return Examples([])


def test_classes_are_told_as_one_of_k() -> None:
    ragged = type("Ragged", (Letters,), {"ragged": True})()
    found = Reference(ragged).sites_of([0, 2])[0]
    assert found.tolist() == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert Reference(Letters()).sites_of([0, 2])[0].tolist() == [[1, 0, 0, 0, 0, 1, 0, 0, 0, 0]]


@dataclass(frozen=True)
class Bonded(Letters):
    """Letters with a bond for each pair of them."""

    ragged = True

    @property
    def process(self) -> Any:
        return Joint(x=Gaussian(), bond=Absorbing(3, sites=Pairs()))

    def encode(self, artifact: Any) -> Any:
        n = len(artifact)
        return {"x": torch.ones(n, 2), "bond": torch.zeros(n * (n - 1) // 2, dtype=torch.int64)}


def test_parts_on_pairs_are_left_out() -> None:
    assert Reference(Bonded()).sites_of([0, 2, 1])[0].tolist() == [[1, 1]] * 3


def test_what_is_no_reference_is_refused(tmp_path: Path) -> None:
    own = Reference(Images(size=8, channels=1)).fit(PICTURES)
    with pytest.raises(RequestError, match="fit_conditions"):
        Reference(Images(size=8, channels=1)).encode(PICTURES[0])
    with pytest.raises(RequestError, match=r"NAME=domain.read"):
        own.encode("heart.png")
    with pytest.raises(RequestError, match="8x8"):
        own.encode(torch.rand(1, 9, 9))
    with pytest.raises(RequestError, match=r"not finite|picture"):
        own.encode(torch.full((1, 8, 8), float("nan")))
    with pytest.raises(DataError, match=r"absent.png: no such file"):
        own.read(str(tmp_path / "absent.png"))
    with pytest.raises(RecipeError, match="domain"):
        Reference(Images)  # the class itself
    short = replace(Reference(Audio()).fit(clips()), longest=5)
    with pytest.raises(RequestError, match="at most 5"):
        short.encode(clips()[0])
    assert len(short.encode_example(clips()[0])["features"]) == 5
    assert short.audit(clips()) == ["4 of more than 5 tokens are cut"]
    assert short.audit([None, *clips()])[0] == "1 of 5 examples have none"


def test_references_are_read_by_their_domain(tmp_path: Path) -> None:
    domain = Images(size=8, channels=1)
    own = Reference(domain).fit(PICTURES)
    for i in range(2):
        domain.write(PICTURES[i], tmp_path / f"{i}.png")
    one, two = tmp_path / "0.png", tmp_path / "1.png"
    assert distance(own.read(str(one)), PICTURES[0]) < 0.01
    found = own.read(f"{one}, {two},none")
    assert len(found) == 3 and found[2] is None and own.read("NONE") is None
    assert batch_of("like", own, found, 3)["mask"].any(1).tolist() == [True, True, False]  # type: ignore[call-overload]


TRAINED: dict[str, Any] = {
    "pictures": lambda: (
        Images.of(LikeDigits()), {"width": 32, "depth": 1, "heads": 2, "patch": 2}, torch.rand(1, 8, 8), {}
    ),
    "clips": lambda: (Audio(source=LikeTones(count=8)), {"channels": (16, 16)}, clips()[1], {"seconds": [0.6, 0.5]}),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_a_model_trains_samples_and_comes_back_with_references(name: str, tmp_path: Path) -> None:
    domain, network, other, what = TRAINED[name]()
    recipe = Recipe("own", domain, network=network, trainer=Trainer(steps=4, batch=4, show=2, samples=2, logger=()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = train(recipe, tmp_path / "run", quiet=True)
    own: Any = model.domain.conditions["like"]
    assert own.features and own.domain != domain.conditions["like"].domain  # type: ignore[attr-defined]
    randomised(model.denoiser.network)  # few steps hardly move it
    again = gendiff.load(model.save(tmp_path / "m.safetensors"))
    assert again.domain == model.domain
    asked: dict[str, Any] = {"sampler": Euler(2), "guidance": 2.0, **what}
    first, second = (m.sample(2, like=[other, None], **asked) for m in (model, again))
    states = [[model.domain.encode_given(x) for x in drawn] for drawn in (first, second)]
    assert all(distance(a, b) == 0 for a, b in zip(*states, strict=True))
    free = model.states(2, like=None, **{**asked, "guidance": 1.0})[0][0]
    told = model.states(2, like=[other, None], **asked)[0][0]
    moved = (told - free).abs().flatten(1).amax(1)
    assert moved[0] > 1e-4 and moved[1] < 1e-5, moved


@torch.no_grad()
def test_longer_references_beside_it_change_nothing() -> None:
    domain = Audio(source=LikeTones(count=8)).fit_conditions(LikeTones(count=8).load("train"))
    model = Model.new(domain, channels=(16, 16))
    randomised(model.denoiser.network)
    own: Any = domain.conditions["like"]
    by_length = sorted(clips(8), key=lambda clip: clip.seconds)
    assert len(own.sites_of(by_length[0])[0]) < len(own.sites_of(by_length[-1])[0])
    asked: dict[str, Any] = {"sampler": Euler(2), "seconds": 0.3}
    alone = model.states(1, like=by_length[0], **asked)[0][0]
    both = model.states(2, like=[by_length[0], by_length[-1]], **asked)[0][0]
    assert distance(alone[:1], both[:1]) < 1e-4


def test_a_model_may_look_at_another_domain(tmp_path: Path) -> None:
    """A file of sounds names pictures, which are found where they are installed."""
    domain = Audio(asked={"like": Reference(Images(size=8, channels=1)).fit(PICTURES)})
    model = Model.new(domain, channels=(16, 16))
    again = gendiff.load(model.save(tmp_path / "m.safetensors"))
    assert again.domain == domain
    again.sample(1, like=PICTURES[0], seconds=0.2, sampler=Euler(1))


def test_data_that_differ_in_a_reference_are_other_data() -> None:
    domain = Audio(asked={"like": Reference(Audio()).fit(clips())})

    def said(which: Sequence[int]) -> dict[str, Any]:
        every = clips()
        return Encoded(domain, Examples([Example(every[0], {"like": every[i]}) for i in which])).fingerprint

    assert same_data(said([0, 1]), said([0, 1])) and not same_data(said([0, 1]), said([0, 2]))


def test_what_no_condition_knows_is_refused_before_training() -> None:
    domain = Images(size=8, channels=1, asked={"like": Reference(Images(size=8, channels=1)).fit(PICTURES)})
    with pytest.raises(DataError, match=r"'card/7' says liek=3.*Did you mean \"like\""):
        encode_conditions(domain, Example(PICTURES[0], {"liek": 3}, "card/7"))
    assert encode_conditions(domain, Example(PICTURES[0]))["like"]["features"].shape == (0, 1)
