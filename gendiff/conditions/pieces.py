"""Texts in pieces: any text in a vocabulary of bytes and of what often stands together (byte-pair encoding).

    "a redder heart" -> a, ␣red, der, ␣heart        merge the neighbours that come first in the vocabulary, and again

The vocabulary is trained by `tokenizers` and is a list of pieces in the order in which they were merged, the 256 bytes
first: all that a model file needs to hold. Bytes are written as letters, as GPT-2 does (Ġ is the space).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from gendiff.errors import GendiffError

SEEN = [*range(33, 127), *range(161, 173), *range(174, 256)]
ALPHABET = tuple(chr(b if b in SEEN else 256 + sum(c not in SEEN for c in range(b))) for b in range(256))
"""The letter of every byte."""

CHUNK = re.compile(r" ?(?:[^\W\d_]{1,48}|\d{1,48}|[^\w\s]{1,48}|_{1,48})")
"""What no piece reaches beyond: a word, a number or signs, with the space before."""


def chunks(text: str) -> list[str]:
    """A text in chunks, in the letters of its bytes."""
    return ["".join(ALPHABET[b] for b in part.encode()) for part in CHUNK.findall(text)]


def merged(chunk: str, numbers: Mapping[str, int]) -> list[str]:
    """A chunk in pieces."""
    parts, last = list(chunk), len(numbers)
    while len(parts) > 1:
        ranks = [numbers.get(a + b, last) for a, b in pairwise(parts)]
        best = min(ranks)
        if best == last:
            break
        i = ranks.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def trained(texts: Iterable[str], size: int) -> tuple[str, ...]:
    """A vocabulary of at most `size` pieces for some texts.

    Raises:
        GendiffError: Without the package tokenizers.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ModuleNotFoundError as error:
        raise missing("tokenizers", 'Text(tokenizer="bpe")') from error
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else every worker that is forked later warns
    try:
        own = Tokenizer(models.BPE())
        own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(ALPHABET), show_progress=False)
        own.train_from_iterator((" ".join(chunks(text)) for text in texts), trainer)
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    learned = sorted(own.get_vocab().items(), key=lambda item: item[1])
    return (*ALPHABET, *(piece for piece, _ in learned if len(piece) > 1))


def missing(package: str, what: str) -> GendiffError:
    """The error for what needs a package that is not installed."""
    return GendiffError(f"{what} needs the package {package}", "it is not installed", 'pip install "gendiff[text]"')
