"""The networks of states on a grid: a U-Net, or a DiT where the width of its tokens is given.

A domain whose `network(**size)` hands its sizes to `grid_network` says so by `grid_sizes`, and need not list them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from gendiff.errors import RequestError, nearest
from gendiff.nn.dit import DiT
from gendiff.nn.embeddings import Embeds
from gendiff.nn.unet import UNet

Method = TypeVar("Method", bound=Callable[..., nn.Module])


def grid_network(
    dims: int,
    in_channels: int,
    conditions: Mapping[str, Embeds] | None = None,
    *,
    sites: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    blocks: int = 2,
    attention: Sequence[bool] | None = None,
    patch: int | None = None,
    width: int | None = None,
    depth: int = 8,
    heads: int = 4,
    dropout: float = 0.0,
    previous: bool = False,
    refine: int = 0,
    jumps: bool = False,
    guided: bool = False,
) -> nn.Module:
    """f(x [B, C, *sites], t [B], **cond) to [B, C, *sites].

    Args:
        dims: 1 for sequences, 2 for pictures.
        in_channels: of x.
        conditions: what may be asked, by name.
        sites: of every x, where all have the same; a DiT is refused whose patches do not fit.
        channels: of each level of the U-Net; (96, 160) by default.
        blocks: of the U-Net, per level.
        attention: of the U-Net, per level; by default on the last level.
        patch: sites folded into channels along each axis; 1 by default.
        width: of the DiT's tokens.
        depth: of the DiT.
        heads: of the DiT.
        dropout: in either.
        previous: whether either is told the prediction before (self-conditioning).
        refine: channels of convolutions after the DiT's patches, by which these agree across their borders; 0 for none.
        jumps: whether either is told the time to jump to, as few-step training wants.
        guided: whether either is told a guidance scale.

    Raises:
        RequestError: For settings of both, of the other, and patches that do not fit.
    """
    patch = patch or 1
    if width is None:
        if refine:
            raise RequestError(
                "the network got refine= without width=", "width, depth, heads, refine (a DiT has these)"
            )
        levels = tuple(channels or (96, 160))
        made = UNet(
            dims, in_channels=in_channels, out_channels=in_channels, channels=levels, blocks=blocks,
            attention=attention or tuple(i == len(levels) - 1 for i in range(len(levels))), conditions=conditions,
            patch=patch, dropout=dropout, previous=previous, jumps=jumps, guided=guided,
        )  # fmt: skip
        return made.to(memory_format=torch.channels_last) if dims == 2 else made  # pyright: ignore[reportCallIssue]
    if channels is not None or attention is not None:
        raise RequestError(
            "the network got width= with channels= or attention=",
            "channels, blocks, attention, patch, dropout (a U-Net has these), or width, depth, heads (a DiT)",
            "For a DiT: network.channels=none network.width=192",
        )
    if any(count % patch for count in sites or ()):
        raise RequestError(
            f"a DiT of patch={patch} for states of {tuple(sites or ())} sites",
            f"sides that are multiples of {patch}",
            "patch=1, or another size",
        )
    return DiT(
        dims, in_channels=in_channels, out_channels=in_channels, patch=patch, width=width, depth=depth, heads=heads,
        conditions=conditions, dropout=dropout, previous=previous, refine=refine,
        jumps=jumps, guided=guided,
    )  # fmt: skip


def grid_sizes(method: Method) -> Method:
    """A domain's `network(**size)` whose signature and docstring list the sizes of `grid_network`, with its defaults.

    Raises:
        RequestError: When it is called with another, with the nearest.
    """
    own, made = inspect.signature(method), inspect.signature(grid_network).parameters.values()
    sizes = {p.name: p for p in made if p.kind is p.KEYWORD_ONLY and p.name != "sites"}

    @functools.wraps(method)
    def network(self: Any, **size: Any) -> nn.Module:
        for word in size:
            if word not in sizes:
                raise RequestError(f"network({word}=...)", f"one of {', '.join(sizes)}.{nearest(word, sizes)}")
        return method(self, **size)

    lines = inspect.cleandoc(grid_network.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0].splitlines()
    skip = ("    dims:", "    in_channels:", "    conditions:", "    sites:")
    about = "\n".join(line for line in lines if not line.startswith(skip))
    network.__doc__ = f"{inspect.cleandoc(method.__doc__ or '')}\n\nArgs:\n{about}"
    network.__annotations__ = {
        **{name: grid_network.__annotations__[name] for name in sizes}, "return": method.__annotations__["return"],
    }  # fmt: skip
    network.__signature__ = own.replace(parameters=[own.parameters["self"], *sizes.values()])  # type: ignore[attr-defined]
    return network  # type: ignore[return-value]
