"""Samplers of other libraries, run on our exact denoisers in float64 and counted; a file for each library.

A peer is one sampler of one library on one of its own grids. It is given starts and a number n of evaluations, takes
as many steps as n pays for, and returns its ends. Two kinds of start:

    scaled   y = x/alpha at sigma/alpha = c: VE, and whatever is VE up to a scale (VP at any alpha: x = y alpha)
    flow     x = z at t = 1 of the linear path

Where a library offers a choice (the lowest sigma, whether to denoise once more at the end), all are tried. What fails
(an exception, a value that is not finite, too many evaluations) raises.

    python -m benchmarks.peers GOLDENS      every library against a trajectory that it gave by itself
"""

from math import isfinite

from . import azula, diffusers, flow_matching, k_diffusion
from .shared import Peer, level

__all__ = ["Peer", "level", "peers"]


def peers(c: float) -> list[Peer]:
    """All of them, from the noise level sigma/alpha = c."""
    if isfinite(c):
        return [*k_diffusion.peers(c), *diffusers.peers(c), *azula.peers(c)]
    return [*diffusers.flow_peers(), *azula.peers(c), *flow_matching.peers()]
