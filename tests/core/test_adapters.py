"""Adaptation, in every kind of network: it begins as the base to the bit, never changes it, merges into the same bits,
and comes back from its file on that base alone.
"""

from __future__ import annotations

import copy
import importlib
import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gendiff
from gendiff import Control, Domain, Euler, Field, Label, LoRA, Model, Noise, Number, Partial, Text, denoising_loss
from gendiff.adaptation import check_base
from gendiff.errors import CheckpointError, GendiffError, RecipeError, RequestError
from gendiff.modelfile import digest, read_config
from gendiff.spaces import leaves, map_state
from gendiff.testing import randomised
from gendiff.training import EMA, Adapter, merged_state, trained_state
from gendiff.training.adapters import LowRank, put, weights_of
from gendiff_audio import Audio
from gendiff_images import Images
from gendiff_proteins import Ideal, Proteins

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
with pytest.MonkeyPatch.context() as beside:
    for example in ("gendiff_qm9", "gendiff_torsions"):
        beside.syspath_prepend(EXAMPLES / example)
    QM9 = importlib.import_module("gendiff_qm9").QM9
    Torsions = importlib.import_module("gendiff_torsions").Torsions

SITES = 20


@dataclass(frozen=True)
class Case:
    """A domain that may be asked more, the sizes of a network, what to ask, and where its sites lie."""

    domain: Any
    size: dict[str, Any]
    ask: dict[str, Any]
    sites: tuple[int, ...] = ()

    def base(self, **asked: Any) -> Model:
        """A model as training might have left it."""
        model = Model.new(self.domain(asked), **self.size)
        randomised(model.denoiser.network)
        model.denoiser.eval()
        return model

    def adapted(self, adapter: Adapter, base: Model, **asked: Any) -> Model:
        model = Model.new(self.domain(asked), **base.size)
        model.adapt(adapter, base)
        return model

    def states(self, model: Model, **asked: Any) -> list[Tensor]:
        """Two samples of two steps, of the request and the noise that all models of a case share."""
        found = model.states(2, steps=2, sampler=Euler(2), guidance=1.0, seed=0, **self.ask, **asked)[0]
        return [part for x in found for part in leaves(x)]


def pictures(asked: dict[str, Any]) -> Images:
    return Images(size=8, channels=1, asked=asked)


CASES: dict[str, Case] = {
    "U-Net": Case(pictures, {"channels": (16, 24), "blocks": 1}, {}, (8, 8)),
    "DiT": Case(pictures, {"width": 32, "depth": 3, "heads": 2}, {}, (8, 8)),
    "refined DiT": Case(pictures, {"width": 32, "depth": 3, "heads": 2, "refine": 8}, {}, (8, 8)),
    "mel U-Net": Case(
        lambda asked: replace(Audio(asked=asked), lengths=(SITES,)), {"channels": (16, 24)},
        {"seconds": SITES * 128 / 8000}, (SITES,),
    ),
    "frame network": Case(
        lambda asked: Proteins(source=Ideal(min_length=SITES, max_length=SITES), asked=asked),
        {"width": 32, "depth": 1, "heads": 2, "pair": 8}, {"length": SITES}, (SITES,),
    ),
    "torsions": Case(lambda asked: Torsions(), {"width": 32}, {}),
    "molecules": Case(
        lambda asked: QM9(), {"width": 24, "pair": 12, "depth": 2, "heads": 3, "vectors": 6}, {"atoms": 5}
    ),
}  # fmt: skip
ASKING = ("U-Net", "DiT", "refined DiT", "mel U-Net", "frame network")
SIDES = ("U-Net", "DiT", "refined DiT", "mel U-Net")
ADAPTERS: dict[str, Adapter] = {
    "LoRA": LoRA(4),
    "LoRA everywhere": LoRA(2, alpha=6.0, where=("*",)),
    "Partial": Partial(("*.bias",)),
}
NEW = {"kind": Label(("a", "b"))}
MORE = {"kind": Label(("c", "a", "b"))}


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True) if a.is_floating_point())


def moved(model: Model, by: float = 0.3) -> Model:
    """With what trains moved at random."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.denoiser.parameters():
            if p.requires_grad:
                p.add_(by * torch.randn(p.shape, generator=generator).to(p))
    return model


def steps(model: Model, case: Case, count: int = 3, **asked: Any) -> None:
    """Steps of AdamW with weight decay on what trains."""
    x0 = model.states(2, steps=1, sampler=Euler(1), guidance=1.0, **case.ask, **asked)
    request = model.domain.request(2, **model.domain.sized(2, {**case.ask, **asked}))
    optimizer = torch.optim.AdamW([p for p in model.denoiser.parameters() if p.requires_grad], 1e-2, weight_decay=0.1)
    model.denoiser.train()
    cond = {**request.cond, **({"mask": x0[1][0]} if x0[1][0] is not None else {})}
    for step in range(count):
        x = map_state(lambda part: part.clone(), x0[0][0])
        losses = denoising_loss(model.denoiser, x, torch.tensor([0.3, 0.7]).double(), Noise.of(step, 2), **cond)
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
    model.denoiser.eval()


def bits(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("name", CASES)
def test_a_weight_adapter_begins_as_its_base_and_leaves_it_alone(name: str, kind: str, tmp_path: Path) -> None:
    """At step 0 the same bits; after steps the base's bits, merged the same, and back from the file the same."""
    case = CASES[name]
    base = case.base()
    before, drawn = bits(base.denoiser.network), case.states(base)
    model = case.adapted(ADAPTERS[kind], base)
    assert same(case.states(model), drawn)
    steps(model, case)
    after = case.states(model)
    assert ("hu2021lora" in gendiff.cite(model)) == kind.startswith("LoRA")
    assert apart(after, drawn) > 1e-4
    own = bits(base.denoiser.network)
    assert all(torch.equal(own[key], value) for key, value in before.items())
    trains = set(trained_state(model.denoiser.network))
    still = {key: value for key, value in bits(model.denoiser.network).items() if key not in trains}
    assert all(torch.equal(before[key], value) for key, value in still.items())
    assert set(before) <= set(bits(model.denoiser.network))  # under their names
    assert same(case.states(model.merged()), after) and model.merged().adaptation is None
    assert set(model.merged().denoiser.network.state_dict()) == set(before)
    base.save(tmp_path / "base.safetensors")
    rewritten(model.save(tmp_path / "adapter.safetensors"), tmp_path / "adapter.safetensors", beside="base.safetensors")
    parts = [type(base.domain)]  # those of the examples are not installed here
    whole = gendiff.load(tmp_path / "base.safetensors", parts=parts)
    assert same(case.states(whole.with_adapter(tmp_path / "adapter.safetensors", parts=parts)), after)
    assert same(case.states(gendiff.load(tmp_path, parts=parts)), after)  # a folder as a run leaves it


@pytest.mark.parametrize("name", ASKING)
def test_new_classes_train_and_old_ones_keep_their_bits(name: str) -> None:
    case = CASES[name]
    base = case.base(**NEW)
    model = case.adapted(LoRA(4), base, **MORE)
    (table,) = (key for key in bits(base.denoiser.network) if key.endswith("kind.table.weight"))
    old = bits(base.denoiser.network)[table]
    expected = torch.stack([old[2], old[0], old[1], old[2]])  # c begins as nothing asked
    assert torch.equal(merged_state(model.denoiser.network)[table], expected)
    for asked in ("a", "b", None):
        assert same(case.states(model, kind=asked), case.states(base, kind=asked)), asked
    assert apart(case.states(model, kind="c"), case.states(base, kind=None)) == 0
    steps(model, case, kind="c")
    trained = merged_state(model.denoiser.network)[table]
    assert torch.equal(trained[1:], expected[1:]) and not torch.equal(trained[0], expected[0])


@pytest.mark.parametrize("asked", [{"more": Field(2)}, {"more": Number()}, {"more": Text().fit(["a b", "b c"])}])
@pytest.mark.parametrize("name", SIDES)
def test_a_side_branch_begins_as_its_base_and_leaves_it_alone(name: str, asked: Any, tmp_path: Path) -> None:
    """A field, a vector, tokens, beside the classes that the base knows: one mechanism."""
    case = CASES[name]
    base = case.base(**NEW)
    before, drawn = bits(base.denoiser.network), case.states(base, kind=["a", "b"])
    model = case.adapted(Control("more"), base, **NEW, **asked)
    own = asked["more"]
    value = torch.randn(*case.sites, 2) if isinstance(own, Field) else 0.7 if isinstance(own, Number) else "a c"
    told = {"kind": ["a", "b"], "more": value}
    assert same(case.states(model, **told), drawn)
    steps(model, case, **told)
    after = case.states(model, **told)
    assert apart(after, drawn) > 1e-4
    moved(model)
    after = case.states(model, **told)
    assert apart(after, case.states(model, kind=["a", "b"], more=None)) > 1e-3
    assert all(torch.equal(before[key], value) for key, value in bits(base.denoiser.network).items())
    inside = model.denoiser.network.base.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(before[key], value) for key, value in inside.items())
    assert not any(key.startswith("base.") for key in trained_state(model.denoiser.network))
    base.save(tmp_path / "base.safetensors")
    model.save(tmp_path / "adapter.safetensors")
    again = gendiff.load(tmp_path / "base.safetensors").with_adapter(tmp_path / "adapter.safetensors")
    assert same(case.states(again, **told), after)
    with pytest.raises(RequestError, match="a side branch cannot be merged"):
        model.merged()


@pytest.mark.parametrize("name", SIDES)
def test_a_side_branch_hears_the_same_at_once_and_embedded_before(name: str) -> None:
    """Guidance by condition drops the side's part of a condition too."""
    case = CASES[name]
    base = case.base(**NEW)
    model = moved(case.adapted(Control("more"), base, **NEW, more=Field(1)))
    network = model.denoiser.network
    request = model.domain.request(
        2, **model.domain.sized(2, {**case.ask, "kind": "a", "more": torch.ones(*case.sites, 1)})
    )
    x, t = torch.randn(request.like.shape), torch.tensor([0.2, 0.8])  # type: ignore[union-attr]
    asked = dict(request.cond)
    embedded = model.denoiser.embed(asked)
    assert "embedded" in embedded and torch.allclose(network(x, t, **asked), network(x, t, **embedded), atol=1e-6)
    for names in (["kind"], ["more"], None):
        plain, once = model.domain.without(asked, names), model.domain.without(embedded, names)
        assert torch.allclose(network(x, t, **plain), network(x, t, **once), atol=1e-6), names
        assert not torch.allclose(network(x, t, **plain), network(x, t, **asked), atol=1e-4), names


@pytest.mark.parametrize("name", SIDES)
def test_every_place_of_a_side_branch_joins(name: str) -> None:
    """Each tensor of `features`, moved alone, moves the output; zeros move nothing."""
    case = CASES[name]
    network: Any = case.base().denoiser.network
    request = case.base().domain.request(2, **case.ask)
    x, t = torch.randn(request.like.shape), torch.tensor([0.3, 0.6])  # type: ignore[union-attr]
    with torch.no_grad():
        plain, features = network(x, t), network.features(x, t)
        none = [torch.zeros_like(own) for own in features]
        assert torch.equal(network(x, t, control=none), plain)
        for place, own in enumerate(features):
            control = [*none[:place], torch.randn_like(own), *none[place + 1 :]]
            assert not torch.allclose(network(x, t, control=control), plain, atol=1e-3), place


def test_padding_is_nothing_to_a_side_branch() -> None:
    case = CASES["mel U-Net"]
    model = moved(case.adapted(Control("more"), case.base(), more=Field(1)))
    x, field, t = torch.randn(1, SITES, 64), torch.randn(1, SITES, 2), torch.tensor([0.4])
    short = model.denoiser.network(x, t, mask=torch.ones(1, SITES).bool(), more=field)
    pad = [torch.cat([part, torch.randn(1, 7, part.shape[-1])], 1) for part in (x, field)]
    mask = torch.arange(SITES + 7)[None] < SITES
    long = model.denoiser.network(pad[0], t, mask=mask, more=pad[1])
    assert torch.allclose(long[:, :SITES], short, atol=1e-5)


def test_low_rank_is_the_papers_formula() -> None:
    """W x + (alpha / r) U D x, computed beside the weight (Hu et al. 2021, section 4.1), also of convolutions."""
    x, grid = torch.randn(5, 12, dtype=torch.float64), torch.randn(2, 6, 9, 7, dtype=torch.float64)
    layers: list[tuple[nn.Module, Tensor]] = [
        (nn.Linear(12, 9).double(), x),
        (nn.Conv2d(6, 8, 3, padding=1).double(), grid),
        (nn.Conv1d(6, 8, 5, padding=2).double(), grid[:, :, 0]),
        (nn.Conv2d(6, 6, 3, groups=3).double(), grid),
    ]
    for layer, inputs in layers:
        plain = layer(inputs)
        weight = next(w for w in weights_of(layer) if w.name == "weight")
        change = LowRank(weight.value, 3, 2.5)
        put(weight, change)
        assert torch.equal(layer(inputs), plain)
        with torch.no_grad():
            change.up.normal_()
        other = copy.deepcopy(layer)
        with torch.no_grad():
            other._parameters["weight"].zero_()  # type: ignore[union-attr]
            other.bias.zero_()  # type: ignore[union-attr,operator]
        down = change.down.view(-1, *weight.value.shape[1:])
        if isinstance(layer, nn.Linear):
            beside = 2.5 * (inputs @ change.down.T) @ change.up.T
            assert torch.allclose(layer(inputs) - plain, beside, atol=1e-12)
        elif layer.groups == 1:  # type: ignore[union-attr]
            low = type(layer)(6, 3, layer.kernel_size, padding=layer.padding, bias=False).double()  # type: ignore
            with torch.no_grad():
                low.weight.copy_(down)  # type: ignore[union-attr,operator]
            beside = 2.5 * torch.einsum("or,br...->bo...", change.up, low(inputs))
            assert torch.allclose(layer(inputs) - plain, beside, atol=1e-12)
        assert torch.allclose(layer(inputs) - plain, other(inputs), atol=1e-12)
        again = pickle.loads(pickle.dumps(layer))  # noqa: S301
        assert torch.equal(again(inputs), layer(inputs)) and torch.equal(copy.deepcopy(layer)(inputs), layer(inputs))


def test_peft_says_the_same() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 32), nn.SiLU(), nn.Linear(32, 24))
    config = peft.LoraConfig(r=4, lora_alpha=6.0, target_modules=["0", "2"], lora_dropout=0.0)
    theirs = peft.get_peft_model(copy.deepcopy(net), config)
    ours = LoRA(4, alpha=6.0, where=("weight",)).attach(
        copy.deepcopy(net), net, gendiff.training.Begun(taken=tuple(net.state_dict()))
    )
    state = theirs.state_dict()
    with torch.no_grad():
        for layer in ("0", "2"):
            up = torch.randn(state[f"base_model.model.{layer}.lora_B.default.weight"].shape)
            theirs.get_submodule(f"base_model.model.{layer}.lora_B.default").weight.copy_(up)
            change = ours.get_submodule(f"{layer}.adapted.weight.0")
            change.up.copy_(up)  # type: ignore[union-attr,operator]
            change.down.copy_(state[f"base_model.model.{layer}.lora_A.default.weight"])  # type: ignore[union-attr,operator]
    x = torch.randn(7, 24)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_autocast_rounds_the_sum_once() -> None:
    """Under bfloat16 the adapted weight is that of the merged network: not a product of rounded halves."""
    case = CASES["U-Net"]
    model = moved(case.adapted(LoRA(4), case.base()))
    merged = model.merged()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.denoiser.network(x, t), merged.denoiser.network(x, t))


def test_a_compiled_adapter_is_one_graph() -> None:
    case = CASES["DiT"]
    base = case.base(**NEW)
    model = moved(case.adapted(LoRA(4), base, **MORE))
    network, x, t = model.denoiser.network, torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.7])
    plain = network(x, t, kind=torch.tensor([0, 2]))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x, t, kind=torch.tensor([0, 2])), plain, atol=1e-6)


def test_the_average_is_of_what_trains() -> None:
    case = CASES["U-Net"]
    model = case.adapted(LoRA(4), case.base())
    network = model.denoiser.network
    ema = EMA(network, 0.5)
    assert set(ema.average) == {name for name, p in network.named_parameters() if p.requires_grad}
    own, drawn = bits(network), case.states(model)
    moved(model)
    after = case.states(model)
    with ema.applied(network):
        assert same(case.states(model), drawn)
    assert same(case.states(model), after) and not same(after, drawn)
    ema.update(network)
    ema.copy_to(network)
    still = {key for key in own if "adapted" not in key}
    assert all(torch.equal(own[key], bits(network)[key]) for key in still)


def test_a_weight_under_two_names_is_adapted_under_both() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    net = Tied()
    adapted = LoRA(2).attach(copy.deepcopy(net), net, gendiff.training.Begun(taken=tuple(net.state_dict())))
    with torch.no_grad():
        adapted.get_submodule("first.adapted.weight.0").up.normal_()  # type: ignore[union-attr,operator]
    net.load_state_dict(merged_state(adapted))
    x = torch.randn(3, 16)
    assert torch.equal(net(x), adapted(x)) and len([w for w in weights_of(adapted) if "adapted" in w.name]) == 2


# What cannot be


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Case]:
    home, case = tmp_path_factory.mktemp("adapters"), CASES["U-Net"]
    base = case.base(**NEW)
    base.save(home / "base.safetensors")
    base = gendiff.load(home / "base.safetensors")
    moved(case.adapted(LoRA(4), base, **MORE)).save(home / "adapter.safetensors")
    return home / "base.safetensors", home / "adapter.safetensors", case


def test_an_adapter_is_small_and_finds_its_base(files: tuple[Path, Path, Case], tmp_path: Path) -> None:
    base, adapter, case = files
    assert adapter.stat().st_size < base.stat().st_size
    model = gendiff.load(adapter)
    assert model.adaptation is not None and model.adaptation.adapter == LoRA(4)
    drawn = case.states(model, kind="c")
    assert same(case.states(gendiff.load(base).with_adapter(adapter), kind="c"), drawn)
    moved_to = tmp_path / "elsewhere"
    moved_to.mkdir()
    for path in (base, adapter):  # both moved together
        (moved_to / path.name).write_bytes(path.read_bytes())
    assert read_config(adapter)["base"]["beside"] == "base.safetensors"
    (moved_to / "base.safetensors").rename(tmp_path / "hidden")
    alone = tmp_path / "alone"
    alone.mkdir()
    lonely = rewritten(adapter, alone / "adapter.safetensors", path=str(alone / "absent"))
    with pytest.raises(CheckpointError, match=r"its base is not there.*with_adapter"):
        gendiff.load(lonely)
    (alone / "base.safetensors").write_bytes(base.read_bytes())
    assert same(case.states(gendiff.load(lonely), kind="c"), drawn)


def rewritten(source: Path, to: Path, **base: str) -> Path:
    """A copy of an adapter's file with another base in its config, and the digests right."""
    from safetensors.torch import load, save

    from gendiff.modelfile import open_model, text_digest

    with open_model(source) as (file, config):
        text = json.dumps({**config, "base": {**config["base"], **base}})
        metadata = {**file.metadata, "gendiff": text, "config_sha256": text_digest(text)}
    to.write_bytes(save(load(source.read_bytes()), metadata=metadata))
    return to


def test_another_base_is_refused_unless_it_is_asked_for(files: tuple[Path, Path, Case]) -> None:
    path, adapter, case = files
    other = gendiff.load(path)
    with torch.no_grad():
        next(other.denoiser.network.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(CheckpointError, match=r"was trained on weights with the digest .*any_base=True"):
        other.with_adapter(adapter)
    tried = other.with_adapter(adapter, any_base=True)
    assert tried.adaptation is not None and tried.adaptation.digest == digest(other.denoiser.network.state_dict())
    check_base(tried.adaptation, other.denoiser.network, "it")
    small = Model.new(case.domain(NEW), channels=(8, 8), blocks=1)
    with pytest.raises(CheckpointError, match="a network of"):
        small.with_adapter(adapter, any_base=True)
    with pytest.raises(CheckpointError, match="a model that is adapted"):
        tried.with_adapter(adapter)
    with pytest.raises(CheckpointError, match="is a whole model"):
        other.with_adapter(path)


def test_an_adapter_on_itself_or_another_adapter_is_refused(files: tuple[Path, Path, Case], tmp_path: Path) -> None:
    odd = rewritten(files[1], tmp_path / "adapter.safetensors", path=str(tmp_path / "adapter.safetensors"))
    with pytest.raises(CheckpointError, match="is an adapter; expected a whole model"):
        gendiff.load(odd)


def test_damaged_adapters_are_clear_errors(files: tuple[Path, Path, Case], tmp_path: Path) -> None:
    """A cut anywhere and a turned bit anywhere: CheckpointError, never another kind, never a model."""
    base, adapter, _ = files
    whole, data = gendiff.load(base), adapter.read_bytes()
    path = tmp_path / "adapter.safetensors"
    places = [*range(0, 2000, 97), *range(2000, len(data), len(data) // 12), len(data) - 1]
    for at in places:
        for content in (data[:at], data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]):
            path.write_bytes(content)
            with pytest.raises(CheckpointError):
                whole.with_adapter(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": {"kind": "LoRA", "rank": 0}}, "LoRA got rank=0"),
        ({"adapter": {"kind": "Linear"}}, "adapter is"),
        ({"adapter": {"kind": "LoRA", "rank": 5}}, "do not fit the adapter"),
        ({"adapter": {"kind": "LoRA", "rank": 10**12}}, "LoRA got rank"),
        ({"adapter": {"kind": "LoRA", "rank": 4, "where": ["nowhere"]}}, "'nowhere' is in none"),
        ({"adapter": {"kind": "Control", "asks": "edges"}}, "asks for 'edges'"),
        ({"base": {"digest": 3, "path": ""}}, "base is"),
        ({"base": {"path": ""}}, "lacks 'digest'"),
        ({"base": {"digest": "", "path": "", "more": ""}}, "no 'more'"),
        ({"network": {"channels": [16, 24], "blocks": 10**9}}, "sizes of a network"),
        ({"network": {"channels": [16, 10**9], "blocks": 1}}, "sizes of a network"),
    ],
)
def test_what_an_adapter_s_config_says_is_not_trusted(
    change: dict[str, Any], message: str, files: tuple[Path, Path, Case], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from gendiff.modelfile import open_model, text_digest

    with open_model(files[1]) as (file, config):
        text = json.dumps({**config, **change})
        metadata = {**file.metadata, "gendiff": text, "config_sha256": text_digest(text)}
    path = tmp_path / "odd.safetensors"
    save_file(load_file(files[1]), path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        gendiff.load(files[0]).with_adapter(path, any_base=True)


def test_what_does_not_fit_says_what_would() -> None:
    case = CASES["U-Net"]
    base = case.base(**NEW)

    def refused(message: str, adapter: Adapter, domain: Domain, of: Model = base, **size: Any) -> None:
        with pytest.raises(GendiffError, match=message):
            Model.new(domain, **(size or of.size)).adapt(adapter, of)

    refused(r"'atention' is in none\. Did you mean \"attention\"", LoRA(where=("atention",)), base.domain)
    refused("LoRA got rank=500", LoRA(500), base.domain)
    refused("nothing here is new", Partial(), base.domain)
    refused("of the base do not fit", LoRA(4), base.domain, channels=(16, 32), blocks=1)
    refused(r"asks for 'edge'.*Did you mean \"edges\"", Control("edge"), case.domain({**NEW, "edges": Field(1)}))
    refused("knows 'kind' already", Control("kind"), base.domain)
    refused("does not know 'more'", Control("edges"), case.domain({**NEW, "edges": Field(1), "more": Number()}))
    refused("does not know kind: c", Control("edges"), case.domain({**MORE, "edges": Field(1)}))
    frames = CASES["frame network"]
    own = frames.base()
    refused("cannot join a FrameNetwork.*UNet, DiT", Control("more"), frames.domain({"more": Number()}), own)
    adapted = case.adapted(LoRA(4), base, **NEW)
    with pytest.raises(RecipeError, match="one of a whole model"):
        case.adapted(LoRA(4), adapted, **NEW)


def test_buffers_of_a_frozen_network_are_its_own() -> None:
    """A BatchNorm goes on counting in training; its counts go with the adapter, and the base keeps its own."""
    net = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16))
    adapted = LoRA(2).attach(copy.deepcopy(net), net, gendiff.training.Begun(taken=tuple(net.state_dict())))
    before = bits(net)
    adapted(torch.randn(8, 16))
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert "1.running_mean" in trained_state(adapted) and "0.weight" not in trained_state(adapted)
