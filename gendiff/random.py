r"""Noise that belongs to a sample: the same whatever the batch, its order, its padding or the device.

A number is a pure function of where it stands. Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011) maps a counter of four 32-bit words under a key of two words to four random words:

    key     = (seed, index)                        which run, which sample of it
    counter = (block, site, step, stream)          which four elements, which row (axis 1), which draw, what for

The elements of one site (all axes after the second) are numbered in blocks of four, so appending sites, that is
padding axis 1, moves nothing. Normals are Box-Muller pairs of words u1, u2 in (0, 1):

    z1, z2 = sqrt(-2 log u1) (cos 2 pi u2, sin 2 pi u2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gendiff.errors import refuse, whole

WORD = 0xFFFFFFFF


def philox(counter: Sequence[Tensor], key: Sequence[Tensor | int]) -> list[Tensor]:
    """Philox-4x32-10: four int64 tensors holding 32-bit words, and two key words, to four random words.

    All arguments broadcast; a key may be an int. Equals Random123's known answers, bit for bit, on every device.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The 64-bit products wrap in int64; their bits are the right ones. Of c1 and c3 the low 32 count.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & WORD, p1, ((p0 >> 32) ^ c3 ^ k1) & WORD, p0
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return [c0, c1 & WORD, c2, c3 & WORD]


@dataclass(frozen=True)
class Noise:
    """A source of random numbers for the samples `index` of the run `seed`.

    Args:
        seed: Any integer; its low 64 bits count.
        index: int64 tensor [B]: which samples these are. Sample 5 is sample 5 in every batch.
        stream: What the numbers are for; `fork` makes one from a name.
        step: Which draw of the stream; `at` sets it.
    """

    seed: int
    index: Tensor
    stream: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "stream", "step"):
            if not isinstance(getattr(self, name), int):
                refuse(self, name, "a whole number")

    @staticmethod
    def of(seed: int, n: int, start: int = 0, device: torch.device | str | None = None) -> Noise:
        """The source for samples start .. start + n - 1 of run `seed`."""
        whole("Noise.of", "n", n, 0)
        return Noise(seed, torch.arange(start, start + n, dtype=torch.int64, device=device))

    def fork(self, name: str) -> Noise:
        """An independent stream, named for its purpose."""
        stream = self.stream ^ 0x811C9DC5
        for letter in name:  # FNV-1a
            stream = ((stream ^ ord(letter)) * 0x01000193) & WORD
        return replace(self, stream=stream)

    def at(self, step: int) -> Noise:
        """The same stream at draw number `step`."""
        return replace(self, step=step)

    def select(self, rows: slice | Tensor) -> Noise:
        """The source for some of the samples."""
        return replace(self, index=self.index[rows])

    def to(self, device: torch.device | str) -> Noise:
        return replace(self, index=self.index.to(device, non_blocking=True))

    def words(self, shape: Sequence[int], per_element: int = 1) -> Tensor:
        """Random 32-bit words as int64 [per_element, *shape], shape = [B, ...] with B = len(index)."""
        _, *rest = shape
        sites, inner = (rest[0], math.prod(rest[1:])) if rest else (1, 1)
        blocks = (inner * per_element + 3) // 4
        device = self.index.device
        block = torch.arange(blocks, dtype=torch.int64, device=device)
        site = torch.arange(sites, dtype=torch.int64, device=device)[:, None]
        index = self.index[:, None, None]
        step, stream = (
            torch.full((), word & WORD, dtype=torch.int64, device=device)
            for word in (self.step, self.stream ^ (self.seed >> 32))
        )
        words = philox([block, site, step, stream], [self.seed & WORD, index & WORD])  # each [B, sites, blocks]
        lanes = torch.stack(torch.broadcast_tensors(*words), dim=-1)
        lanes = lanes.flatten(-2)[..., : inner * per_element]
        return lanes.unflatten(-1, (inner, per_element)).movedim(-1, 0).reshape(per_element, *shape)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Uniform numbers in the open interval (0, 1), [B, ...]."""
        u = ((self.words(shape)[0].to(torch.float64) + 0.5) * 2.0**-32).to(dtype)
        return u.clamp_max(1 - torch.finfo(dtype).eps / 2)  # narrow types round the last ones up to 1

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers [B, ...], the same to rounding in every dtype."""
        batch, *rest = shape
        inner = math.prod(rest[1:]) if rest else 1
        sites = rest[0] if rest else 1
        pairs = (inner + 1) // 2
        work = torch.float64 if dtype == torch.float64 else torch.float32
        u1, u2 = self.words((batch, sites, 2 * pairs)).to(work).reshape(batch, sites, pairs, 2).unbind(-1)
        radius = torch.sqrt(-2 * torch.log((u1 + 0.5) * 2.0**-32))
        angle = (u2 + 0.5) * (2.0**-32 * 2 * math.pi)
        z = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten(-2)
        return z[..., :inner].reshape(shape).to(dtype)

    def integers(self, shape: Sequence[int], high: int) -> Tensor:
        """Uniform integers in [0, high), int64 [B, ...]."""
        return (self.uniform(shape) * high).long().clamp_(max=high - 1)


@dataclass(frozen=True)
class Increment(Noise):
    """Normal numbers read off one Brownian path per sample: (W_t - W_s)/sqrt(t - s) for 0 <= s < t <= 1.

    The path is a function of the source alone: a Brownian bridge halved again and again, each midpoint with its own
    draw (numbered as in a heap), until a piece is the share PIECE of the way to the nearer end of [0, 1]; linear within
    pieces. Refining a grid refines the noise, whatever the number of steps, and however close to an end they lie.
    """

    start: float = 1.0
    stop: float = 0.0

    PIECE: ClassVar[float] = 2.0**-17

    @staticmethod
    def between(noise: Noise, t: float, s: float) -> Increment:
        """The increment between two times."""
        return Increment(noise.seed, noise.index, noise.stream, noise.step, start=t, stop=s)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        source = Noise(self.seed, self.index, self.stream)
        draws: dict[int, Tensor] = {}

        def draw(node: int) -> Tensor:
            if node not in draws:
                high = node >> 32  # a step holds 32 bits
                deep = source.fork(f"below {high}") if high else source
                draws[node] = deep.at(node).normal(shape, torch.float64)
            return draws[node]

        def path(t: float) -> Tensor:
            low, high, node, scale = 0.0, 1.0, 1, 0.5
            a, b = torch.zeros_like(draw(0)), draw(0)
            while t not in (low, high) and high - low > self.PIECE * min(t, 1 - t):
                middle = (a + b) / 2 + scale * draw(node)
                half, scale = (low + high) / 2, scale / math.sqrt(2)
                if t < half:
                    high, b, node = half, middle, 2 * node
                else:
                    low, a, node = half, middle, 2 * node + 1
            return a + (b - a) * ((t - low) / (high - low))

        return ((path(self.start) - path(self.stop)) / math.sqrt(self.start - self.stop)).to(dtype)
