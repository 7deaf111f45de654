"""Texts, and whatever else comes as tokens: an embedding, and a small transformer over it that is trained along.

    h_0 = start or nothing, h_i = E[word_i] or W LN(f_i);    h <- h + Attention(LN h), h <- h + MLP(LN h), each layer

with rotary positions. The vector is W LN(mean of h over real tokens). Padded tokens are not attended to and come out 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.nn.attention import Attention, Rotary, grid_positions


class TokenBlock(nn.Module):
    """A transformer block over tokens, the identity at the start."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.attention = Attention(width, heads, zero=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        nn.init.zeros_(self.mlp[2].weight)  # type: ignore[arg-type]

    def forward(self, h: Tensor, mask: Tensor, angles: Tensor) -> Tensor:
        """[B, L, width] and mask bool [B, L] to [B, L, width]."""
        h = h + self.attention(F.layer_norm(h, (self.width,)), mask=mask, angles=angles)
        return h + self.mlp(F.layer_norm(h, (self.width,)))


class TokenEncoder(nn.Module):
    """A table of tokens and the transformer that reads them.

    Args:
        count: Of known tokens; None for no table.
        width: Of a token; a multiple of 32 makes heads of that width.
        layers: Of the transformer.
    """

    def __init__(self, count: int | None, width: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.heads = max(h for h in range(1, max(1, width // 32) + 1) if width % (4 * h) == 0)
        if count is not None:
            self.table = nn.Embedding(max(count, 1), width)
            nn.init.normal_(self.table.weight, std=0.5)
        self.blocks = nn.ModuleList(TokenBlock(width, self.heads) for _ in range(layers))

    def read(self, h: Tensor, mask: Tensor, places: Tensor | None = None) -> Tensor:
        """[B, L, width] and mask bool [B, L] to the same, each token with its neighbours.

        Args:
            places: Coordinates of the tokens [L, axes]; their order by default.
        """
        h = h * mask[..., None]
        places = grid_positions(h.shape[1], like=h) if places is None else places
        angles = Rotary().angles(places, self.width // self.heads)
        for block in self.blocks:
            h = block(h, mask, angles)
        return h


class StartedEmbedding(TokenEncoder):
    """Tokens after a first one, the start or nothing, to tokens and a vector.

    Args:
        count: Of known tokens; None for no table.
        width: Of a token and of the vector.
        layers: Of the transformer.
        pooled: Whether to give the vector.
        tokens: Whether to give the tokens.
    """

    def __init__(
        self, count: int | None, width: int, layers: int = 2, *, pooled: bool = True, tokens: bool = True
    ) -> None:
        super().__init__(count, width, layers)
        self.pooled, self.gives_tokens = pooled, tokens
        self.first = nn.Parameter(0.5 * torch.randn(2, width))  # nothing, start
        self.out = nn.Linear(width, width)

    def tell(self, h: Tensor, real: Tensor, places: Tensor | None = None) -> dict[str, Tensor]:
        """[B, L, width] and which are real, bool [B, L], to [B, L + 1, width] and [B, width]."""
        first = self.first[real.any(1).long()][:, None]
        mask = F.pad(real, (1, 0), value=True)
        h = self.read(torch.cat([first, h], 1), mask, places)
        h = F.layer_norm(h, (self.width,)) * mask[..., None]
        out = {"tokens": h, "mask": mask} if self.gives_tokens else {}
        if self.pooled:
            out["vector"] = self.out(h.sum(1) / mask.sum(1, keepdim=True))
        return out

    def none(self) -> tuple[Tensor, Tensor]:
        """No token of one sample, and the mask of it."""
        like = self.first
        return like.new_zeros(1, 0, self.width), torch.zeros(1, 0, dtype=torch.bool, device=like.device)


class TextEmbedding(StartedEmbedding):
    """Numbers of words to tokens and a vector."""

    def forward(self, batch: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Words int64 [B, L] with their mask, or None for nothing asked, to [B, L + 1, width] and [B, width]."""
        return self.tell(*(self.none() if batch is None else (self.table(batch["words"]), batch["mask"])))


class FeatureEmbedding(StartedEmbedding):
    """Numbers of tokens, of any scale, to tokens and a vector.

    Args:
        features: Numbers of a token.
        width: Of a token and of the vector.
        layers: Of the transformer.
        pooled: Whether to give the vector.
        tokens: Whether to give the tokens.
        scaled: Whether every token is brought to mean 0 and variance 1 first.
        whole: Numbers of all of them together, beside the tokens; 0 for none.
        grid: Where the tokens lie, rows and columns; () for one after the other.
    """

    def __init__(
        self, features: int, width: int, layers: int = 2, *, pooled: bool = True, tokens: bool = True,
        scaled: bool = False, whole: int = 0, grid: Sequence[int] = (),
    ) -> None:  # fmt: skip
        super().__init__(None, width, layers, pooled=pooled, tokens=tokens)
        self.scaled, self.grid = scaled, tuple(grid)
        self.into = nn.Linear(features, width)
        self.whole = nn.Linear(whole, width, bias=False) if whole and pooled else None

    def forward(self, batch: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Features [B, L, F] with their mask (and "whole" [B, W]), or None for nothing asked."""
        if batch is None:
            return self.tell(*self.none())
        f, real = batch["features"].to(self.into.weight.dtype), batch["mask"]
        h = self.into(F.layer_norm(f, f.shape[-1:]) if self.scaled else f)
        places = None
        if self.grid:  # the first token lies outside of it
            places = F.pad(1 + grid_positions(*self.grid, like=h)[: h.shape[1]], (0, 0, 1, 0))
        out = self.tell(h, real, places)
        if self.whole is not None:
            own = batch["whole"].to(h.dtype)
            own = self.whole(F.layer_norm(own, own.shape[-1:]))
            out["vector"] = out["vector"] + own * real.any(1, keepdim=True)
        return out


class AlignedEmbedding(TokenEncoder):
    """Symbols spread over the sites they cover: a field [B, T, width].

    With `sizes` it also gives, as a side output, the logarithm of the mean number of sites that it expects of each
    symbol, [B, P].

    Args:
        count: Of known symbols.
        width: Of the field.
        layers: Of the transformer over symbols.
        inner: Its width, that of the field by default.
        sizes: Whether to expect numbers of sites.
    """

    def __init__(
        self, count: int, width: int, layers: int = 2, *, inner: int | None = None, sizes: bool = False
    ) -> None:
        inner = width if inner is None else inner
        super().__init__(count, inner, layers)
        self.nothing = nn.Parameter(0.5 * torch.randn(1, width))
        self.place = nn.Linear(3, width)
        self.out = None if inner == width else nn.Linear(inner, width)
        self.sizes = nn.Sequential(nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, 1)) if sizes else None

    def forward(self, batch: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """What `gendiff.conditions.Aligned` collates, or None for nothing asked ([1, width])."""
        if batch is None:
            return {"field": self.nothing}
        mask, index = batch["mask"], batch["index"]
        h = self.read(self.table(batch["symbols"]), mask)
        h = F.layer_norm(h, (self.width,))
        said = h if self.out is None else self.out(h)
        spread = torch.gather(said, 1, index.clamp_max(h.shape[1] - 1)[..., None].expand(-1, -1, said.shape[-1]))
        spread = spread + self.place(batch["place"].to(h.dtype))
        out = {"field": torch.where((index < h.shape[1])[..., None], spread, self.nothing)}
        return out if self.sizes is None else {**out, "log_durations": self.sizes(h)[..., 0]}
