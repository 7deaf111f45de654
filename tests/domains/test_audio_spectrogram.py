"""Log-mel there and back: against torchaudio and librosa, and by the laws of a spectrogram."""

from __future__ import annotations

import pytest
import torch

from gendiff_audio import AudioError, GriffinLim, LogMel, backend, string, vowel
from gendiff_audio.phase import waveform
from gendiff_audio.spectrogram import triangles
from gendiff_audio.synthesis import VOWELS

PRESETS = [LogMel(), LogMel(sample_rate=16000, n_fft=1024, win=1024, hop=256, mels=80, high=7600.0, floor=1e-5)]


def voices() -> torch.Tensor:
    clips = [vowel(F, 90.0 + 25 * i, 1.0, seed=i) for i, F in enumerate(VOWELS.values())]
    clips += [string(f, 1.0, ring=1.0, seed=7) for f in (110.0, 220.0, 440.0)]
    waves = torch.stack([torch.from_numpy(clip.samples[0]) for clip in clips])
    return torch.nn.functional.pad(waves * (0.07 / waves.square().mean(1, keepdim=True).sqrt()), (320, 0))[:, :8192]


@pytest.mark.parametrize("mel", PRESETS, ids=["8 kHz", "16 kHz"])
def test_filterbank_is_that_of_librosa_and_torchaudio(mel):
    librosa = pytest.importorskip("librosa")
    top = mel.high or mel.sample_rate / 2
    theirs = librosa.filters.mel(
        sr=mel.sample_rate, n_fft=mel.n_fft, n_mels=mel.mels, fmin=mel.low, fmax=top, htk=True, norm=None
    )
    assert (triangles(mel) - torch.from_numpy(theirs.T)).abs().max() < 1e-7
    if backend.torchaudio() is not None:  # whose corners are float32
        assert (triangles(mel) - mel.filterbank()).abs().max() < 2e-5


@pytest.mark.parametrize("mel", PRESETS, ids=["8 kHz", "16 kHz"])
def test_analysis_without_torchaudio_is_the_same(mel, monkeypatch):
    x = voices()
    with_it = mel.analyse(x)
    monkeypatch.setattr(backend, "torchaudio", lambda: None)
    assert (mel.analyse(x).exp() - with_it.exp()).abs().max() < 5e-5


def test_frames_are_hops_and_lie_where_they_say():
    mel = LogMel()
    for n in (1, 100, 128, 193, 1000, 8192):
        assert mel.analyse(torch.randn(n)).shape == (mel.frames(n), 64)
    x = torch.zeros(8192)
    x[30 * 128 + 64] = 1.0  # a click in the middle of frame 30
    loudness = mel.analyse(x).exp().sum(-1)
    assert loudness.argmax() == 30
    assert torch.allclose(loudness[29], loudness[31], rtol=1e-3)


def test_a_sine_lands_in_its_filter_at_its_magnitude():
    mel = LogMel()
    f = float(mel.centers()[30])
    L = mel.analyse(0.5 * torch.sin(2 * torch.pi * f * torch.arange(8192) / 8000))
    assert L[32].argmax() == 30
    window = torch.hann_window(400).sum()  # a sine of amplitude a has magnitude a sum(w) / 2 at its peak
    peak = mel.magnitude(0.5 * torch.sin(2 * torch.pi * f * torch.arange(512) / 8000)[None])[0, :, 0].max()
    assert peak == pytest.approx(float(0.25 * window), rel=0.1)


def test_updates_find_the_magnitudes_behind_the_mels():
    mel = LogMel()
    L = mel.analyse(voices())
    M = L.exp()
    A = mel.filterbank()
    residual = (mel.linear(L) @ A - M).norm() / M.norm()
    clamped = (M @ torch.linalg.pinv(A)).clamp_min(0) @ A
    assert residual < 0.02
    assert residual < 0.3 * (clamped - M).norm() / M.norm()


def test_round_trip_keeps_the_sound():
    mel, x = LogMel(), voices()
    y = waveform(GriffinLim(), mel.analyse(x), mel)
    assert y.shape == x.shape
    a, b = (mel.magnitude(torch.nn.functional.pad(w, (192, 192), mode="reflect")) for w in (x, y))
    convergence = ((a - b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)).mean()
    assert convergence < 0.3  # real speech, whose spectrum is less tonal, reaches 0.18: see the test with recordings
    assert (mel.analyse(y) - mel.analyse(x)).abs().mean() < 0.25


def test_round_trip_does_not_move_the_sound():
    mel = LogMel()
    x = voices()
    y = waveform(GriffinLim(), mel.analyse(x), mel)
    envelope = torch.nn.functional.avg_pool1d(torch.stack([x, y]).abs(), 33, 1, 16)
    spectra = torch.fft.rfft(envelope, 16384)
    lag = torch.fft.irfft(spectra[0].conj() * spectra[1]).argmax(-1)
    lag = torch.where(lag > 8192, lag - 16384, lag)
    assert lag.abs().median() <= 8  # half a hop would be 64 samples


def test_griffin_lim_without_torchaudio_is_the_same(monkeypatch):
    mel = LogMel()
    X = mel.linear(mel.analyse(voices()[:2])).mT
    a = GriffinLim(8)(X, win=400, hop=128, length=63 * 128)
    monkeypatch.setattr(backend, "torchaudio", lambda: None)
    b = GriffinLim(8)(X, win=400, hop=128, length=63 * 128)
    assert (a - b).abs().max() < 1e-5


def test_griffin_lim_is_its_seed_and_no_neighbours():
    mel = LogMel()
    X = mel.linear(mel.analyse(voices())).mT
    shape = {"win": 400, "hop": 128, "length": 63 * 128}
    before = torch.get_rng_state()
    together = GriffinLim(4)(X, **shape)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(together[3], GriffinLim(4)(X[3], **shape))
    assert not torch.equal(together, GriffinLim(4, seed=1)(X, **shape))


def test_griffin_lim_converges_and_momentum_pays():
    x = voices()
    window = torch.hann_window(400)
    S = torch.stft(x, 512, 128, 400, window, return_complex=True).abs()

    def convergence(phase: GriffinLim) -> float:
        y = phase(S, win=400, hop=128, length=x.shape[-1])
        return float((torch.stft(y, 512, 128, 400, window, return_complex=True).abs() - S).norm() / S.norm())

    plain = [convergence(GriffinLim(n, 0.0)) for n in (1, 4, 16, 32)]
    assert plain == sorted(plain, reverse=True)
    assert convergence(GriffinLim(32, 0.99)) < 0.8 * plain[-1]


def test_silence_stays_silence():
    mel = LogMel()
    L = mel.analyse(torch.zeros(4096))
    assert torch.allclose(L, torch.full_like(L, mel.floor).log())
    assert waveform(GriffinLim(), L, mel).abs().max() < 1e-5


def test_presets_that_cannot_work_say_so():
    with pytest.raises(AudioError, match=r"high=4000\."):
        LogMel(high=5000.0)
    with pytest.raises(AudioError, match="hold no frequency"):
        LogMel(mels=256)
    with pytest.raises(AudioError, match="hop"):
        LogMel(hop=300)
    with pytest.raises(AudioError, match="floor"):
        LogMel(floor=0.0)
    with pytest.raises(ValueError, match="diverges"):
        GriffinLim(momentum=1.0)(torch.ones(257, 3), win=400, hop=128, length=256)


def test_signature_names_everything_that_matters():
    assert len({mel.signature for mel in [*PRESETS, LogMel(floor=1e-5), LogMel(hop=100), LogMel(low=20.0)]}) == 5
    assert "\n" not in LogMel().signature
