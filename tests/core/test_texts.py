"""Texts in pieces of words, and by frozen encoders."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import gendiff
from gendiff import Euler, Model, PretrainedText, Text
from gendiff.conditions import pretrained
from gendiff.conditions.pieces import ALPHABET, missing
from gendiff.config import from_config, to_config
from gendiff.errors import GendiffError, RecipeError, RequestError
from gendiff.nn import FeatureEmbedding
from gendiff.testing import check_condition, distance, randomised
from gendiff_images import Images
from tests.core.encoders import CORPUS, clip, t5

pytest.importorskip("tokenizers")
ODD = ["", "  ", "\U0001f600\U0001f468\u200d\U0001f469", "\x00\x1b[31m", "\u200f\u202eabc", "x" * 1000, "Ünïcödé", "猫"]


@pytest.fixture(scope="module")
def pieces() -> Text:
    return Text(tokenizer="bpe", size=300, longest=400).fit(CORPUS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("encoders")
    return {
        "CLIP": clip(home / "clip"), "CLIP with pictures": clip(home / "both", whole=True), "T5": t5(home / "t5")
    }  # fmt: skip


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder of its own, nothing in memory, and no network."""
    monkeypatch.setenv("GENDIFF_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    pretrained.KEPT.clear()
    pretrained.OPEN.clear()

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    yield tmp_path / "data"
    pretrained.KEPT.clear()
    pretrained.OPEN.clear()


def test_pieces_obey_the_laws_of_a_condition(pieces: Text) -> None:
    check_condition(pieces, ["a red heart", "\U0001f600 ünknown", "a" * 300])
    check_condition(replace(pieces, tokens=False, layers=0), ["a red heart", "ball"])


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_text_is_its_pieces(pieces: Text, text: str) -> None:
    """All bytes of the text in one line and lower case, in known pieces."""
    from gendiff.conditions.text import plain_of

    found = pieces.cut(text)
    whole = bytes(ALPHABET.index(letter) for letter in "".join(found))
    assert whole.decode() == plain_of(text) and all(piece in pieces.numbers for piece in found)


def test_often_met_words_are_one_piece(pieces: Text) -> None:
    assert pieces.cut("a red heart") == ["a", "Ġred", "Ġheart"] == pieces.cut("A  RED\nheart")
    assert len(pieces.vocabulary) <= 300 and pieces.vocabulary[:256] == ALPHABET
    again = from_config(json.loads(json.dumps(to_config(pieces))))
    assert again == pieces and again.cut("a redder ball") == pieces.cut("a redder ball")
    assert Text(tokenizer="bpe", size=300, longest=400).fit([None, *reversed(CORPUS)]).vocabulary == pieces.vocabulary


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts_are_cut_or_refused(pieces: Text, text: str) -> None:
    short = replace(pieces, longest=5)
    assert len(short.encode_example(text)) <= 5
    if len(pieces.cut(text)) > 5:
        with pytest.raises(RequestError, match="at most 5"):
            short.encode(text)


def test_a_text_of_a_million_letters_is_refused_in_time(pieces: Text) -> None:
    with pytest.raises(RequestError, match="at most 400"):
        pieces.encode("ab" * 500_000)


@pytest.mark.parametrize("value", ["half \ud83d of a sign", 3, b"red", ["red"]], ids=range(4))
def test_what_is_no_text_is_refused(pieces: Text, value: Any) -> None:
    for own in (pieces, Text(("half",)), PretrainedText("nowhere")):
        with pytest.raises(RequestError, match="text"):
            own.encode(value)


def test_what_has_seen_no_texts_says_so() -> None:
    for own in (Text(), Text(tokenizer="bpe"), PretrainedText("nowhere")):
        with pytest.raises(RequestError, match="fit_conditions"):
            own.encode("a red heart")
        own.encode(None)


def test_a_vocabulary_of_pieces_holds_the_bytes() -> None:
    with pytest.raises(RecipeError, match="256 bytes"):
        Text(("a", "b"), tokenizer="bpe")
    with pytest.raises(RecipeError, match="size"):
        Text(tokenizer="bpe", size=10)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for fit in (Text(tokenizer="bpe").fit, PretrainedText(str(folders["T5"])).fit):
        with pytest.raises(GendiffError, match=r'pip install "gendiff\[text\]"'):
            fit(CORPUS)
    assert "torch" in str(missing("torch", "it"))


def pictures(caption: Any) -> Model:
    domain = Images(size=8, channels=1, asked={"caption": caption.fit(CORPUS)})
    model = Model.new(domain, width=32, depth=1, heads=2)
    randomised(model.denoiser.network)
    return model


def test_a_model_of_pieces_needs_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pictures(Text(tokenizer="bpe", size=280))
    asked: dict[str, Any] = {"caption": ["a red heart", "never seen \U0001f600", None], "sampler": Euler(2)}
    first = model.sample(3, **asked)
    path = model.save(tmp_path / "m.safetensors")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    again = gendiff.load(path).sample(3, **asked)
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("name", ["CLIP", "CLIP with pictures", "T5"])
def test_encoders_obey_the_laws_of_a_condition(folders: dict[str, Path], name: str) -> None:
    own = PretrainedText(str(folders[name])).fit(CORPUS)
    check_condition(own, ["a red heart", "ball", "two blue balls and a"])
    check_condition(replace(own, pooled=False), ["a red heart", "ball"])
    check_condition(replace(own, tokens=False), ["a red heart", "ball"])
    assert (own.width, own.whole) == (16, 16 if "CLIP" in name else 0)
    assert own.fit(["something else"]) == own  # once
    assert isinstance(own.embedder(32), FeatureEmbedding)


def test_what_an_encoder_gives_is_what_transformers_computes(folders: dict[str, Path]) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    own = PretrainedText(str(folders["CLIP"])).fit(CORPUS)
    model = CLIPTextModel.from_pretrained(folders["CLIP"]).eval()
    ids = CLIPTokenizer.from_pretrained(folders["CLIP"])("a red heart", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = model(input_ids=ids)
    found = own.encode("a red heart")
    assert distance(found["features"], wanted.last_hidden_state[0].half()) < 2e-3
    assert distance(found["whole"], wanted.pooler_output[0].half()) < 2e-3


def test_texts_are_read_once(folders: dict[str, Path], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    before = pretrained.Encoder.read

    def counted(self: Any, text: str) -> Any:
        read.append(text)
        return before(self, text)

    monkeypatch.setattr(pretrained.Encoder, "read", counted)
    own = PretrainedText(str(folders["T5"])).fit([*CORPUS, None, ""])
    first = own.encode("a red heart")
    assert len(read) == 3 and len(list((data / "embeddings").iterdir())) == 1
    pretrained.KEPT.clear()  # another process
    assert torch.equal(own.fit(CORPUS).encode("a red heart")["features"], first["features"])
    assert len(read) == 3
    own.encode("another")
    own.encode("another")
    assert read[3:] == ["another"]
    own.fit(["another", "a third"])
    pretrained.KEPT.clear()
    own.fit([*CORPUS, "another", "a third"])
    assert read[4:] == ["a third"]


def test_without_a_place_for_a_file_texts_are_kept_in_memory(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENDIFF_DATA", str(tmp_path / "absent"))
    own = PretrainedText(str(folders["T5"])).fit(CORPUS)
    assert len(own.encode("a red heart")["features"]) and not (tmp_path / "absent").exists()
    monkeypatch.setattr(pretrained, "MOST", 2)
    for text in "abcd":
        own.encode(text)
    kept = pretrained.kept_of(own.digest, own.longest)
    assert len(kept) == 5 and own.encode("a red heart") and len(kept) == 5


def test_a_damaged_file_of_texts_is_made_anew(folders: dict[str, Path], data: Path) -> None:
    own = PretrainedText(str(folders["T5"])).fit(CORPUS)
    wanted = own.encode("a red heart")["features"].clone()
    (file,) = (data / "embeddings").iterdir()
    for content in (b"", b"rubbish" * 9):
        file.unlink()
        file.write_bytes(content)
        pretrained.KEPT.clear()
        assert torch.equal(own.fit(CORPUS).encode("a red heart")["features"], wanted)


def test_texts_of_too_many_tokens(folders: dict[str, Path]) -> None:
    long = "two balls and a heart; a blue heart"
    own = PretrainedText(str(folders["CLIP"])).fit(CORPUS)
    assert own.longest == 12 and own.audit(CORPUS) == ["8 texts of more than 12 tokens are cut"]
    assert len(own.encode_example(long)["features"]) == 12 == len(own.encode_example("x" * 10**6)["features"])
    for text in (long, "x" * 10**6):
        with pytest.raises(RequestError, match="at most 12"):
            own.encode(text)
    assert len(own.encode(" \u200f\n")["features"]) == 0
    own.encode("\U0001f600\x00\u202e")


def test_a_model_pins_its_encoder(folders: dict[str, Path], tmp_path: Path, data: Path) -> None:
    home = tmp_path / "encoder"
    clip(home)
    model = pictures(PretrainedText(str(home)))
    asked: dict[str, Any] = {"caption": ["a heart", None], "sampler": Euler(2), "guidance": 2.0}
    first = model.sample(2, **asked)
    path = model.save(tmp_path / "m.safetensors")
    assert path.stat().st_size < 200_000
    pretrained.KEPT.clear()
    assert all(map(torch.equal, first, gendiff.load(path).sample(2, **asked)))
    home.rename(data / "encoder")  # another machine: below the data folder, by its name
    pretrained.KEPT.clear()
    again = gendiff.load(path)
    assert all(map(torch.equal, first, again.sample(2, **asked)))

    (data / "encoder" / "model.safetensors").unlink()
    weights = load_file(folders["CLIP"] / "model.safetensors")
    save_file({k: v + 1e-3 for k, v in weights.items()}, data / "encoder" / "model.safetensors", {"format": "pt"})
    pretrained.KEPT.clear()
    own: Any = again.domain.conditions["caption"]
    other = pretrained.digest_of(data / "encoder")
    again.sample(1, caption=None, sampler=Euler(1))  # asks for nothing, and so for no encoder
    with pytest.raises(RequestError, match=f"caption: .*{other[:12]}.*trained with {own.digest[:12]}"):
        again.sample(1, caption="a heart")
    (data / "encoder").rename(data / "gone")
    with pytest.raises(RequestError, match=f"caption: .*no folder.*{own.digest[:12]}"):
        again.sample(1, caption="a heart")


def test_loading_a_model_opens_no_encoder(folders: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    path = pictures(PretrainedText(str(folders["T5"]))).save(tmp_path / "m.safetensors")

    def opened(self: Any, *args: Any) -> Any:
        raise AssertionError("opened")

    monkeypatch.setattr(pretrained.Encoder, "__init__", opened)
    monkeypatch.setattr(pretrained, "digest_of", opened)
    assert "read by the encoder t5" in gendiff.load(path).info()["conditions"]["caption"]


def edited(home: Path, **changes: Any) -> None:
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps({**config, **changes}))


def pickled(home: Path) -> None:
    torch.save({}, home / "pytorch_model.bin")
    (home / "model.safetensors").unlink()


def without_a_weight(home: Path) -> None:
    weights = load_file(home / "model.safetensors")
    del weights[next(name for name in weights if "layer" in name)]
    (home / "model.safetensors").unlink()
    save_file(weights, home / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda home: edited(home, model_type="bert"), "kind 'bert'.*clip"),
        (lambda home: edited(home, model_type=["t5"]), "kind"),
        (lambda home: (home / "config.json").write_text("[1"), "cannot be read"),
        (lambda home: (home / "config.json").unlink(), "no folder with a config.json"),
        (pickled, "nothing is unpickled"),
        (without_a_weight, "lacks 1 weights"),
        (lambda home: (home / "model.safetensors").write_bytes(b"x" * 99), "cannot be opened"),
        (lambda home: (home / "tokenizer.json").write_text("{}"), "cannot be opened"),
        (lambda home: edited(home, vocab_size=3), "cannot be opened|weights|tokens"),
    ],
    ids=range(9),
)
def test_an_encoder_that_cannot_be_is_refused(tmp_path: Path, spoil: Any, text: str) -> None:
    home = t5(tmp_path / "t5")
    spoil(home)
    with pytest.raises(RequestError, match=text):
        PretrainedText(str(home)).fit(CORPUS)


def test_no_code_in_a_folder_is_run(tmp_path: Path) -> None:
    home = t5(tmp_path / "t5")
    trap = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    for name in ("modeling_t5.py", "configuration_t5.py", "tokenization_t5.py", "__init__.py"):
        (home / name).write_text(trap)
    edited(home, auto_map={"AutoModel": "modeling_t5.T5EncoderModel", "AutoConfig": "configuration_t5.T5Config"},
           quantization_config={"quant_method": "nonsense"})  # fmt: skip
    told = json.loads((home / "tokenizer_config.json").read_text())
    told["auto_map"] = {"AutoTokenizer": ["tokenization_t5.T5Tokenizer", None]}
    (home / "tokenizer_config.json").write_text(json.dumps(told))
    assert len(PretrainedText(str(home)).fit(CORPUS).encode("a red heart")["features"])
    assert not (tmp_path / "ran").exists() and os.fspath(home) not in sys.path
