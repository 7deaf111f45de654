r"""A codec: from the states of a domain to fewer numbers and back, trained, measured, and kept in a file.

    x = domain.encode(artifact),   z = codec.encode(x),   x' = codec.decode(z)

Its file holds the weights and one JSON text, as a model's does, and is read as carefully. The codec knows the domain it
was trained on, with the statistics that were found then: a state means the same in every latent model that uses it.
"""

from __future__ import annotations

import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from gendiff.config import from_config, to_config
from gendiff.domain import Domain, sealed
from gendiff.errors import CheckpointError, GendiffError, RequestError, check
from gendiff.latents.autoencoder import Autoencoder
from gendiff.latents.bottlenecks import KL, Bottleneck
from gendiff.latents.whitening import Whitened
from gendiff.modelfile import (
    FORMAT,
    Weightless,
    as_checkpoint_error,
    check_size,
    digest,
    domain_config,
    make_network,
    open_model,
    read_domain,
    require_digest,
    text_digest,
    write_whole,
)
from gendiff.spaces import Euclidean

HINTS = {
    "domain": Mapping, "network": Mapping, "bottleneck": Mapping, "recipe": Mapping,
    "metrics": Mapping[str, float],
}  # fmt: skip


class Grid(NamedTuple):
    """How states lie on a grid: their channels, the number of axes of sites, and whether channels come last."""

    channels: int
    dims: int
    last: bool

    @staticmethod
    def of(domain: Domain) -> Grid:
        """That of a domain's states: [C, *sites], or [sites, C] where lengths differ.

        Raises:
            RequestError: For states that a convolution cannot read.
        """
        with Weightless():  # a file may tell any size
            like, space = domain.request(1, **domain.preview(1)).like, domain.process.space
        fits = isinstance(like, Tensor) and like.is_floating_point() and isinstance(space, Euclidean)
        if not fits or like.ndim not in ((3,) if domain.ragged else (3, 4)):
            raise RequestError(
                f"a codec of {type(domain).__name__}, whose states are {_described(like)} on {space!r}",
                "numbers on a grid, [C, L], [C, H, W] or [L, C], on a Euclidean space",
            )
        return Grid(like.shape[-1] if domain.ragged else like.shape[1], like.ndim - 2, domain.ragged)

    def channels_first(self, x: Tensor) -> Tensor:
        """A batch of states with its channels in place 1."""
        return x.movedim(-1, 1) if self.last else x

    def states(self, x: Tensor) -> Tensor:
        """`channels_first` undone."""
        return x.movedim(1, -1) if self.last else x


def _described(like: Any) -> str:
    return f"[{', '.join(map(str, like.shape[1:]))}]" if isinstance(like, Tensor) else "bundles of parts"


class AnyCodec(ABC):
    """What `Latent` takes: a frozen dataclass that turns the states of a domain into latents and back.

    Attributes:
        domain: Whose states it codes, as it was fitted.
        digest: SHA-256 of its weights.
        metrics: What was measured on states of the domain: "explained", the share of their variance that it gives back.
        tiles: Whether it decodes in tiles, to the same as the whole.
        fitted: Whether its latents are white and it is measured.
    """

    domain: Domain
    digest: str
    metrics: Mapping[str, float]
    tiles: ClassVar[bool] = True

    @property
    def fitted(self) -> bool:
        return True

    @property
    @abstractmethod
    def network(self) -> Whitened:
        """Its network with its weights."""

    @property
    @abstractmethod
    def layout(self) -> tuple[int, int]:
        """Channels of a latent, and sites of a state to one along each axis."""

    @cached_property
    def grid(self) -> Grid:
        """Of its domain's states."""
        return Grid.of(self.domain)

    def fit(self, domain: Domain, artifacts: Sequence[Any]) -> Self:
        """The same, whitened and measured on training artifacts of a fitted domain, if that was not done before."""
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """A batch of states to latents, channels where those of the states are: [B, C, *sites], or [B, sites, C]."""
        grid, network = self.grid, self.network
        return grid.states(network.encode(grid.channels_first(x)))

    @torch.no_grad()
    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Latents to a batch of states, of as many sites as fit the stride; in tiles of so many latents if asked."""
        grid, network = self.grid, self.network
        return grid.states(network.decode(grid.channels_first(z), tile))

    @torch.no_grad()
    def restored(self, state: Tensor, network: Whitened | None = None) -> Tensor:
        """What the codec, or another network of its size, makes of one state, of the same sites."""
        grid, network = self.grid, network or self.network
        x = grid.channels_first(state[None].float())
        y = network.decode(network.encode(x))
        return grid.states(y[(..., *(slice(n) for n in x.shape[2:]))])[0]

    def explained(self, states: Iterable[Tensor], network: Whitened | None = None) -> tuple[float, int]:
        """The share of the variance of states that the codec, or another network of its size, gives back; of how many.

        NaN for states without variance.
        """
        n = lost = count = total = square = 0.0
        for x in states:
            lost += float((self.restored(x, network) - x).double().square().sum())
            wide = x.double()
            n, count, total = n + 1, count + x.numel(), total + float(wide.sum())
            square += float(wide.square().sum())
        whole = square - total**2 / max(count, 1)
        return 1 - lost / whole if whole > 0 else math.nan, int(n)

    def expect(self, domain: Domain) -> None:
        """Refuses a domain whose states it cannot code.

        Raises:
            RequestError: For another domain, or states of other channels.
        """
        if type(domain) is not type(self.domain) or Grid.of(domain) != self.grid:
            raise RequestError(
                f"a codec of {_named(self.domain)} for {_named(domain)}",
                "a codec that was trained on states of the same kind",
                "Train one on this domain",
            )

    def carried(self) -> Mapping[str, nn.Module]:
        """Networks that the file of a model of its latents carries, by name."""
        return {}

    def carry(self, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], Tensor], where: str) -> Self:
        """The same with the weights that a file carries, as `Domain.carry`."""
        if shapes:
            raise RequestError(
                f"{where} carries {len(shapes)} weights of a codec that has none", "a model's own weights"
            )
        return self


@dataclass(frozen=True)
class Codec(AnyCodec):
    """What a codec is; its `network` is beside the fields.

    Args:
        domain: Whose states it codes, as it was fitted.
        size: The arguments of its `Autoencoder`: latent, stride, widths, blocks, deep.
        bottleneck: Of it.
        digest: SHA-256 of its weights; "" for one that is not trained.
        metrics: What was measured on states that it had not seen: "explained", the share of their variance, and "pca",
            that of a linear codec of the same size.
        path: The file it was read from, where its weights are found again.
    """

    domain: Domain
    size: Mapping[str, Any] = field(default_factory=dict)
    bottleneck: Bottleneck = field(default_factory=KL)
    digest: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    path: str = ""

    def __post_init__(self) -> None:
        check(self)

    @property
    def arguments(self) -> dict[str, Any]:
        """All that its network is built with."""
        grid = self.grid
        given = {"dims": grid.dims, "channels": grid.channels, "bottleneck": self.bottleneck, **self.size}
        try:
            bound = inspect.signature(Autoencoder).bind(**given)
        except TypeError as error:
            raise RequestError(
                f"a codec of the size {dict(self.size)!r:.200} ({error})", "that of an Autoencoder"
            ) from error
        bound.apply_defaults()
        return bound.arguments

    @property
    def layout(self) -> tuple[int, int]:
        return self.arguments["latent"], self.arguments["stride"]

    @property
    def network(self) -> Autoencoder:
        """Its network with its weights, read from `path` when they are not at hand.

        Raises:
            CheckpointError: If they are gone, or others.
        """
        found = vars(self).get("_network")
        if found is None:
            if not self.path:
                raise CheckpointError(
                    "A codec without its weights", "one that was trained or loaded", 'Codec.load("runs/codec")'
                )
            if not Path(self.path).exists():
                raise CheckpointError(
                    f"The codec of these latents is not at {self.path} any more",
                    f"the codec {self.digest[:12]}... there",
                    f'Put it back; a finished model carries it: gendiff.load("RUN").domain.codec.save({self.path!r})',
                )
            other = Codec.load(self.path)
            if self.digest != other.digest:
                raise CheckpointError(
                    f"{self.path} is now another codec ({other.digest[:12]}..., and {self.digest[:12]}... was used)",
                    "the codec that the latents were made with",
                    "Put it back there, or prepare and train anew",
                )
            found = self.attach(other.network)
        return found

    def attach(self, network: Autoencoder) -> Autoencoder:
        """Puts a network beside the fields, to evaluate with."""
        vars(self)["_network"] = network.eval().requires_grad_(False)
        return network

    def built(self) -> Autoencoder:
        """A new network of its size."""
        return Autoencoder(**self.arguments)

    def with_network(self, network: Autoencoder, metrics: Mapping[str, float] | None = None) -> Codec:
        """The codec of these weights."""
        known = {k: v for k, v in (metrics or self.metrics).items() if math.isfinite(v)}
        found = replace(self, digest=digest(network.state_dict()), metrics=known, path="")
        found.attach(network)
        return found

    def at(self, path: str | Path) -> Codec:
        """The same, found again in a file."""
        found = replace(self, path=str(Path(path).resolve()))
        found.attach(self.network)
        return found

    def carried(self) -> Mapping[str, nn.Module]:
        return {"codec": self.network}

    def carry(self, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], Tensor], where: str) -> Codec:
        own = {name.removeprefix("codec."): name for name in shapes}
        network = read_network(
            self, {short: shapes[name] for short, name in own.items()}, lambda short: tensor(own[short]), where
        )
        found = self.with_network(network)
        if found.digest != self.digest:
            raise RequestError(
                f"{where} carries another codec ({found.digest[:12]}...)", f"the one it names, {self.digest[:12]}..."
            )
        return found

    def config(self, recipe: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All but the weights, JSON-able."""
        from gendiff import __version__

        return {
            "format": FORMAT,
            "version": __version__,
            "domain": domain_config(self.domain),
            "network": to_config(self.size),
            "bottleneck": to_config(self.bottleneck),
            "recipe": to_config(recipe or {}),
            "metrics": dict(self.metrics),
        }

    def save(self, path: str | Path, recipe: Mapping[str, Any] | None = None) -> Path:
        """Writes weights and config to one .safetensors file, replacing it whole or not at all."""
        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        text = json.dumps(self.config(recipe))
        metadata = {"gendiff": text, "config_sha256": text_digest(text), "weights_sha256": digest(weights)}
        return write_whole(path, serialise(weights, metadata=metadata))

    @staticmethod
    @torch.inference_mode(False)
    def load(path: str | Path, parts: Sequence[type] = ()) -> Codec:
        """A codec from its file, or from the folder of the run that trained it.

        Args:
            path: The file or folder.
            parts: Classes of your own that the file names, where no package registers them.

        Raises:
            CheckpointError: If the file is missing, damaged, no codec's, or has weights that do not fit.
        """
        with open_model(path, HINTS) as (file, config):
            try:
                with sealed():
                    domain, kinds = read_domain(config["domain"], f"{path}: domain", parts)
                    bottleneck = from_config(config["bottleneck"], kinds=kinds, hint=Bottleneck)
                    size = from_config(config["network"], kinds=kinds, hint=Mapping)
                codec = Codec(domain, size, bottleneck, path=str(file.path.resolve()))
                network = read_network(codec, file.shapes, file.tensor, str(path))
            except GendiffError as error:
                raise as_checkpoint_error(error) from error
            found = digest(network.state_dict())
            if "weights_sha256" in file.metadata:
                require_digest(file.metadata["weights_sha256"], found, file.path, "weights")
        codec = replace(codec, digest=found, metrics=config["metrics"])
        codec.attach(network)
        return codec


def read_network(codec: Codec, shapes: Mapping[str, tuple[int, ...]], tensor: Any, where: str) -> Autoencoder:
    """The network of a codec from tensors of a file, compared with their shapes before memory is taken for it.

    Args:
        codec: What it is.
        shapes: By name.
        tensor: f(name) -> the tensor.
        where: What is being read, for messages.
    """
    size = {"kind": Autoencoder, **codec.arguments}
    check_size(codec.domain, size, shapes, where)
    with sealed():
        network = make_network(codec.domain, size)
    network.load_state_dict({name: tensor(name) for name in shapes})
    assert isinstance(network, Autoencoder)
    return network


def _named(domain: Domain) -> str:
    grid = Grid.of(domain)
    return f"{type(domain).__name__} ({grid.channels} channels, {grid.dims} axes)"
