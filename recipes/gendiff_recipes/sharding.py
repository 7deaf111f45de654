"""Weights that are shared out: each of several devices holds a part of each tensor (FSDP2, torch's `fully_shard`).

A device gathers the weights of a block when it comes to it, forwards and backwards, and forgets them afterwards, so
that weights, gradients, the optimiser's moments and the average take 1/devices of their memory on each. Blocks are the
members of a network's `nn.ModuleList`s; what lies outside of them, and a network without, is gathered as one.

What leaves the training is whole: checkpoints, model files, and the network that draws samples on the way. A run may
therefore go on with other devices, or another strategy.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from gendiff.nn import blocks_of


def sharded(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """A copy of a network whose parameters are shared out over a mesh of devices."""
    made = copy.deepcopy(network)
    for p in made.parameters():
        p.data = p.data.contiguous()  # channels last is no order that can be cut
    for block in blocks_of(made):
        fully_shard(block, mesh=mesh)
    fully_shard(made, mesh=mesh)
    if hasattr(made, "embed"):
        register_fsdp_forward_method(made, "embed")
    return made


def full(value: Any) -> Any:
    """A tree of dicts whose shared-out tensors are gathered, for which all devices call this."""
    if isinstance(value, DTensor):
        return value.full_tensor().detach()
    if isinstance(value, Mapping):
        return {key: full(item) for key, item in value.items()}
    return value


def shared_like(like: Tensor, value: Any) -> Any:
    """A whole tensor cut as another of its shape is; what is no such tensor passes."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # Every device has read the whole, and takes its own part.
    whole = value.to(device=like.device_mesh.device_type)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Writes whole weights and buffers into a whole network, which may lie on another device."""
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, value in weights.items():
        own[name].copy_(value)
