"""A clip: samples x[c, n] at a rate of r hertz, so that sample n lies at n / r seconds; |x| <= 1 is full scale.

Levels are in decibels re full scale, 20 log10 of the root mean square: a sine of amplitude 1 lies at -3.01 dBFS,
silence at -inf.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gendiff.errors import DataError

SLOWEST, FASTEST = 4_000, 192_000  # hertz: outside this a header is wrong more often than a recording is unusual
DEAD = 0.01  # of the other channel's root mean square: a channel that far down was not connected


class AudioError(DataError):
    """A sound that cannot be used as it is; `reason` is the short phrase under which a data set counts it."""

    def __init__(self, reason: str, got: str, expected: str, fix: str = "") -> None:
        super().__init__(got, expected, fix)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.got, self.expected, self.fix)


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Sound in the time domain: `samples` float32 `[channels, n]` (a 1-D array is one channel), `sample_rate` in hertz.

    Raises:
        AudioError: no samples, more axes than two, a value that is not finite, or a rate outside 4 to 192 kHz.
    """

    samples: np.ndarray
    sample_rate: int

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples)
        got = f"samples of shape {samples.shape} at {self.sample_rate} Hz"
        if samples.ndim not in (1, 2):
            raise AudioError("wrong shape", got, "[channels, n], or [n] for one channel")
        samples = np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32)
        if samples.size == 0:
            raise AudioError("empty", got, "at least one sample")
        if not SLOWEST <= self.sample_rate <= FASTEST:
            raise AudioError(
                "sample rate outside 4 to 192 kHz",
                got,
                f"a sample rate of {SLOWEST} to {FASTEST} Hz",
                "Correct the file's header, or build Clip(samples, sample_rate) with the true rate.",
            )
        if not np.isfinite(samples).all():
            raise AudioError(
                "not finite", f"{int((~np.isfinite(samples)).sum())} samples that are NaN or Inf", "finite samples"
            )
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "sample_rate", int(self.sample_rate))

    @property
    def channels(self) -> int:
        return self.samples.shape[0]

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.sample_rate

    @property
    def peak(self) -> float:
        """Largest |x|; 1 is full scale."""
        return float(np.abs(self.samples).max())

    @property
    def level(self) -> float:
        """Root mean square in dBFS."""
        return decibels(self.samples)

    @property
    def clipped(self) -> int:
        """Number of runs of three or more samples stuck at the clip's own peak, as an overdriven recorder leaves
        them.
        """
        if self.peak == 0:
            return 0
        stuck = np.abs(self.samples) >= self.peak * (1 - 1e-6)
        three = stuck[:, 2:] & stuck[:, 1:-1] & stuck[:, :-2]
        return int((three[:, 1:] & ~three[:, :-1]).sum() + three[:, :1].sum())

    def without(self, start: float, stop: float) -> Gap:
        """The clip with a gap from `start` to `stop`, in seconds, for a model to fill: `model.sample(4, given=...)`.

        Raises:
            AudioError: a gap that is empty or not inside the clip.
        """
        if not 0 <= start < stop <= self.seconds:
            raise AudioError(
                "no such gap", f"{start} to {stop} s of {self}", f"0 <= start < stop <= {self.seconds:.3f}"
            )
        return Gap(self, start, stop)

    def __repr__(self) -> str:
        channels = "mono" if self.channels == 1 else f"{self.channels} channels"
        return f"<Clip {self.seconds:.3f} s, {self.sample_rate} Hz, {channels}, {self.level:.1f} dBFS>"


@dataclass(frozen=True)
class Gap:
    """A recording in which the seconds from `start` to `stop` are missing; `Clip.without` makes one.

    gap = clip.without(1.20, 1.85)
    takes = [gap.mend(take) for take in model.sample(4, given=gap)]
    """

    clip: Clip
    start: float
    stop: float

    def mend(self, take: Clip, *, fade: float = 0.02) -> Clip:
        """The recording itself, with `take` in the gap; they are cross-faded over `fade` seconds outside of it.

        Raises:
            AudioError: a take of another sample rate, or one that ends before the gap does.
        """
        n, rate = self.clip.samples.shape[1], self.clip.sample_rate
        if take.sample_rate != rate or take.seconds < self.stop:
            raise AudioError("no take of this gap", str(take), f"{rate} Hz and at least {self.stop:.3f} s")
        inside = np.zeros((take.channels, n), np.float32)
        inside[:, : min(n, take.samples.shape[1])] = take.samples[:, :n]
        time = np.arange(n) / rate
        ramp = np.minimum(time - self.start, self.stop - time) / fade + 1
        w = np.sin(np.pi / 2 * np.clip(ramp, 0, 1)) ** 2
        return Clip(w * inside + (1 - w) * self.clip.samples, rate)


def decibels(samples: np.ndarray) -> float:
    """20 log10 of the root mean square, over everything given; -inf for silence."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return 20 * float(np.log10(rms)) if rms > 0 else -np.inf


def mono(clip: Clip, *, channel: int | None = None) -> Clip:
    """One channel: the one named, else the mean of two.

    Two that must not be averaged are not: of a pair in antiphase, whose mean would be silence, the left is taken, and
    of a pair of which one channel is dead (40 dB below the other, or more) the live one, which the mean would turn
    down by 6 dB. Means over time (DC) do not count in either.

    Raises:
        AudioError: more than two channels and none named, or a channel the clip does not have.
    """
    if channel is not None:
        if not 0 <= channel < clip.channels:
            raise AudioError("no such channel", f"channel {channel} of {clip}", f"0 to {clip.channels - 1}")
        return Clip(clip.samples[channel], clip.sample_rate)
    if clip.channels == 1:
        return clip
    if clip.channels > 2:
        raise AudioError(
            "more than two channels", str(clip), "one or two channels", "Name the one to keep, e.g. channel=0."
        )
    pair = clip.samples.astype(np.float64)
    left, right = pair - pair.mean(1, keepdims=True)
    rms = np.sqrt((left @ left, right @ right))
    if min(rms) <= DEAD * max(rms):
        return Clip(clip.samples[int(rms[1] > rms[0])], clip.sample_rate)
    antiphase = float(left @ right) / float(rms[0] * rms[1]) < -0.9
    return Clip(pair[0] if antiphase else pair.mean(0), clip.sample_rate)
