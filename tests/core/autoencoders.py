"""Tiny autoencoders of diffusers with random weights, in folders as it saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


def made(kind: str, **changes: Any) -> Any:
    """An autoencoder of stride 4 (KL: 2), with weights that make something of a picture."""
    diffusers = pytest.importorskip("diffusers")
    three = ("ResBlock", "ResBlock", "EfficientViTBlock")
    settings: dict[str, dict[str, Any]] = {
        "AutoencoderKL": {
            "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "latent_channels": 3,
            "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "shift_factor": 0.1,
            "scaling_factor": 0.7,
        },
        "AutoencoderDC": {
            "latent_channels": 4, "attention_head_dim": 4, "encoder_block_out_channels": (8, 8, 16),
            "decoder_block_out_channels": (8, 8, 16), "encoder_layers_per_block": (1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1), "encoder_block_types": three, "decoder_block_types": three,
            "encoder_qkv_multiscales": ((), (), (5,)), "decoder_qkv_multiscales": ((), (), (5,)), "scaling_factor": 0.4,
        },
        "AutoencoderTiny": {
            "encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8), "latent_channels": 3,
            "num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1),
        },
    }  # fmt: skip
    torch.manual_seed(1)
    from gendiff.latents.pretrained import quiet

    with quiet(diffusers):
        return getattr(diffusers, kind)(**{**settings[kind], **changes}).eval()


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


KINDS = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")
