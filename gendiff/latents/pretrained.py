r"""A codec of pictures that was trained elsewhere and stays as it is: an autoencoder of `diffusers` in a folder.

    p = (x - b) / a                     a picture, of a state x = a p + b (`Domain.units`)
    u = 2 (p - low) / (high - low) - 1  what the autoencoder takes, -1 to 1
    h = (mu(u) - o) s                   mu the mean of its posterior; o, s the shift and the scale that its config names
    z = W (h - m)                       m and W W^T = Cov(h)^-1 measured on training states (see `whitening`)

A model file does not carry the autoencoder: it names its folder, and pins it by the digest of its files. What was
measured on the domain's states (m, Cov(h), and the share of their variance that comes back) is in the model's config.

A folder is a stranger's: its weights are safetensors, no code in it is run, nothing is fetched.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gendiff.domain import Domain
from gendiff.errors import DataError, GendiffError, MissingExtra, RequestError, at_least, check, nearest, refuse
from gendiff.files import data_root, folder_digest, pinned_folder
from gendiff.latents.codec import AnyCodec, Codec
from gendiff.latents.whitening import Whitened, moments

FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
LEVELS = {
    "AutoencoderKL": "block_out_channels",
    "AutoencoderDC": "encoder_block_out_channels",
    "AutoencoderTiny": "encoder_block_out_channels",
}
"""By class, the list of which each member but the first halves the sites."""
GREY, COLOUR = 1, 3


class Facts(NamedTuple):
    """What the config of an autoencoder says: its class, its channels, those of a latent, and its stride."""

    kind: str
    channels: int
    latent: int
    stride: int


@dataclass(frozen=True)
class PretrainedCodec(AnyCodec):
    """A frozen `AutoencoderKL`, `AutoencoderDC` or `AutoencoderTiny` in a folder, as `save_pretrained` writes it.

    `PretrainedCodec.open(folder, domain)` makes it (`pip install "gendiff[diffusers]"`); `fit` measures it, as a
    training does by itself. Grey pictures are given to an autoencoder of colours as three equal channels, and come back
    as the mean of three.

    Args:
        domain: Whose states it codes: pictures [C, H, W] in units of their own (`Domain.units`).
        path: The folder, from here, or below the data folder; there it is also found by its own name.
        digest: SHA-256 of its files.
        channels: Of its pictures.
        latent: Channels of a latent.
        stride: Pixels to a latent along each axis.
        span: The values of a picture that the autoencoder sees as -1 and as 1.
        measured: Training states on which `fit` measures.
        mean: Of latents; () before `fit`.
        covariance: Of latents: the rows of its lower triangle, end to end.
        metrics: "explained", the share of the variance of those states that it gives back, and "states", how many.
    """

    domain: Domain
    path: str
    digest: str
    channels: int
    latent: int
    stride: int
    span: tuple[float, float] = (0.0, 1.0)
    measured: int = 512
    mean: tuple[float, ...] = field(default=(), repr=False)
    covariance: tuple[float, ...] = field(default=(), repr=False)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tiles: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, channels=at_least(1), latent=at_least(1), stride=at_least(1), measured=at_least(1))
        if not self.span[0] < self.span[1]:
            refuse(self, "span", "two numbers, the lower one first")
        if len(self.mean) not in (0, self.latent):
            refuse(self, "mean", f"{self.latent} numbers, one for each channel of a latent")
        if len(self.covariance) != len(self.mean) * (len(self.mean) + 1) // 2:
            refuse(self, "covariance", "the lower triangle of a matrix, of as many rows as the mean has numbers")

    @staticmethod
    def open(path: str | Path, domain: Domain, span: tuple[float, float] = (0.0, 1.0)) -> PretrainedCodec:
        """The autoencoder in a folder, for the states of a domain; not measured yet.

        Raises:
            RequestError: For no such folder, one of another class or without safetensors, and states that it cannot
                code.
        """
        home = folder_of(str(path))
        _, channels, latent, stride = facts_of(home)
        found = PretrainedCodec(
            domain, str(home.resolve()), folder_digest(home, FILES), channels, latent, stride, span=span
        )
        found.expect(domain)
        return found

    @property
    def fitted(self) -> bool:
        return bool(self.mean)

    @property
    def layout(self) -> tuple[int, int]:
        return self.latent, self.stride

    @property
    def network(self) -> PretrainedAutoencoder:
        """Its network, the autoencoder of which is read from the folder when it is first used."""
        if "_network" not in vars(self):
            vars(self)["_network"] = PretrainedAutoencoder(self)
        return vars(self)["_network"]

    def expect(self, domain: Domain) -> None:
        super().expect(domain)
        grid, units = self.grid, domain.units()
        served = (self.channels, GREY) if self.channels == COLOUR else (self.channels,)
        if grid.dims != 2 or grid.channels not in served:
            raise RequestError(
                f"the autoencoder {Path(self.path).name} of {self.channels} channels for states of {grid.channels} "
                f"channels on {grid.dims} axes",
                f"pictures of {self.channels} channels" + (", or grey ones" if self.channels == COLOUR else ""),
            )
        if not isinstance(units, tuple):
            raise RequestError(
                f"an autoencoder of pictures for {type(domain).__name__}, which says no units of its states",
                "a domain with units() -> (scale, shift), of states = scale picture + shift",
            )

    def opened(self) -> nn.Module:
        """The autoencoder, whose files are those that are pinned.

        Raises:
            RequestError: With both digests if they are not.
        """
        home = folder_of(self.path, self.digest)
        found = folder_digest(home, FILES)
        if found != self.digest:
            raise RequestError(
                f"the autoencoder {home} has the SHA-256 {found[:12]}..., and {self.digest[:12]}... was used",
                "the autoencoder that the latents were made with",
                f"Put its folder at {data_root() / home.name}",
            )
        if (home, found) not in OPEN:
            OPEN.clear()
            OPEN[home, found] = read_autoencoder(home)
        return OPEN[home, found]

    def fit(self, domain: Domain, artifacts: Sequence[Any]) -> PretrainedCodec:
        if self.fitted:
            return self
        order = np.random.default_rng(0).permutation(len(artifacts))[: self.measured]
        rows = sorted(order.tolist())
        own = replace(self, domain=domain)
        with torch.no_grad():
            mean, covariance = moments(own.encode(x[None]) for x in states_of(domain, artifacts, rows))
            lower = torch.tril_indices(len(mean), len(mean))
            own = replace(own, mean=tuple(mean.tolist()), covariance=tuple(covariance[*lower].tolist()))
            explained, count = own.explained(states_of(domain, artifacts, rows))
        known = {"explained": explained} if math.isfinite(explained) else {}
        return replace(own, metrics={**known, "states": float(count)})


def states_of(domain: Domain, artifacts: Sequence[Any], rows: Sequence[int]) -> Iterator[Tensor]:
    """The states of some artifacts, one at a time, without those that the domain refuses.

    Raises:
        DataError: If it refuses all of them.
    """
    found = 0
    for row in rows:
        try:
            x = domain.encode(artifacts[row])
        except GendiffError:
            continue  # told, by name, where the training set is encoded
        assert isinstance(x, Tensor)
        found += 1
        yield x.float()
    if not found:
        raise DataError(f"None of {len(rows)} examples can be encoded", "artifacts that the domain takes")


class PretrainedAutoencoder(Whitened):
    """The autoencoder of a `PretrainedCodec` as a codec's network: states to latents and back.

    The autoencoder itself is no part of the module: it stays in memory once, and is found again after a copy.
    """

    def __init__(self, codec: PretrainedCodec) -> None:
        super().__init__(2, codec.latent, codec.stride)
        self.codec, self.channels = codec, codec.grid.channels
        if codec.fitted:
            covariance = torch.zeros(codec.latent, codec.latent, dtype=torch.float64)
            covariance[*torch.tril_indices(codec.latent, codec.latent)] = torch.tensor(codec.covariance).double()
            self.set_moments(torch.tensor(codec.mean, dtype=torch.float64), covariance)
        self.eval().requires_grad_(False)

    def scales(self) -> tuple[float, float]:
        """(scale, shift) of the autoencoder's values = scale state + shift."""
        units, (low, high) = self.codec.domain.units(), self.codec.span
        assert isinstance(units, tuple)
        scale = 2 / (units[0] * (high - low))
        return scale, -scale * units[1] - 2 * low / (high - low) - 1

    def settled(self, x: Tensor) -> Tensor:
        model, (scale, shift) = self.codec.opened(), self.scales()
        u = (scale * x + shift).expand(-1, self.codec.channels, -1, -1)
        out = model.encode(u.to(place_of(model), torch.float32))[0]  # type: ignore[operator]
        found = out if isinstance(out, Tensor) else out.mean  # of a posterior
        offset, factor = scaling_of(model, found)
        return ((found - offset) * factor).to(x)

    def expand(self, h: Tensor) -> Tensor:
        model, (scale, shift) = self.codec.opened(), self.scales()
        wide = h.to(place_of(model), torch.float32)
        offset, factor = scaling_of(model, wide)
        y = model.decode(wide / factor + offset).sample.to(h)  # type: ignore[operator]
        y = y if y.shape[1] == self.channels else y.mean(1, keepdim=True)
        return (y - shift) / scale


def place_of(model: nn.Module) -> torch.device:
    """Where the weights of a model are."""
    return next(model.parameters()).device


def scaling_of(model: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """What is taken from an autoencoder's latents, and what they are multiplied by then, as its config says it."""
    config, channels = model.config, (1, -1, 1, 1)
    factor = torch.tensor(float(config.get("scaling_factor") or 1.0)).to(like)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return torch.tensor(mean).view(channels).to(like), factor / torch.tensor(std).view(channels).to(like)
    return torch.tensor(float(config.get("shift_factor") or 0.0)).to(like), factor


def folder_of(path: str, digest: str = "") -> Path:
    """The folder of an autoencoder.

    Raises:
        RequestError: If it is nowhere.
    """
    found = pinned_folder(path)
    if found is None:
        pinned = f" whose files have the SHA-256 {digest[:12]}..." if digest else ""
        here = Path(path).expanduser()
        inner = here / "vae" / "config.json"
        raise RequestError(
            f"the autoencoder {path!r}, which is no folder with a config.json here or in {data_root()}",
            f"the folder{pinned} of an autoencoder as diffusers saves it",
            f"It is a whole pipeline; take {inner.parent}"
            if inner.is_file()
            else f"Put it at {data_root() / here.name}",
        )
    return found


def facts_of(home: Path) -> Facts:
    """What the config of an autoencoder says.

    Raises:
        RequestError: For a folder of another class, one without safetensors, and sizes that are none.
    """
    try:
        config = json.loads((home / "config.json").read_text(encoding="utf8"))
        kind = config.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise RequestError(f"the autoencoder {home}, whose config.json cannot be read", "JSON") from error
    if not isinstance(kind, str) or kind not in LEVELS:
        raise RequestError(
            f"the folder {home} is of the class {kind!r:.80}", f"one of {', '.join(LEVELS)}.{nearest(kind, LEVELS)}"
        )
    if not list(home.glob("*.safetensors")):
        pickled = sorted(path.name for path in home.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        raise RequestError(
            f"the autoencoder {home} has no .safetensors file" + (f", only {pickled[0]}" if pickled else ""),
            "weights in safetensors: nothing is unpickled",
            "model.save_pretrained(folder) of diffusers writes them",
        )
    levels, wanted = config.get(LEVELS[kind]), ("in_channels", "latent_channels")
    odd = [name for name in wanted if type(config.get(name)) is not int or config[name] < 1]
    odd += [LEVELS[kind]] * (not isinstance(levels, list) or not 0 < len(levels) <= 12)
    odd += ["out_channels"] * (config.get("out_channels", config.get("in_channels")) != config.get("in_channels"))
    odd += ["upsampling_scaling_factor"] * (config.get("upsampling_scaling_factor", 2) != 2)
    if odd:
        raise RequestError(
            f"the autoencoder {home} has {odd[0]}={config.get(odd[0])!r:.80}",
            "a codec of pictures: as many channels out as in, each level of half the sites",
        )
    return Facts(kind, config["in_channels"], config["latent_channels"], 2 ** (len(levels) - 1))


OPEN: dict[tuple[Path, str], nn.Module] = {}


def read_autoencoder(home: Path) -> nn.Module:
    """The autoencoder in a folder, in memory; the last one that was asked for stays there.

    Raises:
        MissingExtra: Without diffusers.
        RequestError: For a folder that cannot be read, or lacks weights.
    """
    kind = facts_of(home).kind
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise MissingExtra(f"The autoencoder {home}", "diffusers", "diffusers") from error
    with quiet(diffusers):
        try:
            model, report = getattr(diffusers, kind).from_pretrained(
                str(home), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False,
                torch_dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RequestError(
                f"the autoencoder {home} cannot be opened ({why:.200})",
                "a folder that diffusers can read",
                "model.save_pretrained(folder) writes all that it needs",
            ) from error
    odd = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if odd:
        raise RequestError(f"the autoencoder {home} lacks {len(odd)} weights, the first is {odd[0]}", "all of them")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval().requires_grad_(False).to(device)


@contextlib.contextmanager
def quiet(diffusers: Any) -> Iterator[None]:
    """Without diffusers' notes on what it does not need."""
    log = diffusers.utils.logging
    level = log.get_verbosity()
    log.set_verbosity(log.CRITICAL)
    try:
        yield
    finally:
        log.set_verbosity(level)


def open_codec(path: str | Path, domain: Domain) -> AnyCodec:
    """The codec that a run trained, from its folder or file; or the autoencoder of diffusers in a folder, for a domain.

    Raises:
        CheckpointError: As `Codec.load`.
        RequestError: As `PretrainedCodec.open`.
    """
    own = (Path(path) / "model.safetensors").exists() or Path(path).is_file()
    return Codec.load(path) if own else PretrainedCodec.open(path, domain)
