"""Activations that are made again: less memory for a third more time.

Training keeps what every layer made, to differentiate it. Of a block that is recomputed only its inputs are kept; going
backwards, it is run once more, with the random numbers that it drew before, so that losses and gradients stay the same
to the bit (Chen et al., "Training deep nets with sublinear memory cost", 2016). `torch.utils.checkpoint` does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network: the outermost members of its lists of modules that are more than one layer."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            for member in child:
                if any(True for _ in member.children()):
                    yield member
        else:
            yield from blocks_of(child)


@contextmanager
def recomputed(network: nn.Module) -> Iterator[int]:
    """The blocks of a network are recomputed, for a while; gives their number.

    Where no gradient is asked for, they are as ever.
    """
    blocks = list(blocks_of(network))
    for block in blocks:
        block.forward = partial(again, block.forward)
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            del block.forward


def again(forward: Any, *args: Any, **kwargs: Any) -> Any:
    """A block's forward pass, of which nothing but the inputs is kept."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
