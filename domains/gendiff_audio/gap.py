"""A gap in a recording, to be filled by a model that is given what surrounds it.

gap = clip.without(1.20, 1.85)                                            # seconds
given = model.known(clip, gap.known(model.domain.spectrogram))
takes = [gap.mend(take) for take in model.sample(4, seconds=clip.seconds, given=given)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gendiff_audio.clip import Clip

if TYPE_CHECKING:
    from gendiff_audio.spectrogram import LogMel


@dataclass(frozen=True)
class Gap:
    """The clip, and the seconds from `start` to `stop` that are missing in it. `Clip.without` makes one."""

    clip: Clip
    start: float
    stop: float

    def known(self, spectrogram: LogMel) -> Tensor:
        """Which frames see nothing of the gap: bool `[frames, 1]`, for `Model.known`."""
        frames = torch.arange(spectrogram.frames(self.clip.samples.shape[1]))
        center = (frames + 0.5) * spectrogram.hop / spectrogram.sample_rate
        reach = spectrogram.win / spectrogram.sample_rate / 2
        return ((center + reach <= self.start) | (center - reach >= self.stop))[:, None]

    def mend(self, take: Clip, *, fade: float = 0.02) -> Clip:
        """The recording itself, with `take` in the gap; they are cross-faded over `fade` seconds outside of it."""
        n, rate = self.clip.samples.shape[1], self.clip.sample_rate
        inside = np.zeros((take.channels, n), np.float32)
        inside[:, : min(n, take.samples.shape[1])] = take.samples[:, :n]
        time = np.arange(n) / rate
        ramp = np.minimum(time - self.start, self.stop - time) / fade + 1
        w = np.sin(np.pi / 2 * np.clip(ramp, 0, 1)) ** 2
        return Clip(w * inside + (1 - w) * self.clip.samples, rate)
