r"""How far a reconstruction y is from a state x, as a sum of named terms, each a mean over the numbers of a sample.

    l1, l2      |x - y|,  (x - y)^2
    gradient    |D x - D y|, D the differences of neighbouring sites along each axis
    spectrum    | |S x| - |S y| |_F / | |S x| |_F + |ln |S x| - ln |S y||, S of several windows   Yamamoto 2020

Waveforms [B, 1, L] take `spectrum`: an error of phase is heard less than one of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    """

    l1: float = 1.0
    l2: float = 1.0
    gradient: float = 0.0
    spectrum: float = 0.0
    windows: tuple[int, ...] = (256, 512, 1024)

    def __post_init__(self) -> None:
        check(self, l1=NOT_NEGATIVE, l2=NOT_NEGATIVE, gradient=NOT_NEGATIVE, spectrum=NOT_NEGATIVE)
        if not (self.l1 or self.l2 or self.spectrum):
            refuse(self, "l1", "a positive weight of l1, l2 or spectrum")
        if not self.windows or any(not isinstance(n, int) or n < 8 for n in self.windows):
            refuse(self, "windows", "whole numbers, 8 or more")

    def __call__(self, y: Tensor, x: Tensor) -> dict[str, Tensor]:
        """The weighted terms of reconstructions y of x, both [B, C, *sites], by name, each [B].

        Raises:
            RequestError: For spectra of anything but waveforms.
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
        return out


def spectral_distance(y: Tensor, x: Tensor, window: int) -> Tensor:
    """Spectral convergence and distance of log magnitudes of waveforms [B, L], with a hop of a quarter window: [B]."""

    def magnitude(wave: Tensor) -> Tensor:
        hann = torch.hann_window(window, dtype=wave.dtype, device=wave.device)
        found = torch.stft(wave, window, window // 4, window=hann, return_complex=True, pad_mode="constant")
        return (found.real.square() + found.imag.square()).clamp_min(1e-7).sqrt()

    a, b = magnitude(y), magnitude(x)
    convergence = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
    return convergence + (a.log() - b.log()).abs().flatten(1).mean(1)
