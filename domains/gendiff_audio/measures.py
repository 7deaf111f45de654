"""What can be measured on sounds without a trained model: length, level, pitch, spectrum, each in its own unit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from gendiff.evaluation import Measure, frechet, wasserstein1
from gendiff.evaluation.measures import between, each
from gendiff_audio.clip import Clip, decibels, mono
from gendiff_audio.spectrogram import LogMel

BANDS = 16


def active(clip: Clip, *, below: float = 40.0, window: float = 0.02) -> tuple[int, int]:
    """First and last sample of the part that is within `below` dB of the loudest `window` seconds."""
    x, n = mono(clip).samples[0].astype(np.float64), max(1, round(window * clip.sample_rate))
    power = np.convolve(np.square(x), np.ones(n) / n, mode="same")
    heard = np.flatnonzero(power >= power.max() * 10 ** (-below / 10))
    return int(heard[0]), int(heard[-1]) + 1


def duration(clip: Clip) -> float:
    """Seconds of the active part."""
    first, last = active(clip)
    return (last - first) / clip.sample_rate


def level(clip: Clip) -> float:
    """dBFS of the active part; silence counts as -120."""
    first, last = active(clip)
    return max(-120.0, decibels(clip.samples[:, first:last]))


def centroid(clip: Clip) -> float:
    """Centre of mass of the power spectrum, in hertz; 0 for silence."""
    power = np.abs(np.fft.rfft(mono(clip).samples[0].astype(np.float64))) ** 2
    hertz = np.fft.rfftfreq(clip.samples.shape[1], 1 / clip.sample_rate)
    return float((hertz * power).sum() / power.sum()) if power.sum() > 0 else 0.0


def pitch(clip: Clip, *, low: float = 60.0, high: float = 700.0) -> float:
    """f0 in hertz by the clip's normalised autocorrelation (YIN's difference function, de Cheveigne and Kawahara
    2002, eqs. 6-8), of the loudest 80 ms; NaN where nothing is periodic.
    """
    x, r = mono(clip).samples[0].astype(np.float64), clip.sample_rate
    n, most = round(0.08 * r), int(r / low) + 2
    if len(x) < n + most:
        x = np.pad(x, (0, n + most - len(x)))
    power = np.convolve(np.square(x), np.ones(n), mode="valid")[: len(x) - n - most + 1]
    start = int(power.argmax())
    frame = x[start : start + n + most]
    lags = np.arange(1, most)
    d = np.array([np.square(frame[:n] - frame[k : k + n]).sum() for k in lags])
    if d.sum() <= 0:
        return float("nan")
    d = d * lags / np.maximum(np.cumsum(d), 1e-30)
    first = int(r / high)
    dips = [k for k in range(max(first, 1), len(d) - 1) if d[k] < 0.2 and d[k] <= d[k - 1] and d[k] <= d[k + 1]]
    if not dips:
        return float("nan")
    k = dips[0]
    a, b, c = d[k - 1 : k + 2]
    shift = 0.5 * (a - c) / (a - 2 * b + c) if a - 2 * b + c > 0 else 0.0
    return float(r / (lags[k] + shift))


def statistics(clips: Sequence[Clip], spectrogram: LogMel) -> np.ndarray:
    """Hand-made features `[n, 4 BANDS + 2]`: per band of the log-mel spectrogram its mean, spread, rate of change and
    slope in time over the active part, and that part's duration and level, each on a scale of order one.
    """
    return np.stack([_features(clip, spectrogram) for clip in clips])


def _features(clip: Clip, spectrogram: LogMel) -> np.ndarray:
    first, last = active(clip)
    x = torch.from_numpy(mono(clip).samples[0, first : max(last, first + 2 * spectrogram.hop)])
    L = spectrogram.analyse(x).double().numpy()
    bands = np.stack([part.mean(1) for part in np.array_split(L, min(BANDS, L.shape[1]), axis=1)], 1)
    time = np.linspace(-1, 1, len(bands))[:, None]
    slope = (bands * time).sum(0) / np.maximum(np.square(time).sum(), 1e-9)
    change = np.abs(np.diff(bands, axis=0)).mean(0) if len(bands) > 1 else np.zeros(bands.shape[1])
    return np.concatenate([bands.mean(0), bands.std(0), change, slope, [4 * duration(clip), level(clip) / 8.7]])


def described(spectrogram: LogMel, clips: Sequence[Clip]) -> list[np.ndarray]:
    """`statistics` of each clip."""
    return list(statistics(clips, spectrogram))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance of the numbers that are finite; NaN without any."""
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return wasserstein1(a, b) if len(a) and len(b) else float("nan")


def measures_of(spectrogram: LogMel) -> tuple[Measure, ...]:
    """Measures that need no trained model: `fd` between hand-made features, and distances between the distributions
    of one quantity, in its unit.
    """
    quantities = {
        "duration_s": (duration, "s", "how long clips sound, from first to last within 40 dB of the loudest"),
        "level_db": (level, "dB", "how loud their sounding part is"),
        "centroid_hz": (centroid, "Hz", "the centre of their power spectrum"),
        "pitch_hz": (pitch, "Hz", "their pitch by autocorrelation, of those that have one"),
    }
    return (
        between(
            "fd", partial(described, spectrogram), frechet, least=4 * BANDS + 3,
            about="Frechet distance between statistics of 16 mel bands over time, length and level; sees no words.",
        ),
        *(
            between(name, partial(each, f), apart, unit=unit, least=1, about=f"Wasserstein-1 distance of {said}.")
            for name, (f, unit, said) in quantities.items()
        ),
    )  # fmt: skip
