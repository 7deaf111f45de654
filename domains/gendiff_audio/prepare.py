"""From a recording to what a model is trained on: one channel, no DC, one rate, one level, and a little silence
before the onset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gendiff_audio.clip import AudioError, Clip, decibels, mono
from gendiff_audio.resample import resample


@dataclass(frozen=True)
class Prepare:
    """Clip to clip. Without a common level, loudness dominates every statistic: FSDD's speakers differ by 20 dB.

    Args:
        sample_rate: hertz; other rates are resampled.
        channel: the channel to keep; None makes one of two, see `mono`.
        level: root mean square in dBFS after scaling.
        peak: the scaled clip's peak stays below it, even if the level is then not reached.
        lead: seconds of silence put before the clip.
        shortest, longest: seconds of the recording outside which it is refused; `Sounds` cuts longer ones into windows
            of at most `longest` first.
        quietest: dBFS below which it counts as silence and is refused.
    """

    sample_rate: int = 8000
    channel: int | None = None
    level: float = -23.0
    peak: float = 0.99
    lead: float = 0.04
    shortest: float = 0.05
    longest: float = 30.0
    quietest: float = -70.0

    def __call__(self, clip: Clip) -> Clip:
        """The clip, prepared.

        Raises:
            AudioError: too short, too long, silent, or more than two channels with none named.
        """
        if clip.seconds < self.shortest:
            raise AudioError(f"shorter than {self.shortest:g} s", str(clip), f"at least {self.shortest:g} s")
        if clip.seconds > self.longest:
            fix = f"Cut it into parts: read(path, start=0, seconds={self.longest:g})."
            raise AudioError(f"longer than {self.longest:g} s", str(clip), f"at most {self.longest:g} s", fix)
        clip = mono(clip, channel=self.channel)
        x = clip.samples[0].astype(np.float64)
        x = x - x.mean()
        if decibels(x) < self.quietest:
            raise AudioError(
                "silent", f"{clip}, {decibels(x):.1f} dBFS without its DC", f"{self.quietest:g} dBFS or more"
            )
        x = resample(Clip(x, clip.sample_rate), self.sample_rate).samples[0].astype(np.float64)
        if decibels(x) < self.quietest:
            raise AudioError(
                "nothing below half the sample rate", str(clip), f"sound below {self.sample_rate / 2:g} Hz"
            )
        gain = min(10 ** ((self.level - decibels(x)) / 20), self.peak / np.abs(x).max())
        return Clip(np.concatenate([np.zeros(round(self.lead * self.sample_rate)), gain * x]), self.sample_rate)
