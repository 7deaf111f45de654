"""The synthesised sounds obey the physics they are made from."""

from __future__ import annotations

import numpy as np
import pytest

from gendiff_audio import Tones, string, vowel
from gendiff_audio.measures import centroid, pitch
from gendiff_audio.synthesis import SOUNDS, STRINGS, VOWELS, lagrange, sound


def harmonic_pitch(x: np.ndarray, rate: int, near: float) -> float:
    """f0 that collects most of the spectrum on its first five harmonics, within 10 % of `near`."""
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), 1 << 17))
    f = np.fft.rfftfreq(1 << 17, 1 / rate)
    candidates = np.linspace(0.9 * near, 1.1 * near, 4001)
    orders = [k for k in range(1, 6) if k * near * 1.1 < rate / 2]
    return float(candidates[np.sum([np.interp(k * candidates, f, spectrum) for k in orders], 0).argmax()])


@pytest.mark.parametrize("rate", [8000, 22050])
@pytest.mark.parametrize("f0", [82.4, 110.0, 146.8, 196.0, 261.6, 329.6, 440.0, 523.3, 640.0])
def test_strings_sound_at_the_pitch_asked_for(f0, rate):
    for brightness in (0.3, 0.9):
        clip = string(f0, 0.8, sample_rate=rate, brightness=brightness, ring=1.0, seed=3)
        assert harmonic_pitch(clip.samples[0], rate, f0) == pytest.approx(f0, rel=1e-3)


def test_strings_ring_as_long_as_asked():
    clip = string(220.0, 1.0, ring=0.8, brightness=0.95, seed=1)
    energy = [np.square(clip.samples[0, a : a + 800]).mean() for a in (1600, 4800)]
    assert 10 * np.log10(energy[0] / energy[1]) == pytest.approx(60 * 0.4 / 0.8, rel=0.25)


def test_plucking_at_a_third_silences_every_third_overtone():
    spectrum = np.abs(
        np.fft.rfft(string(8000 / 60, 0.5, pick=1 / 3, brightness=0.9, seed=2).samples[0] * np.hanning(4000))
    )
    f = np.arange(len(spectrum)) * 2.0
    level = [spectrum[np.abs(f - k * 8000 / 60).argmin()] for k in range(1, 10)]
    assert max(level[2], level[5]) < 0.1 * np.median([level[0], level[1], level[3], level[4]])


def test_lagrange_delays_by_its_fraction():
    w = 2 * np.pi * 0.02
    for D in (1.0, 1.3, 1.8):
        response = (lagrange(D) * np.exp(-1j * w * np.arange(4))).sum()
        assert abs(response) == pytest.approx(1, abs=1e-4)
        assert -np.angle(response) / w == pytest.approx(D, abs=1e-4)


@pytest.mark.parametrize("name", VOWELS)
def test_vowels_resonate_at_their_formants(name):
    librosa = pytest.importorskip("librosa")
    clip = vowel(VOWELS[name], 110.0, 0.6, breath=0.0)
    roots = np.roots(librosa.lpc(clip.samples[0].astype(float) * np.hanning(clip.samples.shape[1]), order=10))
    poles = np.sort(np.angle(roots[roots.imag > 0])) / (2 * np.pi) * 8000
    assert np.all(np.abs(poles[:4] - VOWELS[name]) < 30)


def test_measured_pitch_of_every_kind():
    for f0 in (100.0, 150.0, 233.0):
        assert pitch(vowel(VOWELS["e"], f0, 0.5, seed=1)) == pytest.approx(f0, rel=0.02)
        assert pitch(string(f0, 0.6, ring=1.0, seed=1)) == pytest.approx(f0, rel=0.02)
    means = [np.mean([centroid(sound(name, i)) for i in range(8)]) for name in STRINGS]
    assert means == sorted(means)


def test_sounds_follow_their_seed():
    for name in SOUNDS:
        a, b, c = sound(name, 1), sound(name, 1), sound(name, 2)
        assert np.array_equal(a.samples, b.samples)
        assert a.samples.shape != c.samples.shape or not np.array_equal(a.samples, c.samples)
        assert 0.3 <= a.seconds <= 0.9
    with pytest.raises(ValueError, match="pluck-low"):
        sound("bell", 0)
    with pytest.raises(ValueError, match="period"):
        string(3000.0, 0.5)


def test_tones_are_balanced_disjoint_and_repeatable():
    source = Tones(count=64)
    train, test, again = source.load("train"), source.load("test"), source.load("train")
    assert (len(train), len(test)) == (64, 12)
    assert np.bincount([int(e.cond["sound"]) for e in train]).tolist() == [8] * 8
    assert all(np.array_equal(a.artifact.samples, b.artifact.samples) for a, b in zip(train, again, strict=True))
    assert not {e.artifact.samples.tobytes() for e in train} & {e.artifact.samples.tobytes() for e in test}
    other = Tones(count=64, seed=1).load("train")
    assert not {e.artifact.samples.tobytes() for e in train} & {e.artifact.samples.tobytes() for e in other}
