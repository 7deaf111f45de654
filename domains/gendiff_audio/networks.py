"""The network of audio: a one-dimensional U-Net along the frames, whose channels are the mel bins.

At equal time on a CPU it beat a transformer over frames and a U-Net over the picture by twenty points of digit
accuracy: a spectrogram moves in time, but not in frequency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from gendiff.nn import UNet


class MelUNet(nn.Module):
    """f(x, t, mask, **labels): x `[B, frames, mels]` and t `[B]` to `[B, frames, mels]`; padded frames change nothing
    and come out 0.

    Args:
        mels: bins per frame.
        labels: name of each label and its number of classes; the next number means "none".
        channels: of each level; every level halves the frames.
        blocks: residual blocks of each level, on each way.
        attention: whether the coarsest level also attends over all frames.
        dropout: inside the residual blocks.
    """

    def __init__(
        self,
        mels: int,
        labels: Mapping[str, int],
        *,
        channels: Sequence[int] = (128, 160, 192),
        blocks: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels = [*[False] * (len(channels) - 1), attention]
        self.unet = UNet(
            1,
            in_channels=mels,
            out_channels=mels,
            channels=channels,
            blocks=blocks,
            attention=levels,
            labels=labels,
            dropout=dropout,
        )

    def forward(self, x: Tensor, t: Tensor, mask: Tensor | None = None, **labels: Tensor | None) -> Tensor:
        return self.unet(x.mT, t, mask, **labels).mT
