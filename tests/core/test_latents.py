"""Codecs: whitening, tiles, principal components, bottlenecks, files; and domains on their latents."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gendiff
from gendiff import FSQ, KL, Adversarial, Autoencoder, Codec, Latent, LoRA, Model, Noise, Reconstruction
from gendiff.config import Kinds, from_config, to_config
from gendiff.errors import CheckpointError, RecipeError, RequestError
from gendiff.latents import Grid
from gendiff.latents.adversarial import adaptive_weight, hinge
from gendiff.latents.autoencoder import Down, Up, fold, unfold
from gendiff.latents.losses import Features
from gendiff.spaces import State
from gendiff_audio import Audio, Tones
from gendiff_images import Digits, Images
from gendiff_images.masked import without

BOTTLENECKS = (KL(), KL(std=0.2), FSQ((5, 4, 7)))


def shaken(network: Autoencoder, seed: int = 0) -> Autoencoder:
    """The network with every weight random, those that start at zero too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / math.sqrt(max(p[0].numel(), 4)))
    return network.eval()


def states(dims: int, count: int = 6, sites: int = 16, channels: int = 2) -> Tensor:
    """Correlated numbers on a grid."""
    x = Noise.of(1, count).normal((count, channels, *[sites] * dims), torch.float64)
    for axis in range(2, 2 + dims):
        x = x.cumsum(axis) / 3
    return x


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("by", [1, 2, 4])
def test_folding_is_undone_and_keeps_patches_together(dims: int, by: int) -> None:
    x = states(dims)
    y = fold(x, by)
    assert y.shape == (6, 2 * by**dims, *[16 // by] * dims) and torch.equal(unfold(y, by), x)
    first = x[(slice(None), slice(None), *[slice(by)] * dims)]
    assert torch.equal(y.flatten(2)[..., 0].sort(1)[0], first.flatten(1).sort(1)[0])


@pytest.mark.parametrize("dims", [1, 2])
def test_ways_down_and_up_have_shortcuts(dims: int) -> None:
    x = states(dims, channels=4)
    down, up = Down(dims, 4, 8).double(), Up(dims, 8, 4).double()
    for layer in (down, up):
        torch.nn.init.zeros_(layer.conv.weight)
        torch.nn.init.zeros_(layer.conv.bias)  # type: ignore[arg-type]
    mean = down(x)
    assert torch.allclose(mean.mean(1), x.unfold(2, 2, 2).mean(-1).mean(1) if dims == 1 else fold(x, 2).mean(1))
    back = up(torch.ones_like(mean))
    assert back.shape == x.shape and torch.equal(back, torch.ones_like(x))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
@pytest.mark.parametrize(("stride", "widths"), [(4, (6, 8)), (4, (8,)), (8, (4, 6, 8))])
def test_latents_are_white_and_reconstructions_the_same(
    dims: int, bottleneck: gendiff.latents.Bottleneck, stride: int, widths: tuple[int, ...]
) -> None:
    network = shaken(
        Autoencoder(dims, channels=2, latent=3, stride=stride, widths=widths, blocks=1, deep=2, bottleneck=bottleneck)
    ).double()
    x = states(dims, count=40)
    before, latents = network.decode(network.encode(x)), network.encode(x)
    assert latents.shape == (40, 3, *[16 // stride] * dims)
    for _ in range(2):  # whitening what is white changes nothing
        network.whiten(network.encode(part) for part in x.split(7))
        z = network.encode(x).movedim(1, -1).flatten(0, -2)
        assert torch.allclose(z.mean(0), torch.zeros(3, dtype=z.dtype), atol=1e-6)
        assert torch.allclose(z.T @ z / len(z), torch.eye(3, dtype=z.dtype), atol=1e-5)
        assert torch.allclose(network.decode(network.encode(x)), before, atol=1e-5 * float(before.detach().abs().max()))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(("stride", "widths"), [(4, (6, 8)), (4, (8,)), (8, (4, 6, 8)), (2, (6,))])
@pytest.mark.parametrize("tile", [1, 3, 5])
def test_tiles_are_the_whole(dims: int, stride: int, widths: tuple[int, ...], tile: int) -> None:
    network = shaken(Autoencoder(dims, channels=1, latent=3, stride=stride, widths=widths, deep=1)).double()
    z = Noise.of(3, 2).normal((2, 3, *[11, 7][:dims]), torch.float64)
    assert torch.allclose(network.decode(z, tile), network.decode(z), atol=1e-12)


@pytest.mark.parametrize("stride", [4, 8])
def test_a_latent_reaches_no_further_than_the_margin(stride: int) -> None:
    network = shaken(Autoencoder(1, channels=1, latent=2, stride=stride, widths=(5, 6), deep=2)).double()
    z = Noise.of(0, 1).normal((1, 2, 31), torch.float64).requires_grad_()
    reached = set()
    for place in range(stride):  # every place in the middle latent
        (grad,) = torch.autograd.grad(network.decode(z)[0, 0, 15 * stride + place], z)
        reached |= {abs(int(i) - 15) for i in grad[0].abs().sum(0).nonzero()[:, 0]}
    assert max(reached) == network.margin


@pytest.mark.parametrize("dims", [1, 2])
def test_it_begins_as_the_principal_components(dims: int) -> None:
    network = Autoencoder(dims, channels=2, latent=3, stride=4, widths=(6, 8), bottleneck=KL(std=0.1)).double()
    x = states(dims, count=60)
    network.begin(network.patches(x))
    patches = network.patches(x)
    u, s, v = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    best = patches.mean(0) + (u[:, :3] * s[:3]) @ v[:3]
    assert torch.allclose(network.patches(network.decode(network.encode(x))), best, atol=1e-8)
    z = network.encode(x).movedim(1, -1).flatten(0, -2)
    assert torch.allclose(z.T @ z / len(z), torch.eye(3, dtype=z.dtype), atol=1e-8)


def test_fewer_components_than_latents_are_enough() -> None:
    network = Autoencoder(1, channels=1, latent=6, stride=4, widths=(4,), bottleneck=KL(std=0.1)).double()
    x = states(1, count=20, channels=1)
    network.begin(network.patches(x))
    assert torch.allclose(network.decode(network.encode(x)), x, atol=1e-5)


def test_kl_is_the_divergence_and_its_noise_has_its_deviation() -> None:
    mean, logvar = states(1, channels=1)[:2], states(1, channels=1)[2:4] / 4
    z, loss = KL(2.0).draw(torch.cat([mean, logvar], 1), Noise.of(0, 2))
    own = 20 * torch.tanh(logvar / 20)
    q = torch.distributions.Normal(mean, (own / 2).exp())
    exact = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(loss, 2.0 * exact.flatten(1).mean(1))
    many, _ = KL(std=0.3).draw(torch.zeros(400, 1, 50), Noise.of(0, 400))
    assert abs(float(many.std()) - 0.3) < 0.01 and not torch.equal(z, mean)


def test_levels_are_counted_reached_and_differentiable() -> None:
    bottleneck = FSQ((5, 4))
    h = torch.linspace(-9, 9, 4001, dtype=torch.float64).expand(1, 2, -1).clone().requires_grad_()
    z = bottleneck.settle(h)
    for channel, count in enumerate((5, 4)):
        found = z[0, channel].unique()
        assert torch.allclose(found, torch.linspace(-1, 1, count, dtype=found.dtype), atol=1e-12)
    drawn, loss = bottleneck.draw(h, Noise.of(0, 1))
    assert torch.allclose(drawn, z) and float(loss.sum()) == 0
    (grad,) = torch.autograd.grad(drawn.sum(), h)
    half = torch.tensor([2.0, 1.5], dtype=torch.float64).view(1, 2, 1)
    assert torch.allclose(grad, (1 - torch.tanh(h.detach()) ** 2) * half / half, atol=1e-12)


def test_the_loss_is_what_it_says() -> None:
    x, y = states(2)[:3], states(2)[3:]
    terms = Reconstruction(l1=2.0, l2=3.0, gradient=0.5)(y, x)
    assert torch.allclose(terms["l1"][1], 2 * (y[1] - x[1]).abs().mean())
    assert torch.allclose(terms["l2"][2], 3 * (y[2] - x[2]).square().mean())
    rows = (y - x)[:, :, 1:] - (y - x)[:, :, :-1]
    columns = (y - x)[..., 1:] - (y - x)[..., :-1]
    assert torch.allclose(terms["gradient"], 0.5 * (rows.abs().mean((1, 2, 3)) + columns.abs().mean((1, 2, 3))))
    wave = Noise.of(0, 1).normal((1, 1, 8192))
    same = Reconstruction(l1=0, l2=0, spectrum=1.0)
    turned, louder = same(-wave, wave)["spectrum"], same(2 * wave, wave)["spectrum"]
    assert float(turned) == 0  # a phase is not heard
    assert abs(float(louder) - 1 - math.log(2)) < 1e-3  # |2a - a| / |a| and ln 2
    with pytest.raises(RequestError, match="spectral"):
        same(x, x)


@gendiff.register
class Shades(torch.nn.Module):
    """Smooth features on three levels, one of them without sites; it draws by itself in training."""

    def __init__(self, channels: int = 2, width: int = 3) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.second = torch.nn.Sequential(torch.nn.BatchNorm2d(width), torch.nn.Conv2d(width, 5, 1), torch.nn.Dropout())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        one = torch.tanh(self.first(x))
        two = torch.tanh(self.second(one))
        return one, two, two.mean((2, 3))


def perceptual_of(**changes: Any) -> tuple[Reconstruction, Features]:
    loss = Reconstruction(l1=0.0, perceptual=0.7, features={"kind": Shades, "channels": 2}, **changes)
    found = loss.network(DOMAINS["pictures"])
    assert found is not None
    return loss, found.double()


def test_a_perceptual_distance_is_that_of_unit_features() -> None:
    loss, features = perceptual_of()
    x, y = states(2)[:3], states(2)[3:]
    found = loss(y, x, features.train())["perceptual"]  # it stays in evaluation
    for i in range(3):
        total = 0.0
        for a, b in zip(features.network(x[i : i + 1]), features.network(y[i : i + 1]), strict=True):
            a, b = (f[0].flatten(1) if f.ndim > 2 else f[0][:, None] for f in (a, b))
            each = [(a[:, j] / a[:, j].norm() - b[:, j] / b[:, j].norm()).square().sum() for j in range(a.shape[1])]
            total += float(sum(each)) / len(each)
        assert abs(float(found[i]) - 0.7 * total) < 1e-8  # batch 1 is batch n
    assert float(loss(x, x, features)["perceptual"].abs().max()) == 0


def test_a_perceptual_gradient_is_that_of_differences() -> None:
    loss, features = perceptual_of()
    x, y = states(2, sites=6)[:2], states(2, sites=6)[2:4].requires_grad_()
    value = loss(y, x, features)["perceptual"].sum()
    (grad,) = torch.autograd.grad(value, y)
    for place in ((0, 0, 1, 2), (1, 1, 4, 5), (1, 0, 0, 0)):
        step = torch.zeros_like(y)
        step[place] = 1e-5
        high, low = (float(loss((y + s).detach(), x, features)["perceptual"].sum()) for s in (step, -step))
        assert abs(float(grad[place]) - (high - low) / 2e-5) < 1e-8
    assert float(grad.abs().max()) > 1e-4 and all(not p.requires_grad for p in features.parameters())


def test_without_weight_there_are_no_features() -> None:
    plain = Reconstruction(features={"kind": Shades})
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert plain.network(DOMAINS["pictures"]) is None
    x, y = states(2)[:3], states(2)[3:]
    assert plain(y, x).keys() == {"l1", "l2"}
    first, again = (perceptual_of()[1].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)  # made with a seed of its own
    assert torch.equal(torch.get_rng_state(), before)
    other = from_config(json.loads(json.dumps(to_config(perceptual_of()[0]))), kinds=Kinds())
    assert other == perceptual_of()[0]


def test_features_that_cannot_be_are_refused() -> None:
    with pytest.raises(RequestError, match=r"Images has no feature network.*features="):
        Reconstruction(perceptual=1.0).network(Images(size=8))
    with pytest.raises(RequestError, match=r"Audio has no feature network"):
        Reconstruction(perceptual=1.0).network(DOMAINS["sound"])
    with pytest.raises(RequestError, match="without features"):
        Reconstruction(perceptual=1.0)(states(2), states(2))
    for odd in ({"kind": "Shades"}, {"width": 3}, {"kind": Images}):
        with pytest.raises(RecipeError, match="features"):
            Reconstruction(perceptual=1.0, features=odd)

    class Whole(torch.nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.mean()

    loss = Reconstruction(perceptual=1.0, features={"kind": Whole})
    with pytest.raises(RequestError, match="Whole, that gives a Tensor"):
        loss(states(2), states(2), loss.network(DOMAINS["pictures"]))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_discriminator_judges_patches_of_each_state_alone(dims: int, layers: int) -> None:
    made = Adversarial(1.0, width=4, layers=layers).discriminator(dims, 2, seed=5)
    assert made is not None
    network, x = made.double(), states(dims, count=3, sites=21)
    found = network(x)
    assert found.shape == (3, *[-(-21 // 2**layers)] * dims)
    assert torch.allclose(torch.cat([network(one[None]) for one in x]), found, atol=1e-12)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(network(x)[(1, *[0] * dims)], x)
    reached = grad[1].abs().sum(0).nonzero().max() + 1
    assert grad[0].abs().max() == 0 and int(reached) == 2 * 2**layers  # its field, from the first site on
    assert network(states(dims, sites=1)).shape == (6, *[1] * dims)


def test_the_hinge_is_what_it_says() -> None:
    real, made = torch.tensor([[3.0, 0.5], [-2.0, 1.0]]), torch.tensor([[-0.5, -4.0], [1.0, 0.0]])
    assert torch.allclose(hinge(real, made), torch.tensor([(0.25 + 0.25) / 2, (1.5 + 1.5) / 2]))


def test_both_losses_move_the_last_layer_alike() -> None:
    """|grad of lambda l_adv| is |grad of l_rec|, whatever the scale of the discriminator."""
    network = shaken(Autoencoder(2, channels=2, latent=3, stride=4, widths=(6, 8), deep=1)).double()
    made = Adversarial(1.0, width=4).discriminator(2, 2, seed=0)
    assert made is not None
    made, x = made.double(), states(2)
    y = network(x, Noise.of(0, 6))[0]
    rec = (y - x).square().mean()
    (wanted,) = torch.autograd.grad(rec, network.last, retain_graph=True)
    for scale in (1.0, 1e-2, 30.0):
        loss = -scale * made(y).mean()
        balance = adaptive_weight(rec, loss, network.last)
        (grad,) = torch.autograd.grad(balance * loss, network.last, retain_graph=True)
        assert not balance.requires_grad and abs(float(grad.norm() / wanted.norm()) - 1) < 1e-3
    assert float(adaptive_weight(rec, 0 * made(y).mean(), network.last)) == 1e4  # bounded where nothing is believed


def test_a_discriminator_without_weight_is_none_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    assert Adversarial().discriminator(2, 3, seed=0) is None
    a, b = (Adversarial(1.0, width=4).discriminator(2, 3, seed=7) for _ in range(2))
    assert a is not None and b is not None and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def codec_of(domain: gendiff.Domain, explained: float = 0.95, **size: object) -> Codec:
    """A codec with random weights, whitened on noise."""
    codec = Codec(domain, {"latent": 3, "stride": 4, "widths": (6, 8), "blocks": 1, "deep": 1, **size})
    network = shaken(codec.built())
    grid = codec.grid
    network.whiten([network.encode(states(grid.dims, channels=grid.channels).float())])
    return codec.with_network(network, {"explained": explained})


DOMAINS = {
    "pictures": Images(size=(10, 12), channels=3, classes=("a", "b"), mean=0.4, std=0.3),
    "sound": Audio(source=Tones(count=4)),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_on_latents_is_a_domain(name: str) -> None:
    domain = DOMAINS[name]
    examples = None
    if name == "pictures":
        examples = gendiff.Examples(
            [gendiff.Example(torch.rand(3, 10, 12), {"label": i % 2}, str(i)) for i in range(4)]
        )
    else:
        examples = domain.dataset("train")
        domain = domain.fit(examples.artifacts).fit_conditions(examples)
    latent = Latent(domain, codec_of(domain))
    z = latent.encode(examples[0].artifact)
    again = latent.encode(latent.decode(z))
    assert z.shape[-1 if latent.ragged else 0] == 3 and again.shape == z.shape
    request = latent.request(2, **domain.preview(2))
    assert request.like.shape[2:] == z.shape[1:] or latent.ragged
    assert latent.conditions == domain.conditions and latent.metrics().keys() == domain.metrics().keys()


@pytest.mark.parametrize("name", DOMAINS)
def test_a_model_of_latents_carries_its_codec(name: str, tmp_path: Path) -> None:
    domain = DOMAINS[name]
    size = {"channels": (8,), "blocks": 1}
    latent = Latent(domain, codec_of(domain))
    model = Model.new(latent, **size)
    path = model.save(tmp_path / "model.safetensors")
    other = gendiff.load(path)
    assert isinstance(other.domain, Latent) and other.domain.codec.digest == latent.codec.digest
    a, b = model.sample(2, steps=3, seed=5), other.sample(2, steps=3, seed=5)
    for one, two in zip(a, b, strict=True):
        x, y = (torch.as_tensor(getattr(s, "samples", s)) for s in (one, two))
        assert torch.equal(x, y)


def test_the_loss_sees_the_same_from_a_codec_and_from_kept_latents() -> None:
    domain = DOMAINS["pictures"]
    latent = Latent(domain, codec_of(domain))
    pictures = torch.rand(5, 3, 10, 12)
    kept = torch.stack([latent.encode(p) for p in pictures])
    together = latent.codec.encode(torch.stack([domain.encode(p) for p in pictures]))
    assert torch.allclose(kept, together, atol=1e-6)


def test_statistics_are_those_of_the_codec() -> None:
    codec = codec_of(Images(size=(10, 12), channels=3, mean=0.4, std=0.3))
    latent = Latent(Images(size=(10, 12), channels=3, mean=0.1, std=0.9), codec)
    assert (latent.domain.mean, latent.domain.std) == (0.4, 0.3)  # type: ignore[attr-defined]
    fitted = latent.fit([torch.rand(3, 10, 12) for _ in range(3)])
    assert (fitted.domain.mean, fitted.domain.std) == (0.4, 0.3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("explained", [0.5, math.nan, None])
def test_a_codec_that_loses_too_much_is_refused_unless_told(explained: float | None) -> None:
    domain = DOMAINS["pictures"]
    codec = codec_of(domain)
    codec = codec.with_network(codec.network, {"other": 1.0, **({} if explained is None else {"explained": explained})})
    pictures = [torch.rand(3, 10, 12) for _ in range(3)]
    with pytest.raises(RequestError, match=r"gate=0\.5" if explained == 0.5 else "never measured.*Train"):
        Latent(domain, codec).fit(pictures)
    if explained == 0.5:
        Latent(domain, codec, gate=0.4).fit(pictures)


def test_what_does_not_belong_together_is_refused() -> None:
    pictures = codec_of(DOMAINS["pictures"])
    with pytest.raises(RequestError, match="Images"):
        Latent(DOMAINS["sound"], pictures)
    with pytest.raises(RequestError, match="1 channels"):
        Latent(Images(size=12, channels=1), pictures)
    with pytest.raises(RequestError, match="latents of latents"):
        Latent(Latent(DOMAINS["pictures"], pictures), pictures)
    asked = dataclasses.replace(DOMAINS["pictures"], asked={"edges": gendiff.Field(1)})  # type: ignore[type-var]
    with pytest.raises(RequestError, match="edges"):
        Latent(asked, pictures)
    with pytest.raises(CheckpointError, match="without its weights"):
        _ = Codec(DOMAINS["pictures"]).network
    with pytest.raises(RequestError, match="levels"):
        Autoencoder(1, channels=1, latent=2, bottleneck=FSQ((3, 3, 3)))


def test_a_codec_goes_through_its_file(tmp_path: Path) -> None:
    codec = codec_of(DOMAINS["pictures"])
    path = codec.save(tmp_path / "codec.safetensors", {"name": "mine"})
    other = Codec.load(path)
    x = torch.rand(2, 3, 10, 12)
    assert other.digest == codec.digest and torch.equal(other.encode(x), codec.encode(x))
    assert other.metrics == codec.metrics and from_config(to_config(other)) == other
    with pytest.raises(CheckpointError, match="holds a codec"):
        gendiff.load(path)
    model = Model.new(Images(size=12, channels=1), channels=(8,), blocks=1).save(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds a model"):
        Codec.load(model)


def test_a_codec_is_found_again_by_its_path_and_only_itself(tmp_path: Path) -> None:
    codec = codec_of(DOMAINS["pictures"])
    path = codec.save(tmp_path / "codec.safetensors")
    described = from_config(json.loads(json.dumps(to_config(Codec.load(path)))))
    x = torch.rand(1, 3, 10, 12)
    assert torch.equal(described.encode(x), codec.encode(x))
    described = from_config(json.loads(json.dumps(to_config(Codec.load(path)))))
    codec_of(DOMAINS["pictures"], deep=2).save(path)
    with pytest.raises(CheckpointError, match="another codec"):
        described.encode(x)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"is not at .* any more.*domain\.codec\.save\("):
        described.encode(x)


@pytest.mark.parametrize("damage", ["bit", "missing", "swapped"])
def test_damaged_codecs_in_model_files_are_refused(damage: str, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    latent = Latent(DOMAINS["pictures"], codec_of(DOMAINS["pictures"]))
    path = Model.new(latent, channels=(8,), blocks=1).save(tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        metadata = {"gendiff": file.metadata()["gendiff"]}  # without digests
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    first = next(name for name in weights if name.startswith("@codec.up."))
    if damage == "bit":
        weights[first].flatten()[0] += 1
    elif damage == "missing":
        weights = {name: value for name, value in weights.items() if not name.startswith("@")}
    else:
        weights = {name.replace("@codec", "@other"): value for name, value in weights.items()}
    save_file(weights, path, metadata)
    with pytest.raises(CheckpointError):
        gendiff.load(path)


def test_mirror_images_are_examples_of_their_own() -> None:
    domain = Images.of(Digits(), flip=True)
    codec = codec_of(domain)
    plain, both = Latent(Images.of(Digits()), codec).dataset("train"), Latent(domain, codec).dataset("train")
    assert len(both) == 2 * len(plain) and len(Latent(domain, codec).dataset("test")) < len(plain)
    assert torch.equal(both[6].artifact, plain[3].artifact)
    assert torch.equal(both[7].artifact, plain[3].artifact.flip(-1)) and both[7].cond == plain[3].cond
    assert len(set(both.names)) == len(both)


def test_a_domain_that_draws_variants_without_number_is_refused() -> None:
    class Turned(Images):
        def augment(self, x: State, noise: Noise) -> State:
            return x

        def variants(self, artifact: object) -> list[object]:
            return gendiff.Domain.variants(self, artifact)  # type: ignore[return-value]

    domain = Turned(size=8, channels=1, source=Digits())
    with pytest.raises(RequestError, match="variants"):
        Latent(domain, codec_of(domain)).dataset("train")


def test_known_parts_of_a_picture_stay_in_latents() -> None:
    domain = Images(size=16, channels=1)
    model = Model.new(Latent(domain, codec_of(domain)), channels=(8,), blocks=1)
    picture = torch.rand(1, 16, 16)
    given, _ = model.domain.known(without(picture, 0, 0, 16, 6), {})
    keep = given.keep[0, 0]  # type: ignore[union-attr]
    assert keep.tolist() == [[False, False, True, True]] * 4  # the second column of latents is cut through
    (drawn,) = model.sample(1, given=without(picture, 0, 0, 16, 6), steps=4)
    assert drawn.shape == picture.shape


def test_nothing_hangs_on_what_is_hidden_of_a_picture() -> None:
    """Not even by the codec, which sees beyond the sites of a latent."""
    domain = Images(size=16, channels=1, mean=0.4, std=0.3)
    model = Model.new(Latent(domain, codec_of(domain)), channels=(8,), blocks=1)
    picture = torch.rand(1, 16, 16)
    other = picture.clone()
    other[:, 4:12, 4:12] = 1 - other[:, 4:12, 4:12]
    own, theirs = (model.domain.known(without(one, 4, 4, 12, 12), {})[0] for one in (picture, other))
    assert torch.equal(own.x0, theirs.x0) and own.keep.any()  # type: ignore[union-attr,arg-type]
    pairs = [model.sample(2, given=without(one, 4, 4, 12, 12), steps=3) for one in (picture, other)]
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
    seen = picture.clone()
    seen[:, 0, 0] = 1 - seen[:, 0, 0]
    assert not torch.equal(own.x0, model.domain.known(without(seen, 4, 4, 12, 12), {})[0].x0)  # type: ignore[union-attr,arg-type]


def test_nothing_hangs_on_what_is_hidden_of_a_sound() -> None:
    domain = DOMAINS["sound"]
    model = Model.new(Latent(domain, codec_of(domain)), channels=(8,), blocks=1)
    clip = domain.dataset("train")[0].artifact
    other = dataclasses.replace(clip, samples=clip.samples.copy())
    low, high = (round(share * clip.seconds, 2) for share in (0.4, 0.6))
    hidden = slice(round(low * clip.sample_rate), round(high * clip.sample_rate))
    other.samples[..., hidden] = other.samples[..., hidden][..., ::-1] * 0.5
    pairs = [model.sample(2, given=one.without(low, high), steps=3) for one in (clip, other)]
    own, theirs = (model.domain.known(one.without(low, high), {})[0] for one in (clip, other))
    assert torch.equal(own.x0, theirs.x0) and 0 < own.keep.float().mean() < 1  # type: ignore[union-attr,arg-type]
    assert all((a.samples == b.samples).all() for a, b in zip(*pairs, strict=True))
    assert not torch.equal(model.domain.encode(clip), model.domain.encode(other))  # type: ignore[arg-type]


def test_the_digest_of_a_model_is_of_its_codec_too(tmp_path: Path) -> None:
    domain = Images(size=16, channels=1)
    model = Model.new(Latent(domain, codec_of(domain)), channels=(8,), blocks=1)
    other = Model(dataclasses.replace(model.domain, codec=codec_of(domain, deep=2)), model.denoiser, size=model.size)  # type: ignore[type-var]
    same = Model(model.domain, model.denoiser, size=model.size)
    assert model.digest == same.digest != other.digest
    assert model.info()["digest"] == model.digest == gendiff.load(model.save(tmp_path / "m.safetensors")).digest


def test_grids_are_those_of_numbers() -> None:
    assert Grid.of(DOMAINS["pictures"]) == Grid(3, 2, False)
    assert Grid.of(DOMAINS["sound"]).last
    proteins = pytest.importorskip("gendiff_proteins")
    with pytest.raises(RequestError, match="bundles"):
        Grid.of(proteins.Proteins())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (KL, {"weight": -1.0}), (KL, {"std": 0.0}), (FSQ, {"levels": (1, 2)}), (FSQ, {"levels": ()}),
        (Reconstruction, {"l1": 0.0, "l2": 0.0}), (Reconstruction, {"windows": (2,)}),
        (Reconstruction, {"perceptual": -1.0}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(kind: type, settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        kind(**settings)


def test_what_is_asked_and_said_of_latents_is_the_inner_domains_and_the_networks() -> None:
    sound = DOMAINS["sound"]
    model = Model.new(Latent(sound, codec_of(sound)), channels=(8,), blocks=1)
    plain = Model.new(sound, channels=(8,), blocks=1)
    assert "seconds" in model.info()["request"] and model.info()["request"] == plain.info()["request"]
    latent = Latent(DOMAINS["pictures"], codec_of(DOMAINS["pictures"]))
    own, theirs = (inspect.signature(domain.network).parameters for domain in (latent, latent.domain))
    assert own == theirs and {"width", "channels", "dropout", "previous"} <= own.keys() and "sites" not in own
    assert "width: of the DiT's tokens" in (latent.network.__doc__ or "")
    with pytest.raises(RequestError, match=r"chanels.*channels"):
        latent.network(chanels=(8,))


@pytest.mark.parametrize("size", [{"stride": 0}, {"latent": "many"}, {"depht": 3}, {"widths": (2**40,)}])
def test_sizes_of_a_codec_that_cannot_be_are_refused_by_its_file(size: dict[str, Any], tmp_path: Path) -> None:
    codec = codec_of(DOMAINS["pictures"])
    vars(codec)["size"] = {**codec.size, **size}
    with pytest.raises(CheckpointError):
        Codec.load(codec.save(tmp_path / "codec.safetensors"))


def test_pictures_of_any_size_in_a_codecs_file_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_of(DOMAINS["pictures"])
    vars(codec)["domain"] = dataclasses.replace(codec.domain, size=2**14)  # type: ignore[type-var]
    path, seen, request = codec.save(tmp_path / "codec.safetensors"), [], Images.request

    def looked_at(self: Images, n: int, *args: Any, **what: Any) -> gendiff.Request:
        found = request(self, n, *args, **what)
        assert isinstance(found.like, Tensor)
        seen.append(found.like.is_meta)
        return found

    monkeypatch.setattr(Images, "request", looked_at)
    assert Codec.load(path).grid == Grid(3, 2, False)
    assert seen and all(seen)


@pytest.mark.parametrize("name", DOMAINS)
def test_models_of_latents_are_adapted(name: str, tmp_path: Path) -> None:
    domain = DOMAINS[name]
    Model.new(Latent(domain, codec_of(domain)), channels=(8,), blocks=1).save(tmp_path / "base.safetensors")
    base = gendiff.load(tmp_path / "base.safetensors")
    model = Model.new(base.domain, **base.size)
    model.adapt(LoRA(1, where=("*",)), base)
    path = model.save(tmp_path / "adapter.safetensors")
    codec = sum(x.nbytes for x in base.domain.carried()["codec"].state_dict().values())
    assert path.stat().st_size < (tmp_path / "base.safetensors").stat().st_size - codec  # the base carries it
    again = gendiff.load(path)
    states = [each.states(2, steps=2, seed=1)[0][0] for each in (base, again, again.merged())]
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
