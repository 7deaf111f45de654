"""Autoencoders of diffusers as codecs: against diffusers itself, whitened, pinned by their files, refused by name."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import gendiff
from gendiff import Latent, Model, PretrainedCodec
from gendiff.adaptation import on_scale_of
from gendiff.config import from_config, to_config
from gendiff.errors import DataError, GendiffError, MissingExtra, RequestError
from gendiff.latents import open_codec, pretrained
from gendiff_audio import Audio, Tones
from gendiff_images import Digits, Images
from gendiff_images.masked import without
from tests.core.autoencoders import KINDS, made, saved

COLOUR = Images(size=(12, 20), channels=3, mean=0.4, std=0.3)
GREY = Images(size=(12, 20), channels=1, mean=0.2, std=0.7)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: made(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def folders(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("autoencoders")
    return {kind: saved(model, home / kind.lower()) for kind, model in models.items()}


@pytest.fixture(autouse=True)
def closed() -> None:
    pretrained.OPEN.clear()


def pictures(count: int, channels: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(channels, 12, 20, generator=generator) for _ in range(count)]


@torch.no_grad()
def theirs(model: Any, p: Tensor) -> tuple[Tensor, Tensor]:
    """What diffusers makes of pictures in [0, 1]: latents scaled as a pipeline does, and pictures again."""
    out, config = model.encode(2 * p - 1), model.config
    z = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latent if hasattr(out, "latent") else out.latents
    shift = config.get("shift_factor") or 0.0
    scaled = (z - shift) * config.scaling_factor
    return scaled, (model.decode(scaled / config.scaling_factor + shift).sample + 1) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("domain", [COLOUR, GREY], ids=["colour", "grey"])
def test_it_is_what_diffusers_makes(
    kind: str, domain: Images, folders: dict[str, Path], models: dict[str, Any]
) -> None:
    codec = PretrainedCodec.open(folders[kind], domain)
    p = torch.stack(pictures(3, domain.channels))
    z, back = theirs(models[kind], p.expand(-1, 3, -1, -1))
    own = codec.encode(torch.stack([domain.encode(one) for one in p]))
    assert own.shape == z.shape and torch.allclose(own, z, atol=1e-6)
    assert codec.layout == (z.shape[1], 12 // z.shape[2])
    made_back = torch.stack([y * domain.std + domain.mean for y in codec.decode(own)])
    wanted = back if domain is COLOUR else back.mean(1, keepdim=True)
    rounding = 16 * torch.finfo(torch.float32).eps * max(1.0, float(back.abs().max()))  # kernels differ by processor
    assert float((made_back - wanted).abs().max()) < rounding
    assert float((own[:, :, 1:] - own[:, :, :-1]).abs().max()) > 1e-3  # it depends on the picture


def test_means_and_deviations_of_channels_are_those_of_pipelines(tmp_path: Path) -> None:
    model = made("AutoencoderKL", latents_mean=[0.1, -0.2, 0.3], latents_std=[2.0, 0.5, 3.0])
    codec = PretrainedCodec.open(saved(model, tmp_path / "vae"), COLOUR)
    x = torch.stack([COLOUR.encode(p) for p in pictures(2, 3)])
    with torch.no_grad():
        z = model.encode(2 * torch.stack(pictures(2, 3)) - 1).latent_dist.mean
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.config.latents_mean, model.config.latents_std))
    assert torch.allclose(codec.encode(x), (z - mean) * 0.7 / std, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_fitted_latents_are_white_and_what_comes_back_is_the_same(
    kind: str, channels: int, folders: dict[str, Path]
) -> None:
    domain = Images(size=(12, 20), channels=channels)
    raw, artifacts = PretrainedCodec.open(folders[kind], domain), pictures(20, channels)
    codec = raw.fit(domain.fit(artifacts), artifacts)
    assert codec.domain == domain.fit(artifacts) and codec.fitted and not raw.fitted
    states = torch.stack([codec.domain.encode(p) for p in artifacts])
    z = codec.encode(states).movedim(1, -1).flatten(0, -2).double()
    assert torch.allclose(z.mean(0), torch.zeros_like(z[0]), atol=2e-4)
    assert torch.allclose(z.T @ z / len(z), torch.eye(z.shape[1], dtype=z.dtype), atol=2e-3)
    plain = dataclasses.replace(raw, domain=codec.domain)
    back = plain.decode(plain.encode(states))
    assert torch.allclose(codec.decode(codec.encode(states)), back, atol=1e-4)
    wide, lost = states.double(), (back - states).double()
    share = 1 - float(lost.square().sum() / (wide - wide.mean()).square().sum())
    assert codec.metrics["states"] == 20 and abs(codec.metrics["explained"] - share) < 1e-4
    assert codec.fit(domain, artifacts[:3]) is codec  # measured once
    assert dataclasses.replace(raw, measured=7).fit(domain, artifacts).metrics["states"] == 7


def test_sides_that_do_not_fit_the_stride_are_filled_and_cut(folders: dict[str, Path]) -> None:
    domain = Images(size=(10, 7), channels=3)
    latent = Latent(domain, PretrainedCodec.open(folders["AutoencoderDC"], domain))
    z = latent.encode(torch.rand(3, 10, 7))
    assert z.shape == (4, 3, 2) == latent.request(1).like.shape[1:] and latent.decode(z).shape == (3, 10, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_its_latents_names_it_and_is_loaded(
    kind: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENDIFF_DATA", str(tmp_path))
    home = saved(made(kind), tmp_path / "vae")
    artifacts = pictures(6, 3)
    latent = Latent(COLOUR, PretrainedCodec.open("vae", COLOUR).fit(COLOUR, artifacts))
    path = Model.new(latent, channels=(8,), blocks=1).save(tmp_path / "model.safetensors")
    assert not any(name.startswith("@") for name in load_file(path))
    opened = pretrained.read_autoencoder

    def never(home: Path) -> Any:
        raise AssertionError("opened")

    with monkeypatch.context() as patch:  # a model is loaded without its autoencoder
        patch.setattr(pretrained, "read_autoencoder", never)
        patch.setattr(pretrained, "folder_digest", never)
        model = gendiff.load(path)
        states = model.states(2, steps=2, seed=3)[0]
    assert pretrained.read_autoencoder is opened and states
    assert model.domain.codec == latent.codec  # type: ignore[attr-defined]
    again = gendiff.load(path).sample(2, steps=2, seed=3)
    assert torch.equal(again[0], model.sample(2, steps=2, seed=3)[0])
    (drawn,) = model.sample(1, given=without(artifacts[0], 0, 0, 12, 6), steps=2)
    assert drawn.shape == (3, 12, 20)
    pinned = model.domain.codec.digest[:12]  # type: ignore[attr-defined]
    (home / "config.json").write_text((home / "config.json").read_text() + "\n")
    with pytest.raises(RequestError, match=f"SHA-256.*{pinned}.*was used"):
        model.sample(1, steps=2)
    home.rename(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match=f"no folder with a config.json.*{pinned}"):
        model.sample(1, steps=2)
    (tmp_path / "elsewhere").rename(home)


def test_statistics_go_through_a_config_to_the_bit(folders: dict[str, Path]) -> None:
    codec = PretrainedCodec.open(folders["AutoencoderKL"], COLOUR).fit(COLOUR, pictures(5, 3))
    again = from_config(json.loads(json.dumps(to_config(codec))))
    x = torch.stack([COLOUR.encode(p) for p in pictures(2, 3)])
    assert again == codec and torch.equal(again.encode(x), codec.encode(x))
    assert "mean=" not in repr(codec).partition("digest")[2]


def test_a_gate_is_measured_on_the_domain(folders: dict[str, Path]) -> None:
    """An untrained autoencoder gives back less than nothing."""
    latent = Latent(COLOUR, PretrainedCodec.open(folders["AutoencoderKL"], COLOUR))
    with pytest.raises(RequestError, match=r"gives back -\d+\.\d+ of the variance.*Train a codec of such states"):
        latent.fit(pictures(4, 3))  # no gate would let it pass
    codec = latent.codec.fit(COLOUR, pictures(4, 3))
    good = dataclasses.replace(codec, metrics={"explained": 0.9})  # type: ignore[type-var]
    fitted = Latent(COLOUR, good).fit(pictures(5, 3, seed=1))
    assert fitted.codec == good and (fitted.domain.mean, fitted.domain.std) == (0.4, 0.3)  # type: ignore[attr-defined]


def test_states_of_an_adapted_model_are_those_of_its_base(folders: dict[str, Path]) -> None:
    raw = PretrainedCodec.open(folders["AutoencoderTiny"], COLOUR)
    before = Latent(COLOUR, raw)
    base, other = (
        dataclasses.replace(before, domain=d, codec=raw.fit(d, few))
        for few in (pictures(5, 3), [p / 2 for p in pictures(5, 3, seed=1)])
        for d in [COLOUR.fit(few)]
    )
    found = on_scale_of(other, before, base)
    p = pictures(1, 3, seed=5)[0]
    assert torch.equal(found.encode(p), base.encode(p)) and not torch.equal(other.encode(p), base.encode(p))  # type: ignore


def edited(home: Path, **changes: Any) -> None:
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps({**config, **changes}))


WEIGHTS = "diffusion_pytorch_model.safetensors"


def pickled(home: Path) -> None:
    torch.save({}, home / "diffusion_pytorch_model.bin")
    (home / WEIGHTS).unlink()


def without_a_weight(home: Path) -> None:
    weights = load_file(home / WEIGHTS)
    weights.pop(next(name for name in weights if name.startswith("decoder")))
    (home / WEIGHTS).unlink()
    save_file(weights, home / WEIGHTS, {"format": "pt"})


def as_pipeline(home: Path) -> None:
    (home / "vae").mkdir()
    (home / "config.json").rename(home / "vae/config.json")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda home: edited(home, _class_name="UNet2DModel"), "class 'UNet2DModel'.*AutoencoderDC"),
        (lambda home: edited(home, _class_name=["AutoencoderKL"]), "class"),
        (lambda home: edited(home, _class_name="AutoencoderKl"), 'Did you mean "AutoencoderKL"'),
        (lambda home: (home / "config.json").write_text("[1"), "cannot be read"),
        (lambda home: (home / "config.json").unlink(), "no folder with a config.json"),
        (as_pipeline, "whole pipeline; take .*vae"),
        (pickled, r"only diffusion_pytorch_model\.bin.*nothing is unpickled"),
        (without_a_weight, "lacks 1 weights"),
        (lambda home: (home / WEIGHTS).write_bytes(b"x" * 99), "cannot be opened"),
        (lambda home: edited(home, out_channels=1), "out_channels=1"),
        (lambda home: edited(home, block_out_channels=8), "block_out_channels=8"),
        (lambda home: edited(home, latent_channels="many"), "latent_channels='many'"),
        (lambda home: edited(home, latent_channels=7), "cannot be opened|lacks"),
    ],
    ids=range(13),
)
def test_a_folder_that_cannot_be_a_codec_is_refused(tmp_path: Path, spoil: Any, text: str) -> None:
    home = saved(made("AutoencoderKL"), tmp_path / "vae")
    spoil(home)
    with pytest.raises(RequestError, match=text):
        PretrainedCodec.open(home, COLOUR).encode(torch.zeros(1, 3, 12, 20))


def test_states_that_are_no_pictures_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match="1 axes"):
        PretrainedCodec.open(folders["AutoencoderKL"], Audio(source=Tones(count=4)))

    class Unsaid(Images):
        def units(self) -> Any:
            return None

    with pytest.raises(RequestError, match="units"):
        PretrainedCodec.open(folders["AutoencoderKL"], Unsaid(size=8, channels=3))
    codec = PretrainedCodec.open(folders["AutoencoderKL"], COLOUR)
    with pytest.raises(RequestError, match="1 channels"):
        Latent(GREY, codec)
    with pytest.raises(RequestError, match="tile=4"):
        Latent(COLOUR, codec, tile=4)
    with pytest.raises(DataError, match="None of 2"):
        codec.fit(COLOUR, [torch.rand(3, 5, 5)] * 2)


def test_four_channels_take_no_grey_ones(tmp_path: Path) -> None:
    home = saved(made("AutoencoderTiny", in_channels=4, out_channels=4), tmp_path / "four")
    with pytest.raises(RequestError, match="of 4 channels for states of 1 channels"):
        PretrainedCodec.open(home, GREY)


def test_without_diffusers_the_line_that_installs_it_is_said(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = PretrainedCodec.open(folders["AutoencoderKL"], COLOUR)  # its config can be read
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r'pip install "gendiff\[diffusers\]"'):
        codec.encode(torch.zeros(1, 3, 12, 20))


def test_a_codec_is_opened_by_what_its_path_is(folders: dict[str, Path], tmp_path: Path) -> None:
    from tests.core.test_latents import codec_of

    own = codec_of(COLOUR)
    path = own.save(tmp_path / "model.safetensors")
    assert open_codec(path, COLOUR).digest == open_codec(tmp_path, COLOUR).digest == own.digest
    assert isinstance(open_codec(folders["AutoencoderKL"], COLOUR), PretrainedCodec)
    with pytest.raises(GendiffError, match=r"no folder with a config\.json"):
        open_codec(tmp_path / "nothing", COLOUR)


@pytest.mark.parametrize(
    "settings", [{"span": (1.0, 0.0)}, {"mean": (0.0,)}, {"mean": (0.0, 1.0), "covariance": (1.0, 0.0)}]
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(GendiffError, match=list(settings)[-1]):
        PretrainedCodec(COLOUR, "vae", "0", 3, 2, 4, **settings)


def test_another_span_is_another_picture(folders: dict[str, Path], models: dict[str, Any]) -> None:
    domain = Images(size=(12, 20), channels=3)
    codec = PretrainedCodec.open(folders["AutoencoderTiny"], domain, span=(-1.0, 3.0))
    p = torch.stack(pictures(2, 3))
    z, back = theirs(models["AutoencoderTiny"], (p + 1) / 4)
    x = torch.stack([domain.encode(one) for one in p])
    assert torch.allclose(codec.encode(x), z, atol=1e-6)
    assert torch.allclose(codec.decode(z) * domain.std + domain.mean, 4 * back - 1, atol=1e-5)


def test_digits_are_examples_of_their_latents(folders: dict[str, Path]) -> None:
    domain = Images.of(Digits(), flip=True)
    latent = Latent(domain, PretrainedCodec.open(folders["AutoencoderTiny"], domain))
    examples = latent.dataset("train")
    assert latent.encode(examples[0].artifact).shape == (3, 2, 2) and len(examples) % 2 == 0
