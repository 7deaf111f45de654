"""Phase from magnitude. A magnitude S has many signals near it; fast Griffin-Lim finds one by two projections in turn,

    c_n = STFT(iSTFT(S e^{i phi_{n-1}})),     phi_n = angle(c_n - m / (1 + m) c_{n-1}),

onto what some signal can have, and onto what has magnitude S, with momentum m (Perraudin et al. 2013). It begins at
random numbers of the seed: the same for every clip, so that no clip depends on the others it was rendered with.

`Phase` and `Vocoder` are what may take its place: frozen dataclasses that make a waveform, the first of linear
magnitudes, the second of log-mel frames.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gendiff_audio import backend
from gendiff_audio.spectrogram import LogMel


class Vocoder(ABC):
    """From log-mel frames to a waveform.

    A vocoder of one's own is a frozen dataclass whose fields are plain values (sizes, a path to weights), so that a
    model that uses it is saved and loaded with it:

        @gendiff.register
        @dataclass(frozen=True)
        class Mine(Vocoder):
            weights: str
            def render(self, frames, mel): ...

        Audio(phase=Mine("vocoder.safetensors"))
    """

    @abstractmethod
    def render(self, frames: Tensor, mel: LogMel) -> Tensor:
        """Log-mel frames L `[..., frames, mels]` (ln of magnitudes, as `mel.analyse` makes them: not standardised, not
        linear) to samples `[..., frames hop]`, frame k in the middle of samples k hop to (k + 1) hop.
        """


class Phase(Protocol):
    """The way from linear magnitudes to a waveform; a frozen dataclass, wherever a `GriffinLim` may stand."""

    def __call__(self, magnitude: Tensor, *, win: int, hop: int, length: int) -> Tensor:
        """`[..., bins, frames]`, frame k centred on sample k hop, to `[..., length]`."""
        ...


def waveform(phase: Vocoder | Phase, frames: Tensor, mel: LogMel) -> Tensor:
    """Log-mel frames `[..., frames, mels]` to samples `[..., frames hop]`.

    A vocoder is handed the frames as they are, a phase the magnitudes behind them. A phase's frames are centred on
    k hop, ours on (k + 1/2) hop: the first frame is repeated in front, and half a hop is cut off at the start. Frames
    that are fewer than an FFT mirrors at its borders are followed by silence, which is cut off.
    """
    if isinstance(phase, Vocoder):
        return phase.render(frames, mel)
    count = frames.shape[-2]
    short = max(0, mel.n_fft // 2 // mel.hop + 1 - count)
    X = mel.linear(functional.pad(frames, (0, 0, 0, short), value=math.log(mel.floor))).mT
    X = torch.cat([X[..., :1], X], -1)
    length = (count + short) * mel.hop + mel.hop // 2
    return phase(X, win=mel.win, hop=mel.hop, length=length)[..., mel.hop // 2 :][..., : count * mel.hop]


@dataclass(frozen=True)
class GriffinLim:
    """Waveform of a magnitude spectrogram. Momentum 0.99 at n iterations is as good as plain Griffin-Lim at 4 n."""

    iterations: int = 32
    momentum: float = 0.99
    seed: int = 0

    def __call__(self, magnitude: Tensor, *, win: int, hop: int, length: int) -> Tensor:
        """`[..., bins, frames]`, frame k centred on sample k hop, to `[..., length]`, by torchaudio where it loads.

        Raises:
            ValueError: a momentum outside [0, 1), or a length that does not have this many frames.
        """
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; Griffin-Lim diverges outside [0, 1)")
        if length // hop + 1 != magnitude.shape[-1]:
            raise ValueError(
                f"{length} samples have {length // hop + 1} frames, the magnitude has {magnitude.shape[-1]}"
            )
        run = self.torch if backend.torchaudio() is None else self.torchaudio
        clips = magnitude.reshape(-1, *magnitude.shape[-2:])
        window = torch.hann_window(win, dtype=magnitude.dtype, device=magnitude.device)
        waves = [run(S, window, hop, length) for S in clips]
        return torch.stack(waves).reshape(*magnitude.shape[:-2], length)

    def torchaudio(self, S: Tensor, window: Tensor, hop: int, length: int) -> Tensor:
        """torchaudio's, whose random start comes from the global generator: that is set for the call and put back
        after it.
        """
        run = backend.torchaudio().functional.griffinlim  # pyright: ignore[reportOptionalMemberAccess]
        n_fft, on = 2 * S.shape[-2] - 2, S.device
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            wave = run(
                S.cpu(), window.cpu(), n_fft, hop, len(window), 1.0, self.iterations, self.momentum, length, True
            )
        return wave.to(on)

    def torch(self, S: Tensor, window: Tensor, hop: int, length: int) -> Tensor:
        """The equation above in torch: what runs where torchaudio does not load, and equal to it."""
        n_fft, m = 2 * S.shape[-2] - 2, self.momentum / (1 + self.momentum)
        shape = {"n_fft": n_fft, "hop_length": hop, "win_length": len(window), "window": window}
        generator = torch.Generator().manual_seed(self.seed)
        angles = torch.rand(S.shape, dtype=torch.complex64, generator=generator).to(S.device, S.dtype.to_complex())
        before = torch.zeros_like(angles)
        for _ in range(self.iterations):
            c = torch.stft(torch.istft(S * angles, **shape, length=length), **shape, return_complex=True)
            angles = c - m * before
            angles, before = angles / (angles.abs() + 1e-16), c  # a silent frame has no phase, but no NaN either
        return torch.istft(S * angles, **shape, length=length)
