"""Sounds made from physics, for a set that needs no download. Two instruments, f0 in hertz at a rate of r:

    string   y_n = e_n + g (h * y)_{n - N},  h = damping * fractional delay of D,  N + 1 + D = r / f0
    voice    e_n = sum_k k^-1 cos(2 pi k phi_n),  phi' = f0,   through one resonance per formant

The string is Karplus and Strong's (1983): a burst e runs round a loop of one period, losing its highs; plucking it at
the fraction p of its length removes every overtone with a node there, e_n - e_{n - p N}. The delay's fraction D is
Lagrange's of third order, the damping (s/2, 1 - s, s/2) delays by exactly one sample, so the pitch is exact. The
voice is Fant's source and filter (1960): the pulses of the glottis fall by 12 dB an octave and the lips give 6 back;
they are summed up to half the rate, so that nothing aliases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gendiff_audio.clip import Clip

STRINGS = {"pluck-low": (80.0, 160.0), "pluck-mid": (160.0, 320.0), "pluck-high": (320.0, 640.0)}
VOICE = (90.0, 240.0)
VOWELS = {  # hertz, mean formants of men (Peterson and Barney 1952; the fourth is Klatt's 1980)
    "a": (730.0, 1090.0, 2440.0, 3400.0),
    "e": (530.0, 1840.0, 2480.0, 3400.0),
    "i": (270.0, 2290.0, 3010.0, 3500.0),
    "o": (570.0, 840.0, 2410.0, 3300.0),
    "u": (300.0, 870.0, 2240.0, 3300.0),
}
BANDWIDTHS = (70.0, 90.0, 130.0, 200.0)
SOUNDS = (*STRINGS, *VOWELS)


def filtered(numerator: ArrayLike, denominator: ArrayLike, x: ArrayLike) -> np.ndarray:
    """x through the filter with these coefficients."""
    from scipy.signal import lfilter  # slow to load, and most commands make no sound

    return np.asarray(lfilter(numerator, denominator, x))


def string(
    f0: float,
    seconds: float,
    *,
    sample_rate: int = 8000,
    pick: float = 0.2,
    brightness: float = 0.7,
    ring: float = 0.6,
    seed: int = 0,
) -> Clip:
    """A plucked string.

    Args:
        f0: hertz.
        pick: where it is plucked, as a fraction of its length, 0 to 0.5.
        brightness: 0 dull to 1 bright: the burst's low-pass and the loop's loss of highs.
        ring: seconds in which the fundamental falls by 60 dB.

    Raises:
        ValueError: a pitch that this rate cannot hold.
    """
    period = sample_rate / f0
    if not 6 <= period <= sample_rate * seconds:
        raise ValueError(
            f"a string of {f0:g} Hz at {sample_rate} Hz has a period of {period:.1f} samples: it takes 6 or more"
        )
    delay = int(period - 2)  # leaves 1 <= D < 2 beside the damping's one sample, where Lagrange's filter is stable

    taps = np.convolve(lagrange(period - 1 - delay), damping(1 - brightness))
    gain = 10 ** (-3 * period / (sample_rate * ring))
    burst = np.random.default_rng(seed).uniform(-1, 1, round(period))
    burst = filtered([brightness], [1, brightness - 1], burst - burst.mean())
    excitation = np.zeros(round(seconds * sample_rate))
    excitation[: len(burst)] = burst
    shift = max(1, round(pick * period))
    excitation[shift:] -= excitation[:-shift].copy()
    loop = np.concatenate([[1.0], np.zeros(delay - 1), -gain * taps])
    return Clip(_faded(filtered([1.0], loop, excitation), sample_rate, attack=0.001, release=0.04), sample_rate)


def vowel(
    formants: tuple[float, ...],
    f0: float,
    seconds: float,
    *,
    sample_rate: int = 8000,
    glide: float = 0.0,
    breath: float = 0.02,
    seed: int = 0,
) -> Clip:
    """A sung vowel.

    Args:
        formants: hertz; those above half the rate are left out.
        f0: hertz in the middle; it glides by the fraction `glide` from start to end, and trembles a little.
        breath: noise from the glottis, relative to the pulses.
    """
    n, rng = round(seconds * sample_rate), np.random.default_rng(seed)
    time = np.arange(n) / sample_rate
    pitch = f0 * (1 + glide * (time / seconds - 0.5) + 0.006 * np.sin(2 * np.pi * (5.0 * time + rng.uniform())))
    phi = np.cumsum(pitch) / sample_rate + rng.uniform()
    k = np.arange(1, int(0.5 * sample_rate / pitch.max()) + 1)[:, None]
    sound = (np.cos(2 * np.pi * k * phi) / k).sum(0) + breath * rng.standard_normal(n)
    for F, B in zip(formants, BANDWIDTHS, strict=False):
        if sample_rate / 2 > F:
            sound = filtered(*resonance(F, B, sample_rate), sound)
    return Clip(_faded(sound, sample_rate, attack=0.03, release=0.08), sample_rate)


def sound(name: str, seed: int, *, sample_rate: int = 8000) -> Clip:
    """One sound of the class `name` of `SOUNDS`; pitch, length (0.3 to 0.9 s), timbre and speaker size are drawn from
    the seed.

    Raises:
        ValueError: no such class.
    """
    if name not in SOUNDS:
        raise ValueError(f"there is no sound {name!r}; known: {', '.join(SOUNDS)}")
    rng, seconds, f0 = _drawn(name, seed)
    if name in STRINGS:
        pick, brightness, ring = rng.uniform(0.08, 0.45), rng.uniform(0.4, 0.95), rng.uniform(0.4, 1.5)
        clip = string(f0, seconds, sample_rate=sample_rate, pick=pick, brightness=brightness, ring=ring, seed=seed)
    else:
        tract = rng.uniform(0.92, 1.15)
        formants = tuple(tract * F * rng.uniform(0.97, 1.03) for F in VOWELS[name])
        glide, breath = rng.uniform(-0.25, 0.15), rng.uniform(0.005, 0.05)
        clip = vowel(formants, f0, seconds, sample_rate=sample_rate, glide=glide, breath=breath, seed=seed)
    return Clip(clip.samples * (0.5 / clip.peak), sample_rate)


def pitch_of(name: str, seed: int) -> float:
    """The pitch in hertz of the sound of this class and seed, in its middle."""
    return _drawn(name, seed)[2]


def _drawn(name: str, seed: int) -> tuple[np.random.Generator, float, float]:
    """The generator of a sound, after its length in seconds and its pitch were drawn."""
    rng = np.random.default_rng([seed, SOUNDS.index(name)])
    seconds = rng.uniform(0.3, 0.9)
    low, high = STRINGS.get(name, VOICE)
    return rng, seconds, low * (high / low) ** rng.uniform()


def lagrange(D: float) -> np.ndarray:
    """Third-order Lagrange delay of D samples, 1 <= D <= 2: h_j = prod_{i != j} (D - i) / (j - i) (Laakso et al.
    1996, eq. 42).
    """
    return np.array([np.prod([(D - i) / (j - i) for i in range(4) if i != j]) for j in range(4)])


def damping(s: float) -> np.ndarray:
    """A symmetric low-pass: loss 0 at 0 Hz and s at half the rate, delay 1 sample at every frequency; s = 1 -
    brightness, scaled.
    """
    s = 0.02 + 0.3 * s
    return np.array([s / 2, 1 - s, s / 2])


def resonance(F: float, B: float, sample_rate: int) -> tuple[list[float], list[float]]:
    """Numerator and denominator of a formant at F with bandwidth B, in hertz, of gain 1 at 0 Hz (Klatt 1980, eq. 1)."""
    c = -np.exp(-2 * np.pi * B / sample_rate)
    b = 2 * np.exp(-np.pi * B / sample_rate) * np.cos(2 * np.pi * F / sample_rate)
    return [1 - b - c], [1.0, -b, -c]


def _faded(x: ArrayLike, sample_rate: int, *, attack: float, release: float) -> np.ndarray:
    """Raised-cosine beginning and end, in seconds."""
    a, r = round(attack * sample_rate), round(release * sample_rate)
    x = np.array(x)
    x[:a] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(a) / a)
    x[len(x) - r :] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(1, r + 1) / r)
    return x
