r"""How far a reconstruction y is from a state x, as a sum of named terms, each a mean over the numbers of a sample.

    l1, l2      |x - y|,  (x - y)^2
    gradient    |D x - D y|, D the differences of neighbouring sites along each axis
    spectrum    | |S x| - |S y| |_F / | |S x| |_F + |ln |S x| - ln |S y||, S of several windows   Yamamoto 2020
    perceptual  sum_k mean over sites of |u(f_k(x)) - u(f_k(y))|^2, f_k the features of a frozen network on level k,
                u(f) = f / |f| over channels                                                      Zhang et al. 2018

Waveforms [B, 1, L] take `spectrum`: an error of phase is heard less than one of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.domain import Domain
from gendiff.errors import NOT_NEGATIVE, RequestError, check, refuse


@dataclass(frozen=True)
class Reconstruction:
    """What a codec is trained for, beside its bottleneck's loss.

    Args:
        l1: Weight of the absolute error.
        l2: Weight of the squared error.
        gradient: Weight of the absolute error of differences between neighbours, which blur makes large.
        spectrum: Weight of the spectral distance of waveforms.
        windows: Of the spectra, in sites.
        perceptual: Weight of the distance of features.
        features: The network of these features, a torch.nn.Module by its class under "kind", and what it is built with:
            {"kind": MyNet, "weights": "mine.safetensors"}. It takes states [B, C, *sites] and gives features
            [B, F, ...], or a list of such. {} for the domain's own (`Domain.feature_network`).
    """

    l1: float = 1.0
    l2: float = 1.0
    gradient: float = 0.0
    spectrum: float = 0.0
    windows: tuple[int, ...] = (256, 512, 1024)
    perceptual: float = 0.0
    features: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        terms = ("l1", "l2", "gradient", "spectrum", "perceptual")
        check(self, **dict.fromkeys(terms, NOT_NEGATIVE))
        if self.features and not is_network(self.features.get("kind")):
            refuse(self, "features", 'a class of torch.nn.Module under "kind", and its arguments')
        if not (self.l1 or self.l2 or self.spectrum):
            refuse(self, "l1", "a positive weight of l1, l2 or spectrum")
        if not self.windows or any(not isinstance(n, int) or n < 8 for n in self.windows):
            refuse(self, "windows", "whole numbers, 8 or more")

    def network(self, domain: Domain, root: Path | None = None) -> Features | None:
        """The frozen network of the perceptual term, None where that counts for nothing. It is made with a seed of its
        own, and leaves the generators as they were.

        Args:
            domain: Offers one where `features` names none.
            root: The data folder.

        Raises:
            RequestError: For a domain that offers none.
        """
        if not self.perceptual:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            if not self.features:
                return Features(domain.feature_network(root))
            rest = {name: value for name, value in self.features.items() if name != "kind"}
            return Features(self.features["kind"](**rest))

    def __call__(self, y: Tensor, x: Tensor, features: Features | None = None) -> dict[str, Tensor]:
        """The weighted terms of reconstructions y of x, both [B, C, *sites], by name, each [B].

        Args:
            y: Reconstructions.
            x: States.
            features: What `network` gave.

        Raises:
            RequestError: For spectra of anything but waveforms, and a perceptual term without its network.
        """
        error, out = y - x, {}
        if self.l1:
            out["l1"] = self.l1 * error.abs().flatten(1).mean(1)
        if self.l2:
            out["l2"] = self.l2 * error.square().flatten(1).mean(1)
        if self.gradient:
            axes = range(2, x.ndim)
            out["gradient"] = self.gradient * sum(error.diff(dim=axis).abs().flatten(1).mean(1) for axis in axes)
        if self.spectrum:
            if x.ndim != 3 or x.shape[1] != 1:
                raise RequestError(
                    f"a spectral loss of states {list(x.shape[1:])}", "waveforms [1, samples]", "spectrum=0"
                )
            each = [spectral_distance(y[:, 0], x[:, 0], window) for window in self.windows]
            out["spectrum"] = self.spectrum * torch.stack(each).mean(0)
        if self.perceptual:
            if features is None:
                raise RequestError("a perceptual loss without features", "loss(y, x, loss.network(domain))")
            out["perceptual"] = self.perceptual * features.distance(y, x)
        return out


def is_network(kind: Any) -> bool:
    """Whether it is a class of networks."""
    return isinstance(kind, type) and issubclass(kind, nn.Module)


class Features(nn.Module):
    """A network that stays as it is, and stays in evaluation, whose features tell states apart."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Features:
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features [B, F, ...] by level, of unit length over channels.

        Raises:
            RequestError: For a network that gives something else.
        """
        found = self.network(x)
        levels = [found] if isinstance(found, Tensor) else found
        fits = isinstance(levels, list | tuple) and levels
        if not fits or not all(isinstance(f, Tensor) and f.ndim > 1 and len(f) == len(x) for f in levels):
            raise RequestError(
                f"a feature network, {type(self.network).__name__}, that gives a {type(found).__name__}",
                "features [B, F, ...], or a list of such",
            )
        return [f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt() for f in levels]

    def distance(self, y: Tensor, x: Tensor) -> Tensor:
        """How far apart the features of y and x are, [B]; it has a gradient in y."""
        with torch.no_grad():
            real = self(x)
        parts = [(a - b).square().sum(1).reshape(len(x), -1).mean(1) for a, b in zip(self(y), real, strict=True)]
        return torch.stack(parts).sum(0)


def spectral_distance(y: Tensor, x: Tensor, window: int) -> Tensor:
    """Spectral convergence and distance of log magnitudes of waveforms [B, L], with a hop of a quarter window: [B]."""

    def magnitude(wave: Tensor) -> Tensor:
        hann = torch.hann_window(window, dtype=wave.dtype, device=wave.device)
        found = torch.stft(wave, window, window // 4, window=hann, return_complex=True, pad_mode="constant")
        return (found.real.square() + found.imag.square()).clamp_min(1e-7).sqrt()

    a, b = magnitude(y), magnitude(x)
    convergence = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
    return convergence + (a.log() - b.log()).abs().flatten(1).mean(1)
