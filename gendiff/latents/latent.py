r"""The states of a codec as a domain: any domain becomes a latent one by one object.

    Latent(domain, codec):   encode = codec.encode . domain.encode,   decode = domain.decode . codec.decode

Everything else (what may be asked, data, measures, files) is the inner domain's, but for what it says of its own states
while they are drawn or trained on (`constrain`, `auxiliary`, `cut`), which are none here. States are
[C, *sites / stride], or [sites / stride, C] where lengths differ, with mean 0 and covariance 1. The codec is part of
the model: `Model.save` writes its weights too.

What the inner domain makes at random of an example (`augment`) would have to be encoded anew at every step. Where there
are few such variants (`Domain.variants`: a picture and its mirror image), each is encoded once and is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.conditions import Condition, Expects
from gendiff.denoisers import Head, Velocity
from gendiff.domain import Domain, Example, Examples, Made, Request
from gendiff.errors import SHARE, RequestError, at_least, check
from gendiff.evaluation import Judge, Measure, Observer
from gendiff.guidance import Given, Measurement
from gendiff.latents.codec import AnyCodec
from gendiff.lazy import Lazy
from gendiff.nn import grid_network, grid_sizes
from gendiff.processes import Gaussian, Process
from gendiff.processes.schedules import Linear
from gendiff.spaces import State


@dataclass(frozen=True)
class Latent(Domain):
    """A domain whose states are a codec's latents of another domain's states.

    Args:
        domain: The inner one.
        codec: Trained on states of this kind (its statistics are taken over), or a `PretrainedCodec` of them.
        gate: The share of the variance of unseen states that the codec must give back for a model to be trained on it.
        tile: Latents along each axis that are decoded at a time; None for all at once.
    """

    name: ClassVar[str] = "latent"
    domain: Domain
    codec: AnyCodec
    gate: float = 0.8
    tile: int | None = None

    def __post_init__(self) -> None:
        check(self, gate=SHARE, tile=at_least(1))
        if isinstance(self.domain, Latent):
            raise RequestError("latents of latents", "a domain of artifacts")
        self.codec.expect(self.domain)
        if self.tile is not None and not self.codec.tiles:
            raise RequestError(
                f"Latent(tile={self.tile}) of a {type(self.codec).__name__}, each part of which sees the whole",
                "latents that are decoded at once",
                "tile=None",
            )
        fields = [name for name, own in self.domain.conditions.items() if not set(own.gives) <= {"vector", "tokens"}]
        if fields:
            raise RequestError(
                f"latents of a domain that is asked for {fields[0]!r} site by site",
                "conditions of the whole: a class, a number, a text",
                "Train on its states themselves",
            )
        vars(self)["domain"] = self.domain.with_statistics(self.codec.domain)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of a state of the inner domain, where all are alike."""
        return tuple(self.domain.request(1, **self.domain.preview(1)).like.shape[1:])

    @property
    def ragged(self) -> bool:  # type: ignore[override]
        return self.domain.ragged

    @property
    def process(self) -> Process:
        return Gaussian(Linear())

    @property
    def head(self) -> Head:
        return Velocity()

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return self.domain.conditions

    def with_conditions(self, conditions: Mapping[str, Condition]) -> Self:
        return replace(self, domain=self.domain.with_conditions(conditions))

    def fit(self, artifacts: Sequence[Any]) -> Latent:
        """The same, the inner domain fitted to training artifacts, with the codec's statistics.

        Raises:
            RequestError: For a codec that gives back less than `gate`.
        """
        if self.codec.fitted:
            self.accept(self.codec)  # before the artifacts are looked at
        domain = self.domain.fit(artifacts)
        codec = self.codec.fit(domain, artifacts)
        self.accept(codec)
        return replace(self, domain=domain, codec=codec)

    def accept(self, codec: AnyCodec) -> None:
        """Refuses a codec that gives back less than `gate`.

        Raises:
            RequestError: With what was measured.
        """
        found = codec.metrics.get("explained")
        if found is None or not found >= self.gate:
            told = "that was never measured" if found is None else f"that gives back {found:.3f} of the variance"
            raise RequestError(
                f"a codec {told} of states it has not seen",
                f"at least {self.gate:g}: what it loses, no model of its latents can draw",
                f"Train a codec longer or larger, or accept it: domain.gate={found:.2g}"
                if found is not None and found >= 0
                else "Train a codec of such states",
            )

    def encode(self, artifact: Any) -> State:
        return self.latents(self.domain.encode(artifact))

    def encode_given(self, artifact: Any) -> State:
        return self.latents(self.domain.encode_given(artifact))

    def latents(self, state: State) -> Tensor:
        """The latents of one state of the inner domain."""
        assert isinstance(state, Tensor)
        return self.codec.encode(state[None].float())[0]

    def decode(self, x: State) -> Any:
        assert isinstance(x, Tensor)
        state = self.codec.decode(x[None].float(), self.tile)[0]
        if not self.ragged:  # what was added to fit the stride
            state = state[tuple(slice(n) for n in self.shape)]
        return self.domain.decode(state)

    def request(self, n: int, *args: Any, **what: Any) -> Request:
        inner = self.domain.request(n, *args, **what)
        grid, (latent, stride) = self.codec.grid, self.codec.layout
        x = grid.channels_first(inner.like)
        sites = [-(-count // stride) for count in x.shape[2:]]
        cond = dict(inner.cond)
        if "mask" in cond:
            lengths = -(-cond["mask"].sum(1) // stride)
            cond["mask"] = torch.arange(sites[0])[None] < lengths[:, None]
        return Request(grid.states(torch.zeros(n, latent, *sites)), cond)

    def asks(self) -> dict[str, Any]:
        return self.domain.asks()

    @grid_sizes
    def network(self, **size: Any) -> nn.Module:
        """A U-Net, or a DiT where `width` is given, on the grid of latents."""
        own = self.request(1, **self.preview(1)).like
        x = self.codec.grid.channels_first(own)
        sites = None if self.ragged else tuple(x.shape[2:])
        made = grid_network(x.ndim - 2, x.shape[1], self.conditions, sites=sites, **size)
        return ChannelsLast(made) if self.codec.grid.last else made

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        """The inner domain's; of "train" every variant of an example is one."""
        examples = self.domain.dataset(split, root)
        count = len(self.domain.variants(examples[0].artifact)) if split == "train" and len(examples) else 1
        if count == 1:
            return examples
        keys = [(i, k) for i in range(len(examples)) for k in range(count)]
        conds, names = examples.conds, examples.names
        said = [conds[i] for i, _ in keys]
        items = Made(
            Lazy(keys, partial(variant, self.domain, examples.items)),
            said,
            [f"{names[i]}, variant {k}" if k else names[i] for i, k in keys],
        )
        return Examples(items, examples.rejected, examples.others, examples.notes)

    def known(self, given: Any, what: Mapping[str, Any]) -> tuple[Given | Measurement, dict[str, Any]]:
        """What the inner domain makes of it, latent by latent: one is known where all its sites are.

        A codec sees beyond them: what is hidden is at the data's mean for it, so that nothing hangs on it.
        """
        inner, what = self.domain.known(given, what)
        if not isinstance(inner, Given):
            raise RequestError(
                "a measurement of artifacts, and states that are latents",
                "what is known as it is, e.g. a masked picture",
            )
        assert isinstance(inner.x0, Tensor)
        assert isinstance(inner.keep, Tensor)
        grid, network = self.codec.grid, self.codec.network
        keep = network.padded(grid.channels_first(inner.keep.expand_as(inner.x0)).float())
        pool = (F.max_pool1d, F.max_pool2d)[grid.dims - 1]
        whole = 1 - pool(1 - keep.amin(1, keepdim=True), network.stride)
        z = self.codec.encode(torch.where(inner.keep, inner.x0, 0.0))
        return Given(z, grid.states(whole > 0.5).expand_as(z)), what

    @property
    def givens(self) -> Mapping[str, str]:
        return self.domain.givens

    def given(self, n: int, seed: int = 0, **said: Any) -> Any:
        return self.domain.given(n, seed, **said)

    def implied(self, what: Mapping[str, Any]) -> Any:
        return self.domain.implied(what)

    def completed(self, artifact: Any, given: Any, number: int) -> Any:
        return self.domain.completed(artifact, given, number)

    def plan(self, n: int, expects: Expects, /, **asked: Any) -> dict[str, Any]:
        return self.domain.plan(n, expects, **asked)

    def preview(self, n: int) -> dict[str, Any]:
        return self.domain.preview(n)

    def size_of(self, artifact: Any) -> dict[str, Any]:
        return self.domain.size_of(artifact)

    def ranges(self) -> Mapping[str, tuple[float, float]]:
        return self.domain.ranges()

    def metrics(self) -> Mapping[str, Measure | Callable[[list[Any], list[Any]], float]]:
        return self.domain.metrics()

    def judges(self) -> Mapping[str, Callable[[Examples, Examples], Judge]]:
        return self.domain.judges()

    def observed(self) -> Mapping[str, Observer]:
        return self.domain.observed()

    def finish(self, artifacts: list[Any]) -> list[Any]:
        return self.domain.finish(artifacts)

    @property
    def finishes(self) -> bool:
        return self.domain.finishes

    def read(self, path: str | Path) -> Any:
        return self.domain.read(path)

    def write(self, artifact: Any, path: str | Path) -> None:
        self.domain.write(artifact, path)

    def plot(self, artifacts: Sequence[Any], path: str | Path, *, labels: Sequence[str] | None = None) -> None:
        self.domain.plot(artifacts, path, labels=labels)

    @property
    def suffix(self) -> str:
        return self.domain.suffix

    @property
    def suffixes(self) -> tuple[str, ...]:
        return self.domain.suffixes

    def carried(self) -> Mapping[str, nn.Module]:
        return self.codec.carried()

    def pinned(self) -> Mapping[str, str]:
        return {"codec": self.codec.digest}

    def carry(self, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], Tensor], where: str) -> Latent:
        return replace(self, codec=self.codec.carry(shapes, tensor, where))


def variant(domain: Domain, items: Sequence[Example], key: tuple[int, int]) -> Any:
    """The k-th variant of the i-th example's artifact."""
    i, k = key
    return domain.variants(items[i].artifact)[k]


class ChannelsLast(nn.Module):
    """A network of sequences [B, C, L] on states [B, L, C]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        for told in ("takes_previous", "takes_to", "takes_guidance"):
            setattr(self, told, bool(getattr(inner, told, False)))

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of the conditions depends neither on x nor on t, for the condition "embedded"."""
        return self.inner.embed(cond)  # type: ignore[operator]

    def forward(
        self, x: Tensor, t: Tensor, mask: Tensor | None = None, previous: Tensor | None = None, **cond: Any
    ) -> Tensor:
        """x [B, L, C], t [B], mask bool [B, L] to [B, L, C]."""
        before = None if previous is None else previous.mT
        return self.inner(x.mT, t, mask, before, **cond).mT
