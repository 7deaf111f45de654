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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import refuse, whole

WORD = 0xFFFFFFFF
FACTORS, STEPS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[Any], key: Sequence[Any]) -> list[Any]:
    """Philox-4x32-10: four words of counter and two of key to four random words, all 32 bits in int64.

    Tensors or numpy arrays, which broadcast; ints are fine where another argument is none. Equals Random123's known
    answers, bit for bit, on every device.
    """
    c, _ = rounds(counter, key, 10)
    return [c[0], c[1] & WORD, c[2], c[3] & WORD]


def rounds(c: Sequence[Any], k: Sequence[Any], count: int) -> tuple[list[Any], list[Any]]:
    """So many rounds of Philox; of c1 and c3 the low 32 bits count."""
    (c0, c1, c2, c3), (k0, k1) = c, k
    for _ in range(count):
        # The 64-bit products wrap in int64; their bits are the right ones.
        p0, p1 = c0 * FACTORS[0], c2 * FACTORS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & WORD, p1, ((p0 >> 32) ^ c3 ^ k1) & WORD, p0
        k0, k1 = (k0 + STEPS[0]) & WORD, (k1 + STEPS[1]) & WORD
    return [c0, c1, c2, c3], [k0, k1]


def halves(c: Sequence[Any], k: Sequence[Any], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The words of `philox` as (c0, c2) and (c1, c3), [2, *shape] each: in half of the operations, on pairs of words.

    Numpy arrays are worked on by numpy, whose calls cost a third of torch's on small arrays.
    """
    c, (k0, k1) = rounds(c, k, 2)  # still small: the counter's words broadcast
    host = isinstance(k1, np.ndarray)
    even, odd, product, key = (empty(k1, (2, *shape)) for _ in range(4))
    key = key[:, :, :1, :1]
    even[0], even[1], odd[0], odd[1], key[0], key[1] = c[0], c[2], c[1], c[3], k0, k1
    multiply: Callable[..., Any] = np.multiply if host else torch.mul
    shift: Callable[..., Any] = np.right_shift if host else torch.bitwise_right_shift
    for _ in range(8):
        multiply(even[0], FACTORS[0], out=product[1])
        multiply(even[1], FACTORS[1], out=product[0])
        shift(product, 32, out=even)
        even ^= odd
        even ^= key
        even &= WORD
        odd, product = product, odd
        key[0] += STEPS[0]
        key[1] += STEPS[1]
        key &= WORD
    odd &= WORD
    return torch.as_tensor(even), torch.as_tensor(odd)


def empty(like: Any, shape: tuple[int, ...]) -> Any:
    """An int64 array of numpy's or torch's, as `like` is."""
    return np.empty(shape, np.int64) if isinstance(like, np.ndarray) else like.new_empty(shape)


def interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """Lanes 0 and 2, and 1 and 3, of every block, [2, ..., blocks] each, in their order: [..., 4 blocks]."""
    return torch.stack([even[0], odd[0], even[1], odd[1]], -1).flatten(-2)


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
        whole("Noise.of", "start", start, 0)
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
        inner = math.prod(shape[2:])
        even, odd = self.blocks(shape, inner * per_element)
        lanes = interleaved(even, odd)[..., : inner * per_element]
        return lanes.unflatten(-1, (inner, per_element)).movedim(-1, 0).reshape(per_element, *shape)

    def blocks(self, shape: Sequence[int], words: int) -> tuple[Tensor, Tensor]:
        """Enough blocks for so many words a site: their words (c0, c2) and (c1, c3), int64 [2, B, sites, blocks]."""
        sites, blocks = shape[1] if len(shape) > 1 else 1, (words + 3) // 4
        step, stream, seed = self.step & WORD, (self.stream ^ (self.seed >> 32)) & WORD, self.seed & WORD
        full = (len(self.index), sites, blocks)
        if torch.compiler.is_compiling():
            c = philox(self.counter(torch, blocks, sites, step, stream), [seed, self.index[:, None, None] & WORD])
            c = torch.broadcast_tensors(*c)
            return torch.stack([c[0], c[2]]), torch.stack([c[1], c[3]])
        host = self.index.device.type == "cpu"
        index = (self.index.numpy() if host else self.index)[:, None, None] & WORD
        return halves(self.counter(np if host else torch, blocks, sites, step, stream), [seed, index], full)

    def counter(self, library: Any, blocks: int, sites: int, step: int, stream: int) -> list[Any]:
        """The four words of the counter, as tensors or numpy arrays."""
        where: dict[str, Any] = {} if library is np else {"device": self.index.device}
        block, site = (library.arange(n, dtype=library.int64, **where) for n in (blocks, sites))
        one = library.full((1,), step, dtype=library.int64, **where)
        return [block, site[:, None], one, one * 0 + stream]

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Uniform numbers in the open interval (0, 1), [B, ...]."""
        u = ((self.words(shape)[0].to(torch.float64) + 0.5) * 2.0**-32).to(dtype)
        return u.clamp_max(1 - torch.finfo(dtype).eps / 2)  # narrow types round the last ones up to 1

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers [B, ...], the same to rounding in every dtype."""
        inner = math.prod(shape[2:])
        work = torch.float64 if dtype == torch.float64 else torch.float32
        u1, u2 = (u.to(work) for u in self.blocks(shape, inner))
        radius = u1.add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = u2.add_(0.5).mul_(2.0**-32 * 2 * math.pi)
        z = interleaved(radius * torch.cos(angle), radius * torch.sin(angle))
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

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Uniform numbers in (0, 1) of this increment alone: where its normal numbers stand in their distribution."""
        return torch.special.ndtr(self.normal(shape, torch.float64)).to(dtype).clamp_max(1 - torch.finfo(dtype).eps / 2)

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
