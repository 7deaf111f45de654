"""A text read by an encoder that was trained elsewhere and stays as it is: CLIP's text tower, or T5's encoder.

    text -> tokens f_1 ... f_L (and CLIP's pooled vector)   by the frozen encoder, once for each text
    h_0 = start or nothing, h_i = W LN(f_i);   vector = W' LN(mean of h) + W'' LN(pooled)   trained along

A model file does not carry the encoder: it names its folder, and pins it by the digest of its files. What the encoder
gives is kept in 16 bits: of training texts in a file below the data folder (embeddings/), of others in memory. Texts
are read one at a time, so that what is kept depends on nothing but the text.

A folder is a stranger's: its weights are safetensors, no code in it is run, nothing is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gendiff.conditions.base import Batched, Condition, printed, unmasked
from gendiff.conditions.pieces import missing
from gendiff.conditions.text import letters_of, spread
from gendiff.errors import RequestError, at_least, check
from gendiff.files import data_root, folder_digest, pinned_folder
from gendiff.nn.tokens import FeatureEmbedding

KINDS = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel", "mt5": "MT5EncoderModel"}
FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "spiece.model", "*.safetensors", "*.safetensors.index.json",
)  # fmt: skip
LETTERS = 64
"""Of a text, for each token it may have: what lies beyond is not read."""
MOST = 4096
"""Texts whose tokens are kept in memory."""

Read = dict[str, Tensor]


@dataclass(frozen=True)
class PretrainedText(Condition):
    """A text by a frozen encoder in a folder, as `transformers` saves one (`pip install "gendiff[text]"`).

    Args:
        path: The folder, from here, or below the data folder; there it is also found by its own name.
        longest: Tokens a text at most; longer training texts are cut, and said to be.
        pooled: Whether a network also gets the text as one vector.
        tokens: Whether it gets the tokens themselves, to attend to.
        digest: SHA-256 of the encoder's files; `fit` pins it.
        width: Numbers of a token; `fit` finds them.
        whole: Numbers of CLIP's pooled vector; 0 for T5.
        examples: Some training texts, drawn when nothing is said.
    """

    path: str
    longest: int = 77
    pooled: bool = True
    tokens: bool = True
    digest: str = ""
    width: int = 0
    whole: int = 0
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self, longest=at_least(1), width=at_least(0), whole=at_least(0))
        if not (self.pooled or self.tokens):
            raise RequestError("PretrainedText(pooled=False, tokens=False)", "one of them at least", "tokens=True")

    @property
    def gives(self) -> tuple[str, ...]:
        return ("vector",) * self.pooled + ("tokens",) * self.tokens

    def encode(self, value: Any) -> Read:
        """ "features" [tokens, width] in 16 bits, and "whole": no tokens where nothing is asked.

        Raises:
            RequestError: For what is no text, one of too many tokens, and an encoder that is not the model's.
        """
        return self.read_by(value, cut=False)

    def encode_example(self, value: Any) -> Read:
        """A training text, of which no more than `longest` tokens are read."""
        return self.read_by(value, cut=True)

    def read_by(self, value: Any, *, cut: bool) -> Read:
        """What the encoder makes of a text; refuses one of more than `longest` tokens unless it may be cut."""
        if value is None or not any(not c.isspace() for c, _ in letters_of(value)):
            none = {"features": torch.zeros(0, max(self.width, 1), dtype=torch.float16)}
            return {**none, "whole": torch.zeros(self.whole, dtype=torch.float16)} if self.whole else none
        if not self.digest:
            raise RequestError(
                f"the text {printed(value)!r} for a PretrainedText() whose encoder is not pinned yet",
                "one that is fitted to training texts",
                "domain = domain.fit_conditions(examples), as training does by itself",
            )
        kept = kept_of(self.digest, self.longest)
        if not cut and len(value) > LETTERS * self.longest:
            raise RequestError(
                f"a text of {len(value):,} letters, {printed(value)!r}", f"at most {self.longest} tokens"
            )
        key = key_of(value[: LETTERS * self.longest])
        found = kept.get(key)
        if found is None:
            found = kept[key] = self.opened().read(value[: LETTERS * self.longest])
        if bool(found["long"]) and not cut:
            raise RequestError(f"a text of too many tokens, {printed(value)!r}", f"at most {self.longest}")
        return {name: part for name, part in found.items() if name != "long"}

    def home(self) -> Path:
        """The folder.

        Raises:
            RequestError: If it is nowhere.
        """
        found = pinned_folder(self.path)
        if found is None:
            pinned = f" whose files have the SHA-256 {self.digest[:12]}..." if self.digest else ""
            raise RequestError(
                f"the text encoder {self.path!r}, which is no folder with a config.json here or in {data_root()}",
                f"the folder{pinned} of a CLIP or T5 model as transformers saves it",
                f"Put it at {data_root() / Path(self.path).name}",
            )
        return found

    def opened(self) -> Encoder:
        """The encoder, whose files are those that are pinned.

        Raises:
            RequestError: With both digests if they are not.
        """
        home = self.home()
        found = digest_of(home)
        if self.digest and found != self.digest:
            raise RequestError(
                f"the text encoder {home} has the SHA-256 {found[:12]}..., this model was trained with "
                f"{self.digest[:12]}...",
                "the encoder that it was trained with",
                f"Put its folder at {data_root() / home.name}",
            )
        return encoder(home, found, self.longest)

    def fit(self, values: Sequence[Any]) -> Self:
        texts = sorted({value[: LETTERS * self.longest] for value in values if value is not None and letters_of(value)})
        own = self
        if not self.digest:
            first = self.opened()
            own = replace(
                self, path=str(self.home().resolve()), digest=first.digest, width=first.width, whole=first.whole,
                longest=min(self.longest, first.most), examples=spread(texts),
            )  # fmt: skip
        own.prepare(texts)
        return own

    def prepare(self, texts: Sequence[str]) -> None:
        """Reads those training texts that were not read before, and lets the encoder go."""
        kept = kept_of(self.digest, self.longest)
        new = {key_of(text): text for text in texts if key_of(text) not in kept.filed}
        if new:
            kept.keep({key: kept[key] if key in kept else self.opened().read(text) for key, text in new.items()})
            OPEN.clear()

    def collate(self, singles: Sequence[Any], sites: tuple[int, ...] = ()) -> dict[str, Tensor]:
        return padded(singles)

    def drop(self, batch: Batched, gone: Tensor) -> dict[str, Tensor]:
        return unmasked(batch, gone)

    def embedder(self, width: int) -> nn.Module:
        return FeatureEmbedding(
            max(self.width, 1), width, 0, pooled=self.pooled, tokens=self.tokens, scaled=True, whole=self.whole
        )

    def audit(self, values: Sequence[Any]) -> list[str]:
        kept = kept_of(self.digest, self.longest)
        texts = [value for value in values if value is not None]
        found = [kept.get(key_of(value[: LETTERS * self.longest])) for value in texts]
        long = sum(read is not None and bool(read["long"]) for read in found)
        empty = sum(not value.strip() for value in texts)
        said = super().audit(values)
        said += [f"{long} texts of more than {self.longest} tokens are cut"] if long else []
        return said + ([f"{empty} texts are empty, and ask for nothing"] if empty else [])

    def turn(self) -> Sequence[str]:
        return self.examples

    def words(self, value: Any) -> str:
        return "" if value is None else printed(str(value))

    def describe(self) -> str:
        shown = f', such as "{printed(self.examples[0], 60)}"' if self.examples else ""
        return f"any text, read by the encoder {Path(self.path).name} ({self.digest[:12] or 'not pinned yet'}){shown}"


def padded(singles: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of tokens [L, F] under "features", padded, with their mask, and whatever else comes with each."""
    length = max(1, *(len(single["features"]) for single in singles))
    like = singles[0]["features"]
    features = like.new_zeros(len(singles), length, like.shape[1])
    for row, single in zip(features, singles, strict=True):
        row[: len(single["features"])] = single["features"]
    counts = torch.tensor([len(single["features"]) for single in singles])
    rest = {name: torch.stack([single[name] for single in singles]) for name in singles[0] if name != "features"}
    return {"features": features, "mask": torch.arange(length) < counts[:, None], **rest}


class Encoder:
    """An encoder in memory.

    Attributes:
        digest: Of its files.
        width: Numbers of a token.
        whole: Numbers of its pooled vector; 0 for none.
        most: Tokens that it can read.
    """

    def __init__(self, home: Path, digest: str, longest: int) -> None:
        try:
            import transformers
        except ModuleNotFoundError as error:
            raise missing("transformers", f"The text encoder {home}") from error
        self.digest = digest
        try:
            kind = json.loads((home / "config.json").read_text(encoding="utf8")).get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise RequestError(f"the text encoder {home}, whose config.json cannot be read", "JSON") from error
        if not isinstance(kind, str) or kind not in KINDS:
            raise RequestError(f"the text encoder {home} is of the kind {kind!r:.80}", f"one of {', '.join(KINDS)}")
        if not list(home.glob("*.safetensors")):
            raise RequestError(
                f"the text encoder {home} has no .safetensors file", "weights in safetensors: nothing is unpickled",
                "model.save_pretrained(folder) of transformers writes them",
            )  # fmt: skip
        made, words = getattr(transformers, KINDS[kind]), "CLIPTokenizer" if "clip" in kind else "T5Tokenizer"
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with quiet(transformers):
            try:
                config = made.config_class.from_pretrained(str(home), **local)
                for word in ("quantization_config", "auto_map"):
                    vars(config).pop(word, None)
                model, report = made.from_pretrained(
                    str(home), config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True,
                    attn_implementation="eager", **local,
                )  # fmt: skip
                self.tokenizer = getattr(transformers, words).from_pretrained(str(home), **local)
            except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
                why = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise RequestError(
                    f"the text encoder {home} cannot be opened ({why:.200})", "a folder that transformers can read",
                    "tokenizer.save_pretrained(folder) and model.save_pretrained(folder) write all that it needs",
                ) from error  # fmt: skip
        odd = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if odd:
            raise RequestError(
                f"the text encoder {home} lacks {len(odd)} weights, the first is {odd[0]}", "all of them"
            )
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.most = min(longest, getattr(model.config, "max_position_embeddings", longest))
        self.known = int(model.config.vocab_size)
        self.width = int(model.config.hidden_size)
        self.whole = self.width if "clip" in kind else 0

    @torch.inference_mode(False)
    @torch.no_grad()
    def read(self, text: str) -> Read:
        """The tokens of a text and its pooled vector in 16 bits, and whether it was cut.

        Raises:
            RequestError: If its tokenizer knows tokens that it does not.
        """
        ids = self.tokenizer(text)["input_ids"]
        long = len(ids) > self.most
        ids = ids if not long else self.tokenizer(text, truncation=True, max_length=self.most)["input_ids"]
        if not ids or max(ids) >= self.known:
            raise RequestError(f"a tokenizer with the token {max(ids, default=None)}", f"{self.known} tokens")
        out = self.model(input_ids=torch.tensor([ids], device=self.device))
        found = {"features": out.last_hidden_state[0], **({"whole": out.pooler_output[0]} if self.whole else {})}
        if not all(bool(part.isfinite().all()) for part in found.values()):
            raise RequestError(f"an encoder that makes numbers that are not finite of {printed(text)!r}", "finite ones")
        most = torch.finfo(torch.float16).max
        return {
            **{name: part.clamp(-most, most).half().cpu() for name, part in found.items()}, "long": torch.tensor(long)
        }  # fmt: skip


OPEN: dict[tuple[Path, str, int], Encoder] = {}


def encoder(home: Path, digest: str, longest: int) -> Encoder:
    """The encoder in a folder; the last one that was asked for stays in memory."""
    key = (home, digest, longest)
    if key not in OPEN:
        OPEN.clear()
        OPEN[key] = Encoder(home, digest, longest)
    return OPEN[key]


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' notes and bars on what it does not need."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def digest_of(home: Path) -> str:
    """SHA-256 of an encoder's files."""
    return folder_digest(home, FILES)


def key_of(text: str) -> bytes:
    """What a text is kept under."""
    return hashlib.sha256(text.encode()).digest()


class Kept(OrderedDict[bytes, Read]):
    """What an encoder gave: training texts, of which a file below the data folder holds the tokens (it is mapped, not
    read), and the latest of the others.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.path, self.filed = data_root() / "embeddings" / f"{name}.safetensors", set[bytes]()
        with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError, IndexError):
            self.take(load_file(self.path))

    def __setitem__(self, key: bytes, value: Read) -> None:
        super().__setitem__(key, value)
        loose = len(self) - len(self.filed)
        if loose > MOST:
            super().__delitem__(next(key for key in self if key not in self.filed))

    def take(self, held: Mapping[str, Tensor]) -> None:
        """What a file holds."""
        keys, ends, long = held["keys"].numpy(), [0, *held["ends"].tolist()], held["long"]
        if not len(keys) == len(ends) - 1 == len(long) or ends[-1] != len(held["features"]):
            raise ValueError
        self.filed |= {key.tobytes() for key in keys}
        for i, key in enumerate(keys):
            whole = {"whole": held["whole"][i]} if "whole" in held else {}
            features = held["features"][ends[i] : ends[i + 1]]
            super().__setitem__(key.tobytes(), {"features": features, **whole, "long": long[i]})

    def keep(self, new: Mapping[bytes, Read]) -> None:
        """Training texts, beside those that are filed already; in memory alone where nothing can be written."""
        self.filed |= set(new)
        self.update(new)
        all_of = {key: self[key] for key in sorted(self.filed)}
        first = next(iter(all_of.values()))
        held = {
            "keys": torch.tensor([list(key) for key in all_of], dtype=torch.uint8),
            "ends": torch.tensor([len(read["features"]) for read in all_of.values()]).cumsum(0),
            "features": torch.cat([read["features"] for read in all_of.values()]),
            "long": torch.stack([read["long"] for read in all_of.values()]),
        }
        if "whole" in first:
            held["whole"] = torch.stack([read["whole"] for read in all_of.values()])
        part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.part")
        try:
            self.path.parent.mkdir(exist_ok=True)  # where there is no data folder, nothing is written
            save_file(held, part)
            part.replace(self.path)
            self.take(load_file(self.path))
        except OSError:
            return
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


KEPT: dict[tuple[str, str], Kept] = {}


def kept_of(digest: str, longest: int) -> Kept:
    """What the encoder of a digest gave so far."""
    key = (os.fspath(data_root()), f"{digest[:32]}-{longest}")
    if key not in KEPT:
        KEPT[key] = Kept(key[1])
    return KEPT[key]
