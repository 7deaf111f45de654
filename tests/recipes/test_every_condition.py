"""Every kind of condition in every kind of network, under every guidance, with a known part, with fitted tables, and
from the shell.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gendiff
from gendiff import (
    APG,
    Aligned,
    Condition,
    Domain,
    Euler,
    Field,
    Given,
    GuidanceInterval,
    Label,
    Model,
    Number,
    PretrainedText,
    Reference,
    Sites,
    Text,
)  # fmt: skip
from gendiff.cli import main
from gendiff.conditions import pretrained
from gendiff.errors import RequestError, RequestWarning
from gendiff.spaces import leaves, map_state
from gendiff.testing import randomised
from gendiff_audio import Audio
from gendiff_images import Digits, Images
from gendiff_proteins import Ideal, Proteins
from tests.core.encoders import CORPUS, t5

SITES = 20


@dataclass(frozen=True)
class Kind:
    """A condition with a value for a state of some sites, how a person types it, and what no person may ask."""

    own: Condition
    value: Any
    typed: str = ""
    wrong: tuple[str, ...] = ()


def kinds(encoder: Path) -> dict[str, Any]:
    picture = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    million = "red " * 250_000
    bad = ("a \ud83d", million)
    return {
        "Label": lambda sites: Kind(
            Label(("cat", "dog \u200f", "1")), "cat", "cat", ("doge", "7", "\u202ecat", "\ud83d", million)
        ),
        "Number": lambda sites: Kind(
            Number("Hz", "log").fit([100.0, 400.0]), 200.0, "200",
            ("nan", "inf", "-1", "0", "200Hz", "1e400", "x" * 10**6),
        ),
        "Text": lambda sites: Kind(Text().fit(CORPUS), "a red heart", "a red heart", ("a red hart", *bad)),
        "Text in pieces": lambda sites: Kind(
            Text(tokenizer="bpe", size=280).fit(CORPUS), "a rød \U0001f600", "rød", bad
        ),
        "PretrainedText": lambda sites: Kind(PretrainedText(str(encoder)).fit(CORPUS), "a red heart", "red", bad),
        "Reference": lambda sites: Kind(
            Reference(Images(size=8, channels=1), layers=1).fit([picture]), picture, "",
            ("absent.png", "\ud83d", "\x1b"),
        ),
        "Sites": lambda sites: Kind(
            Sites(("H", "E")), "H" * sites[0], "H" * sites[0], ("H" * (sites[0] + 1), "X" * sites[0], "\u200f", million)
        ),
        "Field": lambda sites: Kind(Field(1), torch.ones(*sites, 1), "", ("3",)),
        "Aligned": lambda sites: Kind(
            Aligned(("h", "e")), (["h", "e"], [1, sites[0] - 1]), f"h:1 e:{sites[0] - 1}",
            (f"h:1 e:{sites[0]}", "x:1", "h:-1", "h", "h:1e3", "h:" + "9" * 40)
        ),
    }  # fmt: skip


NAMES = ("Label", "Number", "Text", "Text in pieces", "PretrainedText", "Reference", "Sites", "Field", "Aligned")
NETWORKS: dict[str, Any] = {
    "U-Net": (lambda asked: Images(size=8, channels=1, asked=asked), {"channels": (8, 8), "blocks": 1}, (8, 8), {}),
    "DiT": (lambda asked: Images(size=8, channels=1, asked=asked), {"width": 32, "depth": 1, "heads": 2}, (8, 8), {}),
    "mel U-Net": (
        lambda asked: replace(Audio(asked=asked), lengths=(SITES,)), {"channels": (8, 8)}, (SITES,),
        {"seconds": SITES * 128 / 8000},
    ),
    "frame network": (
        lambda asked: Proteins(source=Ideal(16, SITES, SITES), asked=asked),
        {"width": 32, "depth": 1, "heads": 2, "pair": 8}, (SITES,), {"length": SITES},
    ),
}  # fmt: skip
RULES: dict[str, Any] = {
    "none": 1.0,
    "a number": 2.0,
    "by condition": {"own": 2.0},
    "a rule": GuidanceInterval(APG(2.0, radius=3.0), 0.05, 30.0),
}


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("conditions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENDIFF_DATA", str(home / "absent"))
        yield kinds(t5(home / "t5"))
    pretrained.KEPT.clear()
    pretrained.OPEN.clear()


def model_of(domain: Domain, size: dict[str, Any]) -> Model:
    model = Model.new(domain, **size)
    randomised(model.denoiser.network)
    model.recipe = {"guidance": {"own": 2.0}}
    return model


def flat(model: Model, *args: Any, **asked: Any) -> Tensor:
    """Samples as [n, numbers], float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RequestWarning)
        state = model.states(*args, **asked)[0][0]
    return torch.cat([part.flatten(1).double() for part in leaves(state)], 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("network", "name"),
    [(net, name) for net in NETWORKS for name in NAMES if name != "Sites" or len(NETWORKS[net][2]) == 1],
)
def test_every_condition_in_every_network(every: dict[str, Any], network: str, name: str) -> None:
    """Whatever the rule and the known part: numbers are finite, what is asked moves its own sample and no other, a
    sample is the same alone, and what is known stays.
    """
    make, size, sites, what = NETWORKS[network]
    kind = every[name](sites)
    own = replace(kind.own, tokens=False) if network == "frame network" and "tokens" in kind.own.gives else kind.own
    model = model_of(make({"own": own}), size)
    asked: dict[str, Any] = {"sampler": Euler(2), **dict.fromkeys(model.domain.labels), **what}
    asked.pop("own", None)
    like = model.domain.request(1, own=None, **what).like
    x0 = map_state(torch.zeros_like, like)
    if network == "frame network":
        x0 = {**x0, "rot": torch.eye(3).expand(1, SITES, 3, 3).clone()}
    keep = torch.zeros(1, *((1, 8, 8) if len(sites) == 2 else (SITES,)), dtype=torch.bool)
    keep[..., :3] = True
    keep = keep if network != "mel U-Net" else keep[..., None]
    for rule, scale in RULES.items():
        for given in (None, Given(x0, keep)):
            more = {**asked, "guidance": scale, "given": given}
            both = flat(model, 2, own=[kind.value, None], **more)
            free = flat(model, 2, own=None, **{**more, "guidance": 1.0 if rule == "none" else scale})
            alone = flat(model, 1, own=kind.value, **more)
            where = (rule, given is not None)
            assert bool(both.isfinite().all()), where
            assert float((both[0] - free[0]).abs().max()) > 1e-6, where
            assert float((both[1] - free[1]).abs().max()) < 1e-3 * (1 + float(free[1].abs().max())), where
            assert float((both[0] - alone[0]).abs().max()) < 1e-3 * (1 + float(alone.abs().max())), where
    if len(sites) == 2:
        drawn = flat(model, 2, own=kind.value, given=Given(x0, keep), **asked).view(2, 1, 8, 8)
        assert float(drawn[..., :3].abs().max()) < 1e-6
    if network != "frame network":  # whose own sampler draws noise
        model.calibrate(
            2, pilots=8, rounds=0, fine=4, own=kind.value, **{k: v for k, v in asked.items() if k != "sampler"}
        )
        tables = {k: v for k, v in asked.items() if k != "sampler"}
        both = flat(model, 2, own=[kind.value, None], steps=2, **tables)
        assert bool(both.isfinite().all())


@pytest.fixture
def saved(every: dict[str, Any], tmp_path: Path) -> Any:
    def save(name: str) -> tuple[Kind, Path]:
        kind = every[name]((8, 8))
        domain = replace(Images.of(Digits()), asked={"own": kind.own})
        return kind, model_of(domain, {"channels": (8, 8), "blocks": 1}).save(tmp_path / "m.safetensors")

    return save


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "Sites"])  # which lie along one axis
def test_every_condition_from_the_shell(
    saved: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """info, sample, evaluate, bench and calibrate; what may not be asked is refused in a line, and nothing is drawn."""
    kind, path = saved(name)
    typed = kind.typed
    if name == "Reference":
        typed = str(tmp_path / "like.png")
        gendiff.load(path).domain.write(kind.value, typed)
    said = [f"own={typed}"] if typed else []
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "  own=" in out and "none for any" in out and all(c.isprintable() or c == "\n" for c in out)
    assert main(["sample", str(path), *said, "-n", "2", "--steps", "2", "--out", str(tmp_path / "drawn")]) == 0
    manifest = json.loads((tmp_path / "drawn" / "manifest.json").read_text(encoding="utf8"))
    assert manifest["complete"] and manifest["guidance"] == "{'own': 2.0}"
    assert main(["sample", str(path), "own=none", "-n", "1", "--steps", "2", "--out", str(tmp_path / "free")]) == 0
    seen = [] if name == "Label" else said  # no digit is a cat
    assert main(["evaluate", str(path), *seen, "-n", "4", "--halves", "0"]) == 0
    assert main(["bench", str(path), "-n", "2", "--steps", "2", "--reference", "3"]) == 0
    assert main(["calibrate", str(path), *said, "--steps", "2", "--pilots", "8", "--rounds", "0"]) == 0
    assert main(["sample", str(path), *said, "-n", "1", "--steps", "2", "--out", str(tmp_path / "fitted")]) == 0
    capsys.readouterr()
    for wrong in kind.wrong:
        assert main(["sample", str(path), f"own={wrong}", "-n", "1", "--out", str(tmp_path / "none")]) != 0, wrong[:80]
        err = capsys.readouterr().err
        assert "Traceback" not in err and len(err) < 2500 and not (tmp_path / "none").exists(), err[:2000]
        assert all(c.isprintable() or c == "\n" for c in err), err


def test_numbers_beyond_those_of_training_are_warned_of(saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = saved("Number")
    assert main(["info", str(path)]) == 0
    assert "Hz, 100 to 400 in training" in capsys.readouterr().out
    model = gendiff.load(path)
    asked: dict[str, Any] = {"label": None, "guidance": 1.0, "sampler": Euler(1)}
    for within in (100.0, 400, np.float32(250.0), [100.0, None]):
        model.sample(2 if isinstance(within, list) else 1, own=within, **asked)
    for outside in (50.0, 4000, np.float64(1e6), [100.0, 1e9], torch.tensor(4000.0)):
        with pytest.warns(RequestWarning, match="own=.* is outside what this model was trained on, 100 to 400"):
            model.sample(2 if isinstance(outside, list) else 1, own=outside, **asked)
    with pytest.raises(RequestError, match="own"):
        model.sample(1, own=float("nan"), **asked)
