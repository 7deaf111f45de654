"""Building blocks that more than one domain uses: embeddings, attention, DiT, U-Net."""

from __future__ import annotations

from gendiff.nn.attention import Attention, CrossAttention, RMSNorm, Rotary, grid_positions, rotate
from gendiff.nn.dit import AdaptiveBlock, DiT
from gendiff.nn.embeddings import (
    About,
    Asked,
    Conditioning,
    FieldEmbedding,
    FourierTime,
    Jumps,
    LabelEmbedding,
    NumberEmbedding,
    SiteEmbedding,
    pooled_field,
)
from gendiff.nn.grids import grid_network, grid_sizes
from gendiff.nn.recomputing import blocks_of, recomputed
from gendiff.nn.residual import MaskedGroupNorm, Refiner, ResidualBlock
from gendiff.nn.tokens import AlignedEmbedding, FeatureEmbedding, TextEmbedding, TokenBlock
from gendiff.nn.unet import UNet

__all__ = [
    "About",
    "AdaptiveBlock",
    "AlignedEmbedding",
    "Asked",
    "Attention",
    "Conditioning",
    "CrossAttention",
    "DiT",
    "FeatureEmbedding",
    "FieldEmbedding",
    "FourierTime",
    "Jumps",
    "LabelEmbedding",
    "MaskedGroupNorm",
    "NumberEmbedding",
    "RMSNorm",
    "Refiner",
    "ResidualBlock",
    "Rotary",
    "SiteEmbedding",
    "TextEmbedding",
    "TokenBlock",
    "UNet",
    "blocks_of",
    "grid_network",
    "grid_positions",
    "grid_sizes",
    "pooled_field",
    "recomputed",
    "rotate",
]
