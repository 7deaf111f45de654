r"""A text: words known from training, read by a small transformer that is trained along.

    "A red heart." -> a, red, heart, . -> tokens h = encoder(start, a, red, heart, .),  vector = W mean(h)

Texts are cut into words and signs, in lower case, those of scripts without spaces into letters; the vocabulary is that
of the training texts and stands in the model file. A word that was never seen is refused with the nearest one, before
anything is drawn. The first token is the text's start, or, where nothing is asked, one of its own; so no text, however
short, leaves attention without a token, and padding changes nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from gendiff.conditions.base import Batched, Condition, distinct, printed, unmasked
from gendiff.conditions.pieces import ALPHABET, chunks, merged, trained
from gendiff.errors import Range, RequestError, at_least, check, nearest, refuse
from gendiff.nn.tokens import TextEmbedding

SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han. Each is a word."""

MARK = "\u0300"
"""Any combining mark, in the shadow of a text that words are found in; it belongs to the letter or sign before it."""

WORD = re.compile(
    rf"[{SPACELESS}]{MARK}*|(?:[^\W{SPACELESS}]|{MARK})+(?:['’\-](?:[^\W{SPACELESS}]|{MARK})+)*|[^\w\s]{MARK}*"
)
SHOWN, KEPT = 8, 50_000  # examples; chunks whose pieces are remembered


def letters_of(text: str) -> list[tuple[str, str]]:
    """The letters of a text with their categories, in lower case and one form of each (NFKC), without marks of format
    and of how a sign is drawn.

    Raises:
        RequestError: For what is no text, and for one that no file could hold.
    """
    if not isinstance(text, str):
        raise RequestError(f"{text!r:.80}", "a text", 'NAME="..."')
    odd = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
    if odd is not None:
        raise RequestError(f"{printed(text)!r}, whose letter {odd + 1} is half of a sign (a surrogate)", "a whole text")
    kinds = [(c, unicodedata.category(c)) for c in unicodedata.normalize("NFKC", text).lower()]
    return [(c, kind) for c, kind in kinds if kind != "Cf" and not "\ufe00" <= c <= "\ufe0f"]


def plain_of(text: str) -> str:
    """A text in one line, in lower case and one form of each letter; RequestError for what is no text."""
    return " ".join("".join(c for c, _ in letters_of(text)).split())


def words_of(text: str) -> list[str]:
    """The words and signs of a text.

    Raises:
        RequestError: As `letters_of`.
    """
    kinds = letters_of(text)
    plain, shadow = "".join(c for c, _ in kinds), "".join(MARK if kind[0] == "M" else c for c, kind in kinds)
    return [plain[word.start() : word.end()] for word in WORD.finditer(shadow)]


def spread(texts: Sequence[str], most: int = SHOWN) -> tuple[str, ...]:
    """Some of the texts, spread over all of them in the order of the alphabet."""
    every = sorted(set(texts))
    return tuple(every[:: max(1, len(every) // most)][:most])


@dataclass(frozen=True)
class Text(Condition):
    """A text by its words, or by pieces of them.

    Args:
        vocabulary: The words or pieces that are known; `fit` takes them from training texts.
        longest: Words, or pieces, a text at most; longer training texts are cut, and said to be.
        layers: Of the encoder that is trained along.
        pooled: Whether a network also gets the text as one vector.
        tokens: Whether it gets the words themselves, to attend to.
        examples: Some training texts, drawn when nothing is said.
        tokenizer: "words", or "bpe" for pieces that every text can be cut into; it needs the package tokenizers to fit.
        size: Pieces at most.
    """

    vocabulary: tuple[str, ...] = ()
    longest: int = 48
    layers: int = 2
    pooled: bool = True
    tokens: bool = True
    examples: tuple[str, ...] = ()
    tokenizer: Literal["words", "bpe"] = "words"
    size: int = 4096

    def __post_init__(self) -> None:
        check(self, longest=at_least(1), layers=at_least(0), size=Range(256, 2**16))
        distinct(self, "vocabulary")
        if self.tokenizer == "bpe" and self.vocabulary and self.vocabulary[:256] != ALPHABET:
            refuse(self, "vocabulary", "the 256 bytes, and pieces of them", 'Text(tokenizer="bpe")')
        if not (self.pooled or self.tokens):
            raise RequestError("Text(pooled=False, tokens=False)", "one of them at least", "Text(tokens=True)")

    @property
    def gives(self) -> tuple[str, ...]:
        return ("vector",) * self.pooled + ("tokens",) * self.tokens

    def encode(self, value: Any) -> Tensor:
        """int64 [words]: empty where nothing is asked.

        Raises:
            RequestError: For what is no text, unknown words, and more than `longest`.
        """
        if value is None:
            return torch.empty(0, dtype=torch.int64)
        found = self.cut(value)
        if len(found) > self.longest:
            raise RequestError(f"a text of {len(found)} {self.unit}, {printed(value)!r}", f"at most {self.longest}")
        return self.looked_up(found, value)

    @property
    def unit(self) -> str:
        """What a text is made of."""
        return "words" if self.tokenizer == "words" else "pieces"

    def cut(self, text: str) -> list[str]:
        """A text in words, or in pieces."""
        if self.tokenizer == "words":
            return words_of(text)
        found: list[str] = []
        for chunk in chunks(plain_of(text)):
            if chunk not in self.known:
                self.known[chunk] = merged(chunk, self.numbers)
            found += self.known[chunk]
            if len(self.known) > KEPT:
                self.known.clear()
        return found

    @cached_property
    def known(self) -> dict[str, list[str]]:
        """Chunks that were met, in pieces."""
        return {}

    def looked_up(self, found: Sequence[str], value: str) -> Tensor:
        """The numbers of words, int64 [words]; RequestError for one that is unknown."""
        known = self.numbers
        if not known and found:
            raise RequestError(
                f"the text {printed(value)!r} for a Text() that has seen no training texts",
                "one that is fitted to them",
                "domain = domain.fit_conditions(examples), as training does by itself",
            )
        for place, word in enumerate(found):
            if word not in known:
                raise RequestError(
                    f"the word {word!r} (number {place + 1} of {printed(value)!r}) was never seen in training",
                    f"words among the {len(known)} known ones.{nearest(word, known)}",
                )
        return torch.tensor([known[word] for word in found], dtype=torch.int64)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of every word."""
        return {word: i for i, word in enumerate(self.vocabulary)}

    def collate(self, singles: Sequence[Any], sites: tuple[int, ...] = ()) -> dict[str, Tensor]:
        length = max(1, *(len(single) for single in singles))
        words = torch.zeros(len(singles), length, dtype=torch.int64)
        for row, single in zip(words, singles, strict=True):
            row[: len(single)] = single
        counts = torch.tensor([len(single) for single in singles])
        return {"words": words, "mask": torch.arange(length) < counts[:, None]}

    def drop(self, batch: Batched, gone: Tensor) -> dict[str, Tensor]:
        return unmasked(batch, gone)

    def embedder(self, width: int) -> nn.Module:
        return TextEmbedding(len(self.vocabulary), width, self.layers, pooled=self.pooled, tokens=self.tokens)

    def fit(self, values: Sequence[Any]) -> Self:
        texts = [value for value in values if value]
        if self.vocabulary or not texts:
            return self
        if self.tokenizer == "bpe":
            return replace(self, vocabulary=trained(map(plain_of, texts), self.size), examples=spread(texts))
        words = {word for text in texts for word in words_of(text)[: self.longest]}
        return replace(self, vocabulary=tuple(sorted(words)), examples=spread(texts))

    def audit(self, values: Sequence[Any]) -> list[str]:
        lengths = {value: len(self.cut(value)) for value in values if value is not None}
        long = sum(lengths[value] > self.longest for value in values if value is not None)
        empty = sum(not lengths[value] for value in values if value is not None)
        said = super().audit(values)
        said += [f"{long} texts of more than {self.longest} {self.unit} are cut"] if long else []
        return said + ([f"{empty} texts are empty, and ask for nothing"] if empty else [])

    def encode_example(self, value: Any) -> Tensor:
        """A training text, of which no more than `longest` words are read."""
        return self.encode(None) if value is None else self.looked_up(self.cut(value)[: self.longest], value)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.vocabulary

    def turn(self) -> Sequence[str]:
        return self.examples

    def words(self, value: Any) -> str:
        return "" if value is None else printed(str(value))

    def describe(self) -> str:
        shown = f', such as "{printed(self.examples[0], 60)}"' if self.examples else ""
        of = f"of {len(self.vocabulary)} known words" if self.tokenizer == "words" else "of any words"
        return f"a text {of}{shown}"
