"""Building blocks that more than one domain uses: embeddings, attention, DiT, U-Net."""

from __future__ import annotations

from gendiff.nn.attention import Attention, RMSNorm, Rotary, grid_positions, rotate
from gendiff.nn.dit import AdaptiveBlock, DiT
from gendiff.nn.embeddings import Conditioning, FourierTime, LabelEmbedding
from gendiff.nn.unet import MaskedGroupNorm, ResidualBlock, UNet

__all__ = [
    "AdaptiveBlock",
    "Attention",
    "Conditioning",
    "DiT",
    "FourierTime",
    "LabelEmbedding",
    "MaskedGroupNorm",
    "RMSNorm",
    "ResidualBlock",
    "Rotary",
    "UNet",
    "grid_positions",
    "rotate",
]
