"""Log-mel spectrograms, there and back to magnitudes. A frame every `hop` samples, centred in its hop, and `mels`
triangles A on the mel scale:

    there   M = |STFT(x)| A,   L = ln max(M, floor)                                             [frames, mels]
    back    min ||X A - M||, X >= 0, from M A^+ by  X <- X (M A^T) / (X A A^T)  (Lee and Seung 2001)

From magnitudes to a waveform is a vocoder's task (`gendiff_audio.phase`).
mel(f) = 2595 log10(1 + f / 700). "Same" padding: n samples have exactly ceil(n / hop) frames, frame k covers samples
k hop to (k + 1) hop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from gendiff_audio import backend
from gendiff_audio.clip import AudioError, Gap

LONGEST_TRANSFORM = 65536  # points
UPDATES = 20  # leave a mel residual of 0.3 %; the pseudo-inverse alone leaves 1.8 %


@dataclass(frozen=True)
class LogMel:
    """How a waveform becomes ln-magnitude mel frames; the default is the preset fsdd8k for speech at 8 kHz.

    Args:
        sample_rate: hertz.
        n_fft: points of the Fourier transform.
        win: samples of the Hann window, centred in the n_fft points.
        hop: samples from frame to frame.
        mels: filters.
        low, high: hertz, the outer edges of the first and last filter; high 0 is half the sample rate.
        floor: magnitudes below it are raised to it. 1e-4 suits speech of full scale 1; a lower one spends the model
            on silence.

    Raises:
        AudioError: filters above half the sample rate, filters that are empty, windows that do not fit.
    """

    sample_rate: int = 8000
    n_fft: int = 512
    win: int = 400
    hop: int = 128
    mels: int = 64
    low: float = 0.0
    high: float = 0.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        if not (
            1 <= self.n_fft <= LONGEST_TRANSFORM and 1 <= self.mels <= self.n_fft
        ):  # so that filters fit into memory
            expected = f"1 to {LONGEST_TRANSFORM} points, and no more filters than points"
            raise AudioError("transform too long", f"{self.signature}", expected)
        nyquist = self.sample_rate / 2
        if not 0 <= self.low < self.top <= nyquist:
            got, expected = (
                f"{self.signature} with filters from {self.low:g} to {self.top:g} Hz",
                f"0 <= low < high <= {nyquist:g} Hz",
            )
            raise AudioError("filters above half the sample rate", got, expected, f"Take high={nyquist:g}.")
        if not 0 < 2 * self.hop <= self.win <= self.n_fft or (self.n_fft - self.hop) % 2:
            raise AudioError("windows do not fit", self.signature, "2 hop <= win <= n_fft, and n_fft - hop even")
        if self.floor <= 0:
            raise AudioError("floor not positive", self.signature, "floor > 0, since its logarithm is taken")
        empty = int((self.filterbank().amax(0) == 0).sum())
        if empty:
            got = f"{self.signature}: {empty} of {self.mels} filters hold no frequency of the transform"
            raise AudioError(
                "empty filters",
                got,
                "fewer filters or a longer transform",
                f"Take n_fft={2 * self.n_fft} or mels={self.mels // 2}.",
            )

    @property
    def top(self) -> float:
        return self.high or self.sample_rate / 2

    @property
    def signature(self) -> str:
        """One line that two spectrograms must share to be exchanged, e.g. between a model and a vocoder."""
        band = f"{self.low:g}-{self.top:g} Hz"
        window = f"n_fft={self.n_fft} win={self.win} hop={self.hop}"
        bank = f"{self.mels} htk mels {band}, floor={self.floor:g}"
        return f"ln-magnitude mel, {self.sample_rate} Hz, {window}, {bank}, same padding"

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return math.ceil(samples / self.hop)

    def outside(self, gap: Gap, frames: int | None = None) -> Tensor:
        """Which frames see nothing of a gap: bool `[frames]`, by default as many as the recording has."""
        k = torch.arange(self.frames(gap.clip.samples.shape[1]) if frames is None else frames)
        center = (k + 0.5) * self.hop / self.sample_rate
        reach = self.win / self.sample_rate / 2
        return (center + reach <= gap.start) | (center - reach >= gap.stop)

    def filterbank(self) -> Tensor:
        """A, `[n_fft / 2 + 1, mels]`, from torchaudio where it loads."""
        return _filterbank(self)

    def centers(self) -> Tensor:
        """The peak of each filter in hertz, `[mels]`."""
        return _edges(self)[1:-1]

    def analyse(self, x: Tensor) -> Tensor:
        """Samples `[..., n]` to L `[..., frames, mels]`, frames = ceil(n / hop)."""
        frames, margin = self.frames(x.shape[-1]), (self.n_fft - self.hop) // 2
        least = max(frames, margin // self.hop + 1) * self.hop  # a reflection needs more samples than it makes
        rows = pad(x.reshape(-1, x.shape[-1]), (0, least - x.shape[-1]))
        rows = pad(rows, (margin, margin), mode="reflect")
        torchaudio = backend.torchaudio()
        if torchaudio is None:
            M = self.magnitude(rows).mT @ self.filterbank().to(rows)
        else:
            M = _transform(self).to(rows.device, rows.dtype)(rows).mT
        return M[:, :frames].clamp_min(self.floor).log().reshape(*x.shape[:-1], frames, self.mels)

    def magnitude(self, rows: Tensor) -> Tensor:
        """|STFT| of samples `[b, n]` that carry their margins already: `[b, bins, frames]`."""
        window = torch.hann_window(self.win, dtype=rows.dtype, device=rows.device)
        return torch.stft(rows, self.n_fft, self.hop, self.win, window, center=False, return_complex=True).abs()

    def linear(self, L: Tensor) -> Tensor:
        """L `[..., frames, mels]` to the magnitudes X `[..., frames, bins]` behind it. What lies at the floor becomes
        silence.
        """
        A = self.filterbank().to(L)
        M = (L.exp().square() - self.floor**2).clamp_min(0).sqrt()
        X = (M @ _inverse(self).to(L)).clamp_min(1e-10)
        for _ in range(UPDATES):
            X = X * (M @ A.mT) / (X @ A @ A.mT + 1e-12)
        return X


def _edges(mel: LogMel) -> Tensor:
    """The corners of the triangles in hertz, `[mels + 2]`, equally spaced on the mel scale; float64."""
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (mel.low, mel.top))
    return 700.0 * (10.0 ** (torch.linspace(low, high, mel.mels + 2, dtype=torch.float64) / 2595.0) - 1.0)


def triangles(mel: LogMel) -> Tensor:
    """The filterbank in torch, for where torchaudio does not load: max(0, min of the rising and the falling side)."""
    corner = _edges(mel)
    f = torch.linspace(0, mel.sample_rate / 2, mel.n_fft // 2 + 1, dtype=corner.dtype)[:, None]
    up = (f - corner[:-2]) / (corner[1:-1] - corner[:-2])
    down = (corner[2:] - f) / (corner[2:] - corner[1:-1])
    return torch.minimum(up, down).clamp_min(0).float()


@cache
def _filterbank(mel: LogMel) -> Tensor:
    bank, torchaudio = triangles(mel), backend.torchaudio()
    if torchaudio is None or not bool(bank.amax(0).all()):  # torchaudio only warns of empty filters; the caller raises
        return bank
    return torchaudio.functional.melscale_fbanks(
        mel.n_fft // 2 + 1, mel.low, mel.top, mel.mels, mel.sample_rate, None, "htk"
    )


@cache
def _inverse(mel: LogMel) -> Tensor:
    return torch.linalg.pinv(mel.filterbank().double()).float()


@cache
def _transform(mel: LogMel):
    """torchaudio's MelSpectrogram of this preset."""
    return backend.torchaudio().transforms.MelSpectrogram(  # pyright: ignore[reportOptionalMemberAccess]
        mel.sample_rate,
        mel.n_fft,
        mel.win,
        mel.hop,
        mel.low,
        mel.top,
        n_mels=mel.mels,
        power=1.0,
        center=False,
        mel_scale="htk",
    )
