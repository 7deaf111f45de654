"""A folder of samples holds those of one request, whole, with what draws them again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from gendiff import Domain, Examples, Gaussian, Linear, Model, Request
from gendiff.errors import RequestError
from gendiff.modelfile import digest
from gendiff.samples import SampleFolder, write_samples


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(x)


@dataclass(frozen=True)
class Points(Domain):
    name: ClassVar[str] = "points"

    @property
    def process(self) -> Gaussian:
        return Gaussian(Linear())

    def encode(self, artifact: Tensor) -> Tensor:
        return artifact

    def decode(self, x: Tensor) -> Tensor:
        return x

    def request(self, n: int) -> Request:
        return Request(torch.empty(n, 2))

    def network(self, **size: Any) -> nn.Module:
        return Net(**size)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return Examples([])


@pytest.fixture
def model() -> Model:
    return Model.new(Points())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_samples_come_with_what_draws_them_again(model: Model, tmp_path: Path) -> None:
    artifacts = model.sample(3, seed=7)
    write_samples(model, artifacts, tmp_path / "s", {"seed": 7, "request": {"size": torch.tensor([2, 3])}})
    assert names(tmp_path / "s") == ["0000.npy", "0001.npy", "0002.npy", "manifest.json"]
    found = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert found["complete"] is True and found["seed"] == 7 and found["request"] == {"size": [2, 3]}
    assert found["sampler"] == repr(model.sampler) and found["model"] == digest(model.denoiser.network.state_dict())
    again = model.sample(found["n"], seed=found["seed"])
    assert all(
        torch.equal(model.domain.read(tmp_path / "s" / n), x) for n, x in zip(found["files"], again, strict=True)
    )


def test_nothing_old_is_left_among_the_new(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    write_samples(model, model.sample(3), folder)
    with pytest.raises(RequestError, match="earlier request"):
        write_samples(model, model.sample(1), folder)
    assert len(names(folder)) == 4
    write_samples(model, model.sample(1), folder, overwrite=True)
    assert names(folder) == ["0000.npy", "manifest.json"]
    (folder / "mine.txt").write_text("notes")
    with pytest.raises(RequestError, match=r"mine\.txt"):
        write_samples(model, model.sample(1), folder, overwrite=True)
    assert names(folder) == ["0000.npy", "manifest.json", "mine.txt"]
    with pytest.raises(RequestError, match="is a file"):
        write_samples(model, model.sample(1), folder / "mine.txt")


def test_what_stops_the_drawing_leaves_the_samples_drawn_so_far(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "s"

    def stop(artifacts: list[Any]) -> None:
        out.add(artifacts)
        if len(out.artifacts) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), SampleFolder(model, folder, 7, {"seed": 1}) as out:
        model.sample(7, seed=1, batch=2, arrived=stop)
    assert names(folder) == ["0000.npy", "0001.npy", "0002.npy", "0003.npy", "manifest.json"]
    assert json.loads((folder / "manifest.json").read_text())["complete"] is False
    whole = model.sample(7, seed=1)
    assert torch.equal(model.domain.read(folder / "0003.npy"), whole[3])
    write_samples(model, whole, folder, overwrite=True)
    assert len(names(folder)) == 8


def test_each_sample_is_decoded_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding may be the costly part (a phase, a vocoder); artifacts arrive as those that are returned."""
    decoded: list[Tensor] = []
    monkeypatch.setattr(Points, "decode", lambda self, x: decoded.append(x) or x + 1)
    seen: list[Any] = []
    artifacts = model.sample(5, seed=1, batch=2, arrived=seen.extend)
    assert len(decoded) == 5 and all(a is b for a, b in zip(artifacts, seen, strict=True))
    singles: list[Any] = []
    states, _ = model.states(5, seed=1, batch=2, arrived=singles.extend)
    assert len(decoded) == 5 and torch.equal(torch.stack(singles), torch.cat(states))
