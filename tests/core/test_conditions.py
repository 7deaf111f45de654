"""What may be asked: each condition by its laws, and where they meet networks, guidance, batches, files, the loop."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gendiff
from gendiff import (
    APG,
    DDPM,
    Adaptive,
    Aligned,
    CFGPerCondition,
    Condition,
    Denoiser,
    Domain,
    Euler,
    Example,
    Examples,
    FeynmanKac,
    Field,
    Gaussian,
    Guided,
    Heun,
    Label,
    Model,
    Number,
    Parallel,
    Request,
    Reward,
    Sites,
    Text,
    Velocity,
    sample,
)
from gendiff.conditions import batch_of, without
from gendiff.conditions.text import words_of
from gendiff.config import from_config, to_config
from gendiff.denoisers import rows_of
from gendiff.errors import CheckpointError, DataError, RecipeError, RequestError, RequestWarning
from gendiff.nn import DiT, UNet
from gendiff.random import Noise
from gendiff.spaces import State, map_state, tensors
from gendiff.testing import check_condition, check_domain, distance, randomised

F64 = torch.float64
CAPTIONS = ["a red heart", "A blue, round ball.", "red", "two balls and a heart; a blue heart"]
TEXT = Text().fit(CAPTIONS)
SPEECH = Aligned().fit([(["h", "e", "j"], [1, 1, 1]), None])
SAID: list[tuple[Condition, list[Any], tuple[int, ...]]] = [
    (Label(("cat", "dog", "a, b")), ["dog", 2, "cat"], ()),
    (Number("Hz", "log").fit([80.0, 440.0, 640.0]), [80.0, 441, 600.5], ()),
    (Number().fit([-3.0, 0.0, 10.0]), [0.0, -3, 2.5], ()),
    (TEXT, CAPTIONS, ()),
    (replace(TEXT, pooled=False), CAPTIONS, ()),
    (replace(TEXT, tokens=False, layers=0), CAPTIONS, ()),
    (Sites(("H", "E", "L")), ["HHEEL", "LLL?H", "EEEEE"], (5,)),
    (Field(2), [torch.randn(4, 3, 2), torch.ones(4, 3, 2)], (4, 3)),
    (SPEECH, [(["h", "e", "e"], [1, 2, 3]), {"symbols": ["j"], "durations": [6]}, (["e", "h"], [5, 1])], (6,)),
    (replace(SPEECH, width=4, planned=True), [(["h", "e", "e"], [1, 2, 3]), (["h", "e"], [1, 5])], (6,)),
    (replace(SPEECH, layers=0), [(["h", "e", "e"], [1, 2, 3]), (["h", "e"], [1, 5])], (6,)),
]


@pytest.mark.parametrize(
    ("condition", "values", "sites"), SAID, ids=[f"{type(own).__name__} {i}" for i, (own, *_) in enumerate(SAID)]
)
def test_each_obeys_its_laws(condition: Condition, values: list[Any], sites: tuple[int, ...]) -> None:
    check_condition(condition, values, sites=sites)


class Biased(nn.Module):
    """Classes as they stand against the mean of the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(3, width)

    def forward(self, label: Tensor | None) -> dict[str, Tensor]:
        told = self.table(torch.full((1,), 2) if label is None else label)
        return {"vector": told - told.mean(0) if len(told) > 1 else told}


@dataclass(frozen=True)
class Forgetful(Label):
    """Drops nothing."""

    def drop(self, batch: Any, gone: Tensor) -> Any:
        return batch


@dataclass(frozen=True)
class Greedy(Label):
    """Drops everything."""

    def drop(self, batch: Any, gone: Tensor) -> Any:
        return torch.full_like(batch, len(self.classes))


@dataclass(frozen=True)
class Coupled(Label):
    """Says of a sample what depends on the others."""

    def embedder(self, width: int) -> nn.Module:
        return Biased(width)


@dataclass(frozen=True)
class Boastful(Label):
    """Says that it gives tokens."""

    @property
    def gives(self) -> tuple[str, ...]:
        return ("vector", "tokens")


@pytest.mark.parametrize(
    ("broken", "law"),
    [(Forgetful, "dropping"), (Greedy, "dropping"), (Coupled, "nothing asked in a batch"), (Boastful, "its embedder")],
)
def test_a_law_that_is_broken_is_found(broken: type[Label], law: str) -> None:
    check_condition(Label(("a", "b")), ["a", "b"])
    with pytest.raises(AssertionError, match=law):
        check_condition(broken(("a", "b")), ["a", "b"])


@pytest.mark.parametrize(
    ("condition", "value", "text"),
    [
        (Label(("cat", "dog")), "doge", r'"dog"'),
        (Label(("cat", "dog")), 2, "not a class"),
        (Number("Hz", "log"), -1.0, "a positive number of Hz"),
        (Number(), float("nan"), "finite"),
        (Number(), True, "finite"),
        (Number(), "12", "finite"),
        (TEXT, "a red hart", r"'hart' \(number 3 .*heart"),
        (TEXT, 3, "a text"),
        (TEXT, "red " * 60, "at most 48"),
        (Sites(("H", "E")), "HX", "'X' at site 1"),
        (SPEECH, (["h", "o"], [1, 2]), r"'o' \(number 2\)"),
        (SPEECH, (["h", "e"], [1]), "2 symbols with the durations"),
        (SPEECH, (["h", "e"], [1, 0.5]), "a whole number of sites"),
        (SPEECH, ["h"], "symbols and durations"),
        (Field(2), torch.zeros(3, 3), r"\[\*sites, 2\]"),
        (Field(1), torch.full((3, 1), float("inf")), "infinite"),
        (Field(1), torch.ones(3, 1) * 1j, "real numbers"),
        (Number(std=0.1), 1e308, "near those of training"),
        (SPEECH, (["h"], [[1]]), "a whole number of sites"),
        (SPEECH, (["h"], [True]), "a whole number of sites"),
        (SPEECH, (["h"], [10**30]), "a whole number of sites"),
    ],
    ids=map(str, range(21)),
)
def test_what_is_no_value_is_refused(condition: Condition, value: Any, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        condition.encode(value)


def test_batches_of_values() -> None:
    label = Label(("a", "b"))
    assert batch_of("kind", label, "b", 3).tolist() == [1, 1, 1]  # type: ignore[union-attr]
    assert batch_of("kind", label, ["a", None], 2).tolist() == [0, 2]  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="kind has 2 values for 3 samples"):
        batch_of("kind", label, ["a", "b"], 3)
    with pytest.raises(RequestError, match="kind: 'c' is not a class"):
        batch_of("kind", label, ["a", "c"], 2)
    with pytest.raises(RequestError, match=r"sites \[4\] of a sample of \[3\]"):
        batch_of("fold", Sites(("H",)), "HHHH", 2, (4,), [4, 3])
    ragged = batch_of("fold", Sites(("H",)), ["HHHH", "HHH"], 2, (4,), [4, 3])
    assert ragged.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]  # type: ignore[union-attr]


def test_symbols_lie_where_their_durations_put_them() -> None:
    """Without an encoder, sites change with their own symbol alone; places tell like symbols apart."""
    batch = batch_of("said", SPEECH, [(["h", "e", "e"], [2, 3, 1]), None], 2, (6,))
    assert isinstance(batch, dict) and batch["index"].tolist() == [[0, 0, 1, 1, 1, 2], [3] * 6]
    assert batch["place"][0, :, 0].tolist() == pytest.approx([0.25, 0.75, 1 / 6, 0.5, 5 / 6, 0.5])
    alone = randomised(replace(SPEECH, layers=0).embedder(8)).double()
    told = alone(batch)["field"]
    other = alone(batch_of("said", SPEECH, [(["h", "j", "e"], [2, 3, 1]), None], 2, (6,)))["field"]
    moved = (told - other).abs().amax(-1) > 1e-9
    assert moved.tolist() == [[False, False, True, True, True, False], [False] * 6]
    with pytest.raises(RequestError, match="said: durations of 5 sites in all, for a sample of 6"):
        batch_of("said", SPEECH, (["h", "e"], [2, 3]), 1, (6,))
    assert SPEECH.read("h:4 e:9") == {"symbols": ["h", "e"], "durations": [4, 9]}


def test_texts_of_every_kind() -> None:
    odd = ["\ufeffA  Red\nheart!", "", "e\u0301te", "\u00e9te", "\U0001f600 face", "x" * 300, "don't rock-n-roll"]
    text = Text().fit(odd)
    assert torch.equal(text.encode("e\u0301te"), text.encode("\u00e9te"))  # one form of each letter
    assert len(text.encode("")) == 0 and len(text.encode("don't rock-n-roll")) == 2
    assert "\U0001f600" in text.vocabulary
    assert text.audit(odd) == ["1 texts are empty, and ask for nothing"]
    short = Text(longest=2).fit(odd)
    assert len(short.encode_example("a red heart")) == 2
    assert any("more than 2 words" in note for note in short.audit(odd))
    assert from_config(json.loads(json.dumps(to_config(text)))) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("一只红色的猫 and 2", ["一", "只", "红", "色", "的", "猫", "and", "2"]),
        ("カ゚タ abc猫", ["カ゚", "タ", "abc", "猫"]),
        ("แมวสี", ["แ", "ม", "ว", "สี"]),
        ("كِتَابٌ أحمر", ["كِتَابٌ", "أحمر"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("❤️a ❤", ["❤", "a", "❤"]),
        ("z̴̢a don't", ["z̴̢a", "don't"]),
        ("👩‍👧 ?!", ["👩", "👧", "?", "!"]),
    ],
    ids=range(8),
)
def test_words_of_every_script(text: str, words: list[str]) -> None:
    assert words_of(text) == words == words_of(" ".join(words))
    assert len(Text().fit([text]).encode(text)) == len(words)


def test_another_order_of_letters_without_spaces_is_known() -> None:
    assert len(Text().fit(["一只红色的猫"]).encode("猫红")) == 2


def test_a_caption_is_shown_in_one_line() -> None:
    assert TEXT.words("a red\n\n heart\x1b[31m" + "x" * 99) == "a red heart\\x1b[31m" + "x" * 18 + "..."


def test_patterns_of_sites_are_read_for_all_or_for_each() -> None:
    sites = Sites(("H", "E"))
    assert sites.read("HHE?") == "HHE?" and sites.read("HH, EE,none") == ["HH", "EE", None]
    assert batch_of("fold", sites, sites.read("HH,E"), 2, (2,), [2, 1]).tolist() == [[0, 0], [1, 2]]  # type: ignore[union-attr]


def test_what_is_odd_about_training_values_is_said() -> None:
    assert Number().audit([1.0, 1.0, None]) == ["1 of 3 examples have none", "all examples have 1.0"]
    assert Label(("a", "b")).audit(["a", "a"]) == ["all examples have a", "nothing to learn from: b"]
    assert Number().audit([None, None]) == ["no example has it"]


NETWORKS: dict[str, Any] = {
    "DiT": lambda conditions, **k: DiT(
        2, in_channels=2, out_channels=2, patch=2, width=32, depth=2, heads=2, conditions=conditions, **k
    ),
    "DiT, refined": lambda conditions: DiT(
        2, in_channels=2, out_channels=2, patch=2, width=32, depth=2, heads=2, refine=16, conditions=conditions
    ),
    "DiT of sequences": lambda conditions: DiT(
        1, in_channels=2, out_channels=2, patch=2, width=32, depth=2, heads=2, conditions=conditions
    ),
    "U-Net": lambda conditions: UNet(
        2, in_channels=2, out_channels=2, channels=(16, 16), blocks=1, attention=(False, True), conditions=conditions
    ),
    "U-Net of patches": lambda conditions: UNet(
        2, in_channels=2, out_channels=2, channels=(16, 16), blocks=1, attention=(False, False), patch=2,
        conditions=conditions,
    ),
    "U-Net of sequences": lambda conditions: UNet(
        1, in_channels=2, out_channels=2, channels=(16, 16), blocks=1, attention=(True, True), conditions=conditions
    ),
}  # fmt: skip


def asked_of(name: str) -> tuple[dict[str, Condition], dict[str, Any], tuple[int, ...]]:
    """Conditions, what is asked of three samples, and the sites of a state."""
    sites = (5,) if "sequences" in name else (5, 4)  # odd: patches of two hold a padded site
    conditions: dict[str, Condition] = {
        "kind": Label(("a", "b")), "pitch": Number().fit([0.0, 4.0]), "caption": TEXT, "edge": Field(1),
    }  # fmt: skip
    edge = torch.randn(3, *sites, 1, generator=torch.Generator().manual_seed(3))
    asked = {"kind": ["a", "b", None], "pitch": [1.0, None, 3.0], "caption": [CAPTIONS[0], None, CAPTIONS[3]],
             "edge": [edge[0], None, edge[2]]}  # fmt: skip
    cond = {name: batch_of(name, own, asked[name], 3, sites) for name, own in conditions.items()}
    return conditions, cond, sites


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_hear_every_condition(name: str) -> None:
    """Each changes the output of those samples of which it is asked, and of no other; embedded once is the same."""
    conditions, cond, sites = asked_of(name)
    network: Any = randomised(NETWORKS[name](conditions)).double()
    x, t = torch.randn(3, 2, *sites, dtype=F64), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    whole = network(x, t, **cond)
    assert distance(whole, network(x, t, **cond, embedded=network.embed(cond))) < 1e-12
    for i in range(3):
        row = slice(i, i + 1)
        assert distance(whole[row], network(x[row], t[row], **rows_of(cond, row))) < 1e-10, i
    for own, asked in (("kind", [1, 1, 0]), ("pitch", [1, 0, 1]), ("caption", [1, 0, 1]), ("edge", [1, 0, 1])):
        less = network(x, t, **without(conditions, cond, [own]))
        moved = (less - whole).abs().flatten(1).amax(1)
        assert [float(m) > 1e-6 for m in moved] == [bool(a) for a in asked], (own, moved)
        assert distance(less, network(x, t, **{k: v for k, v in cond.items() if k != own})) < 1e-12, own
    embedded = {**cond, "embedded": network.embed(cond)}
    gone = without(conditions, embedded)
    assert distance(network(x, t, **gone), network(x, t)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_padding_of_sites_and_of_tokens_changes_nothing(name: str) -> None:
    conditions, cond, sites = asked_of(name)
    network = randomised(NETWORKS[name](conditions)).double()
    x, t = torch.randn(3, 2, *sites, dtype=F64), torch.full((3,), 0.4, dtype=F64)
    mask = torch.zeros(3, sites[0] + 5, *sites[1:], dtype=torch.bool)
    mask[:, : sites[0]] = True
    padded = torch.randn(3, 2, *mask.shape[1:], dtype=F64)
    padded[:, :, : sites[0]] = x
    caption, edge = cond["caption"], cond["edge"]
    longer = {"words": torch.cat([caption["words"], caption["words"]], 1),
              "mask": torch.cat([caption["mask"], torch.zeros_like(caption["mask"])], 1)}  # fmt: skip
    more = torch.randn(3, *mask.shape[1:], 2)
    more[:, : sites[0]] = edge
    alone = network(x, t, **cond)
    found = network(padded, t, mask=mask, **{**cond, "caption": longer, "edge": more})
    assert distance(alone, found[:, :, : sites[0]]) < 1e-9


@dataclass(frozen=True)
class Cards(Domain):
    """Cards of 6 x 4 numbers with a kind, a level and a caption."""

    name: ClassVar[str] = "cards"
    asked: Mapping[str, Condition] = field(default_factory=dict)
    dit: bool = False

    @property
    def conditions(self) -> dict[str, Condition]:
        return {"kind": Label(("a", "b")), "level": Number(), "caption": Text(layers=1), **self.asked}

    @property
    def process(self) -> Gaussian:
        return Gaussian()

    def encode(self, artifact: Tensor) -> Tensor:
        return artifact

    def decode(self, x: State) -> Any:
        return x

    def request(self, n: int, *args: Any, **what: Any) -> Request:
        return Request(torch.empty(n, 2, 6, 4), self.encode_conditions(n, sites=(6, 4), **what))

    def network(self, **size: Any) -> nn.Module:
        return NETWORKS["DiT" if self.dit else "U-Net"](self.conditions)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return Examples([
            Example(torch.full((2, 6, 4), 0.1 * i), {"kind": "ab"[i % 2], "level": 0.5 * i, "caption": CAPTIONS[i % 4]})
            for i in range(8)
        ])  # fmt: skip


def cards(dit: bool = False) -> Model:
    domain = Cards(dit=dit).fit_conditions(Cards().dataset("train"))
    model = Model.new(domain)
    randomised(model.denoiser.network)
    return model


def test_a_domain_learns_what_may_be_asked() -> None:
    domain = Cards().fit_conditions(Cards().dataset("train"))
    assert domain.spans() == {"level": (0.0, 3.5)}
    assert "heart" in domain.conditions["caption"].vocabulary  # type: ignore[attr-defined]
    assert domain.fit_conditions([Example(None, {"level": 99.0})]) == domain  # once
    turns = domain.in_turn(40)
    assert [turns["kind"][i] for i in range(3)] == ["a", "b", "a"] and turns["level"][:3] == [0.0, 0.875, 1.75]
    check_domain(Cards(), requests=[{"kind": "a", "level": 1.0, "caption": "red"}, {"caption": None}])


@pytest.mark.parametrize("dit", [False, True], ids=["U-Net", "DiT"])
def test_samples_keep_their_bits_by_the_batch(dit: bool) -> None:
    model = cards(dit)
    asked: dict[str, Any] = {"kind": ["a", None, "b"], "level": [0.5, 3.0, None], "caption": [CAPTIONS[3], "red", None]}
    guidance: Any = {"caption": 3.0, "kind": APG(1.5)}
    whole = model.sample(3, **asked, sampler=Euler(3), guidance=guidance)
    parts = model.sample(3, **asked, sampler=Euler(3), guidance=guidance, batch=2)
    assert max(distance(a, b) for a, b in zip(whole, parts, strict=True)) < 1e-5
    one = model.sample(1, kind="a", level=0.5, caption=CAPTIONS[3], sampler=Euler(3), guidance=guidance)[0]
    assert distance(one, whole[0]) < 1e-5


def test_a_model_file_says_what_may_be_asked(tmp_path: Path) -> None:
    model = cards()
    again = gendiff.load(model.save(tmp_path / "m.safetensors"), parts=[Cards])
    assert again.domain == model.domain
    first, second = (m.sample(2, caption="a red heart", level=2.0, sampler=Euler(2)) for m in (model, again))
    assert all(map(torch.equal, first, second))
    said = again.info()["conditions"]
    assert "known words" in said["caption"] and "0 to 3.5 in training" in said["level"]
    with pytest.raises(RequestError, match="caption: the word 'hart'"):
        again.sample(1, caption="a red hart")
    with pytest.raises(RequestError, match='Did you mean "caption"'):
        again.sample(1, captions="red")


def test_a_bad_value_of_an_example_is_named() -> None:
    from gendiff_recipes.data import encode_conditions

    domain = Cards().fit_conditions(Cards().dataset("train"))
    with pytest.raises(DataError, match="'card/7': level: nan"):
        encode_conditions(domain, Example(torch.zeros(2, 6, 4), {"level": float("nan")}, "card/7"))
    domain = Cards(asked={"fold": Sites(("H",))})
    with pytest.raises(DataError, match=r"'chain/3': fold: .*sites \[2\] of a sample of \[3\]"):
        encode_conditions(domain, Example(None, {"fold": "HH"}, "chain/3"), (3,))


@torch.no_grad()
def test_embedding_once_is_moved_and_cut_with_the_samples() -> None:
    model = cards()
    request = model.domain.request(3, caption=CAPTIONS[:3], level=[0.0, 1.0, None])
    cond = model.denoiser.embed(request.cond)
    half = rows_of(cond, slice(1, 3))
    shapes = [tuple(part.shape) for part in tensors(map_state(lambda p: p, half["embedded"]["caption"]["asked"]))]
    assert all(shape[0] == 2 for shape in shapes)
    x, t = torch.randn(3, 2, 6, 4), torch.rand(3)
    whole = model.denoiser(x, t.double(), **cond)
    assert distance(model.denoiser(x[1:], t[1:].double(), **half), whole[1:]) < 1e-5


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Label(("a", "a")), "'a' comes more often"),
        (lambda: Sites(("H", "H")), "'H' comes more often"),
        (lambda: Sites(("H", "?")), "none of the classes"),
        (lambda: replace(TEXT, vocabulary=("red", "red")), "'red' comes more often"),
        (lambda: Aligned(("h", "h")), "'h' comes more often"),
        (lambda: Number(transform="log", low=-1.0, high=1.0), "a positive number"),
        (lambda: Number(low=3.0, high=1.0), "in order"),
        (lambda: Number(low=3.0), "or both"),
    ],
    ids=range(8),
)
def test_what_no_condition_could_mean_is_refused(make: Any, text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        make()


@pytest.mark.parametrize(
    ("condition", "value"),
    [(Number(), torch.ones(2)), (Number(), 10**400), (SPEECH, (None, [1])), (SPEECH, ([["h"]], [1])),
     (Field(1), torch.ones(3, 1).numpy().astype(str)), (Field(1), torch.ones(3, 4, 1))],
    ids=range(6),
)  # fmt: skip
def test_whatever_a_value_makes_a_condition_raise_names_it(condition: Condition, value: Any) -> None:
    with pytest.raises(RequestError, match=r"^own: "):
        batch_of("own", condition, [value], 1, (3,))


@pytest.mark.parametrize("value", [3, b"red", ["red"], "12", float("nan")], ids=map(repr, range(5)))
def test_fitting_names_the_condition_of_a_bad_value(value: Any) -> None:
    name = "level" if isinstance(value, str | float) else "caption"
    with pytest.raises(RequestError, match=f"^{name}: "):
        Cards().fit_conditions([Example(None, {name: value})])


def test_numbers_of_any_unit_are_told_apart() -> None:
    near, far = (Number().fit([1e-12, 3e-12]).encode(value) for value in (1e-12, 3e-12))
    assert [float(near[0]), float(far[0])] == pytest.approx([-1.0, 1.0])
    model = Model.new(Cards(asked={"level": Number().fit([-3.0, 10.0])}))
    model.recipe = {"steps": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.check_ranges({"level": [-3.0, -3.2, 10.9]})
    for outside in (-4.0, torch.tensor([0.0, 12.0]), np.float64(12.0)):
        with pytest.warns(RequestWarning, match="level="):
            model.check_ranges({"level": outside})


@pytest.mark.parametrize("name", ["mask", "x", "n", "seed", "previous", "embedded", "all", "size", "keys", "a.b", ""])
def test_names_that_are_taken_are_refused_where_a_model_is_made(name: str) -> None:
    class Sized(Cards):
        def ranges(self) -> dict[str, tuple[float, float]]:
            return {"size": (1, 2)}

    with pytest.raises(RequestError, match=f"condition.*{name!r}"):
        Model.new(Sized(asked={name: Number()}))


def test_batches_of_training_have_the_sites_of_their_states() -> None:
    from gendiff_recipes.data import Batches, Encoded

    domain = Cards(asked={"edge": Field(1), "said": SPEECH})
    said = (["h", "e"], [2, 4])
    cond = [{"edge": torch.randn(6, 4, 1), "said": said}, {}, {"edge": torch.randn(6, 4, 1)}, {}]
    data = Encoded(domain, Examples([Example(torch.zeros(2, 6, 4), own) for own in cond]))
    batches = Batches(domain, data, batch=2, stop=2)
    network = randomised(domain.network())
    for first, shape in ((0, [2, 6, 4, 2]), (2, [2, 6, 4, 2])):
        batch = batches.collate([(*data[i], i, i, 0) for i in (first, first + 1)])
        assert list(batch["cond"]["edge"].shape) == shape
        assert network(batch["x0"], torch.rand(2), **batch["cond"]).shape == (2, 2, 6, 4)
    none = batches.collate([(*data[i], i, i, 0) for i in (1, 3)])
    assert network(none["x0"], torch.rand(2), **none["cond"]).shape == (2, 2, 6, 4)


@torch.no_grad()
def test_what_lies_along_the_first_axis_stays_there() -> None:
    """A field of one axis, in a network of two, is the same along the second."""
    conditions = {"said": SPEECH}
    network: Any = randomised(NETWORKS["U-Net of patches"](conditions)).double()
    batch = batch_of("said", SPEECH, (["h", "e"], [2, 2]), 1, (4, 4))
    field = network.conditioning(torch.rand(1, dtype=F64), {"said": batch}, axes=2).field
    assert field.shape[:3] == (1, 4, 1) and distance(field[0, 0], field[0, 2]) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_any_precision_hear_conditions(name: str, dtype: torch.dtype) -> None:
    conditions, cond, sites = asked_of(name)
    network: Any = randomised(NETWORKS[name](conditions)).to(dtype)
    x, t = torch.randn(3, 2, *sites, dtype=dtype), torch.rand(3, dtype=dtype)
    for told in (cond, {**cond, "embedded": network.embed(cond)}):
        out = network(x, t, **told)
        assert out.dtype == dtype and bool(out.isfinite().all())


def test_a_file_of_huge_conditions_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed while a network is built, so that nothing needs its memory."""
    made, linear = [], nn.Linear.forward

    def forward(self: nn.Linear, x: Tensor) -> Tensor:
        made.append(self)
        return linear(self, x)

    monkeypatch.setattr(nn.Linear, "forward", forward)
    model = Model.new(Cards(asked={"edge": Field(1)}))
    path = model.save(tmp_path / "m.safetensors")
    object.__setattr__(model.domain, "asked", {"edge": Field(10**9)})
    with monkeypatch.context() as unchecked:
        unchecked.setattr("gendiff.model.check_size", lambda *_: None)
        hostile = model.save(tmp_path / "hostile.safetensors")
    gendiff.load(path, parts=[Cards])
    with pytest.raises(CheckpointError, match="do not fit the network"):
        gendiff.load(hostile, parts=[Cards])
    assert not made


def test_words_do_not_begin_from_classes() -> None:
    from gendiff_recipes.start import begin_from

    classes = Model.new(Cards(asked={"more": Label(("red", "heart"))}))
    words = Model.new(Cards(asked={"more": Text(("a", "heart", "red"))}))
    for own, other in ((words, classes), (classes, words)):
        found = begin_from(own, other)
        assert any("more.table.weight" in name for name in found["new"])


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray], ids=["tensor", "array"])
def test_data_that_differ_in_one_number_of_a_field_are_other_data(kind: Any) -> None:
    from gendiff_recipes.data import Encoded, same_data

    domain = Cards(asked={"edge": Field(80)})

    def said(last: float) -> dict[str, Any]:
        edge = torch.zeros(6, 4, 80)
        edge[3, 2, 40] = last
        return Encoded(domain, Examples([Example(torch.zeros(2, 6, 4), {"edge": kind(edge)})])).fingerprint

    assert same_data(said(0.0), said(0.0)) and not same_data(said(0.0), said(1e-6))


LOOPS: dict[str, Any] = {
    "steps": Euler(3),
    "particles": FeynmanKac(DDPM(3), Reward(lambda x0: x0.flatten(1).sum(1)), 4),
    "parallel": Parallel(Heun(3), 2, tolerance=0.0),
    "adaptive": Adaptive(),
}


@torch.no_grad()
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", ["DiT", "U-Net"])
def test_every_loop_cuts_what_is_embedded_with_its_samples(name: str, loop: str) -> None:
    conditions, cond, sites = asked_of(name)
    denoiser = Denoiser(randomised(NETWORKS[name](conditions)).double(), Velocity(), Gaussian()).eval()
    rules = CFGPerCondition({"caption": 2.0, "edge": torch.tensor([1.5, 1.0, 2.0], dtype=F64)})
    guided = Guided(denoiser, rules, lambda c, *names: without(conditions, c, *names))
    like = torch.empty(3, 2, *sites, dtype=F64)
    embedded, plain = (
        sample(guided, like, solver=LOOPS[loop], noise=Noise.of(0, 3), cond=own) for own in (denoiser.embed(cond), cond)
    )
    assert distance(embedded, plain) < 1e-9


def test_a_class_among_many_is_looked_up_and_not_searched_for() -> None:
    """Names are compared once when they are first asked for, not for every value."""
    met = 0

    class Name(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal met
            met += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    label = Label(tuple(Name(f"Class {i}") for i in range(5000)))
    assert label.number("Class 4999") == 4999 == label.number("cLASS 4999")
    met = 0
    assert [label.number(f"class {i}") for i in range(0, 5000, 50)] == [*range(0, 5000, 50)]
    assert met < 5000
    assert Label(("Cat", "cat", "CAT")).number("cAT") == 0 and Label(("Cat", "cat")).read("cat") == "cat"
