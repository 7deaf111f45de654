"""Change of sample rate: y(m / s) = sum_n x_n h(m r / s - n), with h a low-pass sinc of cutoff f_c = 0.95 min(1, s/r)
/ 2 per sample,

    h(u) = 2 f_c sinc(2 f_c u) w(2 f_c u / L),   w(v) = I0(beta sqrt(1 - v^2)) / I0(beta)   (Kaiser; Smith 2002,
    "Digital audio resampling")

L zero crossings to each side. For rates with a large common divisor the kernels repeat and torchaudio's convolution
is fast; for nearly coprime ones (44101 to 16000) they do not, and the sum is taken directly, which costs the same for
any pair of rates.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gendiff_audio import backend
from gendiff_audio.clip import FASTEST, SLOWEST, AudioError, Clip

CROSSINGS, ROLLOFF, BETA = 64, 0.9475937167399596, 14.769656459379492  # resampy's "kaiser_best"
MOST_KERNELS = 1000


def resample(clip: Clip, sample_rate: int) -> Clip:
    """The same sound at another rate, in hertz; everything above the lower of both Nyquist frequencies is removed.

    Raises:
        AudioError: a rate outside 4 to 192 kHz.
    """
    if not SLOWEST <= sample_rate <= FASTEST:
        raise AudioError("sample rate outside 4 to 192 kHz", f"{sample_rate} Hz", f"{SLOWEST} to {FASTEST} Hz")
    if sample_rate == clip.sample_rate:
        return clip
    x, torchaudio = torch.from_numpy(clip.samples), backend.torchaudio()
    kernels = sample_rate // math.gcd(sample_rate, clip.sample_rate)
    if torchaudio is None or kernels > MOST_KERNELS:
        y = sinc_sum(x, clip.sample_rate, sample_rate)
    else:
        y = torchaudio.functional.resample(
            x, clip.sample_rate, sample_rate, CROSSINGS, ROLLOFF, resampling_method="sinc_interp_kaiser", beta=BETA
        )
    return Clip(y.numpy(), sample_rate)


def sinc_sum(x: Tensor, r: int, s: int) -> Tensor:
    """The sum of this file's first line, term by term: x `[..., n]` at r hertz to `[..., ceil(n s / r)]` at s hertz."""
    two_fc = ROLLOFF * min(1.0, s / r)
    reach = math.ceil(CROSSINGS / two_fc)
    offsets = torch.arange(-reach, reach + 1)
    padded = torch.nn.functional.pad(x, (reach, reach + 1))
    pieces = []
    for m in torch.arange(math.ceil(x.shape[-1] * s / r)).split(4096):
        whole, rest = m * r // s, (m * r % s).double() / s  # exact in integers, however long the clip
        v = (two_fc * (rest[:, None] - offsets)).clamp(-CROSSINGS, CROSSINGS)
        window = torch.special.i0(BETA * (1 - (v / CROSSINGS) ** 2).clamp_min(0).sqrt()) / float(np.i0(BETA))
        h = (two_fc * torch.sinc(v) * window).to(x.dtype)
        pieces.append((padded[..., whole[:, None] + offsets + reach] * h).sum(-1))
    return torch.cat(pieces, -1)
