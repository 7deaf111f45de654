"""The network of audio: a one-dimensional U-Net along the frames, whose channels are the mel bins. It gives two
numbers per cell,

    F = a + b x,

a map and a gate on the network's own input. Close to the data a denoiser keeps most of x and removes the rest: F is
nearly a multiple of x, which a network that squeezes 64 bins through normalised channels takes a thousand steps to
learn and the gate learns at once (loss at sigma 0.5 after 300 steps: 0.83 without, 0.35 with it).

At equal time on a CPU such a network beat a transformer over frames and a U-Net over the picture by twenty points of
digit accuracy: a spectrogram moves in time, but not in frequency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gendiff.conditions import Condition
from gendiff.nn import UNet


class MelUNet(nn.Module):
    """f(x, t, mask, **cond): x `[B, frames, mels]` and t `[B]` to `[B, frames, mels]`; padded frames change nothing
    and come out 0.

    Args:
        mels: bins per frame.
        conditions: what may be asked, by name.
        channels: of each level; every level halves the frames.
        blocks: residual blocks of each level, on each way.
        attention: whether the coarsest level also attends over all frames.
        dropout: inside the residual blocks.
        previous: whether it is told the prediction before.
        jumps: whether it is told the time to jump to (few steps).
        guided: whether it is told a guidance scale.
    """

    def __init__(
        self,
        mels: int,
        conditions: Mapping[str, Condition],
        *,
        channels: Sequence[int] = (128, 160, 192),
        blocks: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
        previous: bool = False,
        jumps: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.takes_previous, self.takes_to, self.takes_guidance = previous, jumps, guided
        levels = [*[False] * (len(channels) - 1), attention]
        self.unet = UNet(
            1,
            in_channels=mels,
            out_channels=2 * mels,
            channels=channels,
            blocks=blocks,
            attention=levels,
            conditions=conditions,
            dropout=dropout,
            previous=previous,
            jumps=jumps,
            guided=guided,
        )

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of the conditions depends neither on x nor on t, for the condition "embedded"."""
        return self.unet.embed(cond)

    def forward(
        self, x: Tensor, t: Tensor, mask: Tensor | None = None, previous: Tensor | None = None, **cond: Any
    ) -> Tensor:
        before = None if previous is None else previous.mT
        a, b = self.unet(x.mT, t, mask, before, **cond).mT.chunk(2, -1)
        return a + b * x

    def features(
        self, x: Tensor, t: Tensor, mask: Tensor | None = None, previous: Tensor | None = None, **cond: Any
    ) -> list[Tensor]:
        """Those of the U-Net, for a side branch."""
        return self.unet.features(x.mT, t, mask, None if previous is None else previous.mT, **cond)

    def as_side(self) -> nn.ModuleList:
        """Gives up what `features` does not use; a layer, zero at the start, for each of its tensors."""
        return self.unet.as_side()
