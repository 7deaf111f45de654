"""Tiny text encoders with random weights, in folders as transformers saves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

CORPUS = ["a red heart", "A blue, round ball.", "two balls and a heart; a blue heart"] * 4


def clip(folder: Path, seed: int = 0, whole: bool = False) -> Path:
    """A CLIP text tower of width 16 that reads 12 tokens; `whole`: with its picture tower."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    own = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    own.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    own.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    special = ["<|startoftext|>", "<|endoftext|>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    own.train_from_iterator(CORPUS, trainer)
    own.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[(word, i) for i, word in enumerate(special)]
    )
    transformers.CLIPTokenizer(
        tokenizer_object=own, vocab=own.get_vocab(), merges=[],
    ).save_pretrained(folder)  # fmt: skip
    own.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    text = transformers.CLIPTextConfig(
        vocab_size=own.get_vocab_size(), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=12, projection_dim=16, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    model = transformers.CLIPTextModel(text)
    if whole:
        picture = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        picture |= {"image_size": 16, "patch_size": 8}
        config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=picture, projection_dim=8)
        model = transformers.CLIPModel(config)
    saved(transformers, model, folder)
    return folder


def t5(folder: Path, seed: int = 0) -> Path:
    """A T5 encoder of width 16."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    own = Tokenizer(models.Unigram())
    own.pre_tokenizer = pre_tokenizers.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    own.train_from_iterator(CORPUS, trainer)
    own.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(exist_ok=True)
    own.save(str(folder / "tokenizer.json"))
    words = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(__import__("json").dumps({**words, "extra_ids": 0}))
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=own.get_vocab_size(), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    saved(transformers, transformers.T5EncoderModel(config), folder)
    return folder


def saved(transformers: object, model: object, folder: Path) -> None:
    from gendiff.conditions.pretrained import quiet

    with quiet(transformers):
        model.save_pretrained(folder)  # type: ignore[attr-defined]
