"""Plans before sampling, and what acts on samples afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from gendiff import Aligned, Condition, Domain, Example, Examples, Gaussian, Linear, Model, Plan, Request, Sites
from gendiff.conditions.aligned import DurationLoss, rounded
from gendiff.errors import RequestError
from gendiff.nn import UNet
from gendiff.samples import SampleFolder, write_samples
from gendiff.testing import randomised

SYMBOLS = ("a", "b", "c")
MEANS = {"a": 2.0, "b": 5.0, "c": 9.0}


class Net(nn.Module):
    """A U-Net along the sites."""

    def __init__(self, conditions: Mapping[str, Condition]) -> None:
        super().__init__()
        self.unet = UNet(
            1, in_channels=2, out_channels=2, channels=(8,), blocks=1, attention=(False,), conditions=conditions
        )

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        return self.unet.embed(cond)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor | None = None, **cond: Any) -> Tensor:
        return self.unet(x.mT, t, mask, **cond).mT


@dataclass(frozen=True)
class Lines(Domain):
    """Sequences of pairs of numbers."""

    name: ClassVar[str] = "lines"
    ragged: ClassVar[bool] = True

    asked: Mapping[str, Condition] = field(
        default_factory=lambda: {"said": Aligned(SYMBOLS, width=8, planned=True), "kind": Sites(("H", "E"))}
    )

    @property
    def process(self) -> Gaussian:
        return Gaussian(Linear())

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return self.asked

    def encode(self, artifact: Any) -> Tensor:
        return torch.as_tensor(artifact).float()

    def decode(self, x: Tensor) -> Any:
        return x.numpy()

    def request(self, n: int, *, length: Any = 4, **what: Any) -> Request:  # type: ignore[override]
        sizes = [length] * n if isinstance(length, int) else list(length)
        cond = self.encode_conditions(n, sites=(max(sizes),), lengths=sizes, **what)
        cond["mask"] = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
        return Request(torch.zeros(n, max(sizes), 2), cond)

    def preview(self, n: int) -> dict[str, Any]:
        return {"length": [5 + i for i in range(n)]}

    def size_for(self, sites: int) -> dict[str, Any]:
        return {"length": sites}

    def network(self, **size: Any) -> nn.Module:
        return Net(self.conditions)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return Examples([Example(torch.zeros(7, 2), {"said": (["a", "b"], [2, 5])})] * 2)


@dataclass(frozen=True)
class Polished(Lines):
    """Samples are shifted in the end."""

    def finish(self, artifacts: list[Any]) -> list[Any]:
        return [one + 100 for one in artifacts]


@dataclass(frozen=True)
class Losing(Lines):
    """A sample is lost in the end."""

    def finish(self, artifacts: list[Any]) -> list[Any]:
        return artifacts[1:]


def model(domain: Domain | None = None) -> Model:
    torch.manual_seed(0)
    out = Model.new(domain or Lines())
    randomised(out.denoiser, 0)
    return out


PROMPTS = ["a b c", "c", "b b a a c"]


def test_symbols_alone_are_given_durations_that_do_not_depend_on_other_samples() -> None:
    own = model()
    plan = own.plan(3, said=PROMPTS)
    assert isinstance(plan, Plan) and set(plan) == {"said"}
    for prompt, one in zip(PROMPTS, plan["said"], strict=True):
        assert one["symbols"] == prompt.split() and all(d >= 1 for d in one["durations"])
    assert own.plan(1, said=PROMPTS[2])["said"] == plan["said"][2]
    assert own.plan(3, **plan) == plan  # a plan of a plan
    whole = own.sample(3, said=PROMPTS, steps=2)
    assert [len(x) for x in whole] == [sum(one["durations"]) for one in plan["said"]]
    for again in (
        own.sample(3, said=PROMPTS, steps=2, batch=1), own.sample(3, plan=plan, steps=2),
        own.sample(3, said=plan["said"], steps=2), own.sample(3, plan=json.loads(json.dumps(dict(plan))), steps=2),
    ):  # fmt: skip
        for x, y in zip(whole, again, strict=True):
            torch.testing.assert_close(torch.as_tensor(x), torch.as_tensor(y), rtol=1e-4, atol=1e-4)


def test_an_edited_plan_is_followed() -> None:
    own = model()
    plan = own.plan(2, said=[("a b", [10, 20]), ("c c a", [4, 4, 4])])
    for factor in (0.8, 1.25):
        slow = plan.scaled(factor)
        assert [sum(one["durations"]) for one in slow["said"]] == [round(30 * factor), round(12 * factor)]
        assert [len(x) for x in own.sample(2, plan=slow, steps=1)] == [round(30 * factor), round(12 * factor)]
    one = own.plan(1, said="a b")["said"]
    more = {**one, "durations": [d + 1 for d in one["durations"]]}
    assert len(own.sample(1, plan={"said": more}, steps=1)[0]) == sum(one["durations"]) + 2


def test_what_is_asked_of_sites_tells_sizes_and_the_rest_are_the_previews() -> None:
    own = model()
    assert dict(own.plan(3)) == {"length": [5, 6, 7]}
    assert dict(own.plan(2, kind=["HHE", None])) == {"kind": ["HHE", None], "length": [None, 6]}
    assert [len(x) for x in own.sample(2, kind=["HHE", None], steps=1)] == [3, 6]
    assert [len(x) for x in own.sample(2, kind="HHEEHH?", steps=1)] == [7, 7]


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda m: m.sample(1, plan=m.plan(1, said="a b"), said="a c"), r"sample 0 of the plan.*'a c' is asked"),
        (lambda m: m.sample(1, plan=m.plan(1, said="a b"), said=("a b", [1, 3])), "sample 0 of the plan"),
        (lambda m: m.sample(2, plan=m.plan(1, said="a b")), "a plan of 1 samples for 2"),
        (lambda m: m.sample(1, plan=[3]), "plan=list"),
        (lambda m: m.sample(1, said=("a b", [3, 4]), length=9), "durations of 7 sites in all, for a sample of 9"),
        (lambda m: m.sample(1, said=("a b", [3])), "2 symbols with the durations"),
        (lambda m: m.sample(1, said="a q"), "'q'.*never seen"),
        (lambda m: m.plan(1, said="a b").scaled(0), "positive"),
        (lambda m: m.plan(1, length=4).scaled(2.0), "lasts for a number of sites"),
        (lambda m: m.domain.request(1, said="a b"), "2 symbols without durations"),
        (lambda m: model(Lines({"said": Aligned(SYMBOLS)})).plan(1, said="a b"), "does not expect any"),
    ],
)
def test_plans_that_cannot_be_are_refused(ask: Any, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        ask(model())


def test_sums_of_rounded_durations_are_near() -> None:
    d = 0.2 + 6 * torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 2
    got = torch.tensor(rounded(d.clamp_min(1)))
    assert (got.cumsum(0) - d.clamp_min(1).cumsum(0)).abs().max() <= 1.5 and int(got.min()) >= 1
    assert rounded(torch.tensor([0.2, 0.2, 0.0], dtype=torch.float64)) == [1, 1, 0]


def test_expected_durations_are_means() -> None:
    """Trained on durations that vary, totals are right: a regression of logarithms would be short."""
    own, g = Aligned(SYMBOLS, width=8, layers=1, planned=True), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    embedder, loss = own.embedder(8), DurationLoss("said")
    optimizer = torch.optim.Adam(embedder.parameters(), 0.02)
    total, expected = 0.0, 0.0
    for step in range(300):
        values = []
        for _ in range(16):
            symbols = [SYMBOLS[int(k)] for k in torch.randint(3, (6,), generator=g)]
            spread = torch.exp(0.8 * torch.randn(6, generator=g) - 0.32)
            values.append(
                (symbols, [max(1, round(3 * MEANS[s] * float(z))) for s, z in zip(symbols, spread, strict=True)])
            )
        batch = own.collate([own.encode(value) for value in values])
        side = {"said_log_durations": embedder(batch)["log_durations"]}
        value = loss(None, None, None, side=side, said=batch)
        assert value.shape == (16,) and bool((value >= -1e-5).all())
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
        if step >= 200:
            total += sum(sum(d) for _, d in values)
            expected += float(side["said_log_durations"].detach().exp().sum())
    assert abs(expected / total - 1) < 0.03


def test_a_plan_is_in_the_manifest_and_draws_the_samples_again(tmp_path: Path) -> None:
    own = model()
    plan = own.plan(2, said=PROMPTS[:2])
    with SampleFolder(own, tmp_path / "out", 2, {"seed": 3, "request": plan}) as folder:
        drawn = own.sample(2, plan=plan, seed=3, steps=2, arrived=folder.add)
    told = json.loads((tmp_path / "out/manifest.json").read_text())
    assert told["request"] == dict(plan) and "finished" not in told
    again = own.sample(2, plan=told["request"], seed=3, steps=2)
    assert all((x == y).all() for x, y in zip(drawn, again, strict=True))


def test_samples_are_finished_once_and_raw_ones_kept(tmp_path: Path) -> None:
    own, plain = model(Polished()), model()
    raw = plain.sample(3, steps=2, batch=2)
    done = own.sample(3, steps=2, batch=2)
    assert own.domain.finishes and not plain.domain.finishes
    for x, y, z in zip(raw, done, own.sample(3, steps=2, batch=2, finished=False), strict=True):
        assert (x + 100 == y).all() and (x == z).all()
    with SampleFolder(own, tmp_path / "out", 3, {"seed": 0}) as folder:
        own.sample(3, steps=2, batch=2, arrived=folder.add, raw=folder.keep)
    told = json.loads((tmp_path / "out/manifest.json").read_text())
    assert told["finished"] is True and told["raw"] == [f"raw-{i:04d}.npy" for i in range(3)]
    assert set(told["files"]) | {"manifest.json"} == {path.name for path in (tmp_path / "out").iterdir()}
    for i in range(3):
        before, after = (own.domain.read(tmp_path / "out" / f"{word}{i:04d}.npy") for word in ("raw-", ""))
        assert bool((before + 100 == after).all())
    write_samples(own, done, tmp_path / "all")
    assert "raw" not in json.loads((tmp_path / "all/manifest.json").read_text())
    with pytest.raises(RequestError, match=r"Losing.finish made 1 samples of 2"):
        model(Losing()).sample(2, steps=1)
