"""Laws of the shared blocks: padding, permutations, labels, gradients, the resolution of times."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff.conditions import Label
from gendiff.errors import RequestError
from gendiff.nn import (
    AdaptiveBlock,
    Attention,
    Conditioning,
    DiT,
    FourierTime,
    LabelEmbedding,
    MaskedGroupNorm,
    Rotary,
    UNet,
    grid_network,
    grid_positions,
    rotate,
)
from gendiff.nn.attention import attend

DIGIT = Label(("0", "1", "2", "3"))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, so that zero-initialised layers hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / math.sqrt(max(1, p[0].numel())))
    return network.eval()


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unet(dims: int, patch: int = 1) -> nn.Module:
    net = UNet(
        dims,
        in_channels=3,
        out_channels=2,
        channels=(16, 24, 32),
        attention=(False, True, True),
        conditions={"digit": DIGIT},
        patch=patch,
    )
    return randomise(net.double())


def dit(dims: int, **kw) -> nn.Module:
    net = DiT(dims, in_channels=3, out_channels=2, width=32, depth=2, heads=2, conditions={"digit": DIGIT}, **kw)
    return randomise(net.double())


def refined(dims: int) -> nn.Module:
    """A DiT of which convolutions make the result."""
    return dit(dims, refine=16)


# -- padding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda: unet(1), lambda: unet(1, 2), lambda: dit(1), lambda: refined(1)],
    ids=["unet", "unet-p2", "dit", "refined"],
)
@pytest.mark.parametrize("length", [8, 16, 13])
def test_padding_changes_nothing(make, length):
    net, t, digit = make(), torch.tensor([0.2, 0.9]).double(), torch.tensor([1, 4])
    x = normal(2, 3, length)
    alone = net(x, t, digit=digit)
    padded = torch.cat((x, 100 * normal(2, 3, 32 - length, seed=2)), dim=2)
    mask = torch.arange(32).expand(2, -1) < length
    y = net(padded, t, mask=mask, digit=digit)
    assert (y[:, :, :length] - alone).abs().max() < 1e-10
    assert (y[:, :, length:] == 0).all()
    assert alone.abs().max() > 1e-3


def test_padding_is_per_sample():
    """A batch of different lengths equals the samples alone."""
    net, t = unet(1), torch.tensor([0.3, 0.6, 0.8]).double()
    x, lengths = normal(3, 3, 24), torch.tensor([24, 8, 17])
    mask = torch.arange(24) < lengths[:, None]
    y = net(x, t, mask=mask)
    for i, n in enumerate(lengths.tolist()):
        assert (y[i : i + 1, :, :n] - net(x[i : i + 1, :, :n], t[i : i + 1])).abs().max() < 1e-10


@pytest.mark.parametrize(
    "make",
    [lambda: unet(2), lambda: unet(2, 2), lambda: dit(2), lambda: refined(2)],
    ids=["unet", "unet-p2", "dit", "refined"],
)
def test_pictures_of_any_size_and_with_masks(make):
    net, t = make(), torch.tensor([0.4]).double()
    x = normal(1, 3, 11, 14)
    big = torch.cat((torch.cat((x, 9 * normal(1, 3, 11, 18, seed=3)), 3), 7 * normal(1, 3, 21, 32, seed=4)), 2)
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :11, :14] = True
    assert net(x, t).shape == (1, 2, 11, 14)
    assert (net(big, t, mask=mask)[:, :, :11, :14] - net(x, t)).abs().max() < 1e-10


def test_full_mask_is_no_mask():
    for dims, shape in ((1, (16,)), (2, (16, 16))):
        net, x, t = unet(dims), normal(2, 3, *shape), torch.tensor([0.1, 0.7]).double()
        mask = torch.ones(2, *shape, dtype=torch.bool)
        assert (net(x, t, mask=mask) - net(x, t)).abs().max() < 1e-10


def test_masked_group_norm_is_group_norm_of_the_real_part():
    norm, x = randomise(MaskedGroupNorm(16).double()), normal(2, 16, 1, 12)
    assert isinstance(norm, MaskedGroupNorm)
    mask = (torch.arange(12) < 5).double().expand(2, 1, 1, -1)
    reference = nn.functional.group_norm(x[..., :5], norm.groups, norm.weight, norm.bias, norm.eps)
    assert torch.allclose(norm(x, mask)[..., :5], reference, atol=1e-12)
    assert torch.isfinite(norm(x, torch.zeros_like(mask))).all()


def test_samples_do_not_see_each_other():
    for net in (unet(2), dit(2), refined(2)):
        x, t = normal(3, 3, 8, 8), torch.tensor([0.1, 0.5, 0.9]).double()
        assert (net(x, t)[1] - net(x[1:2], t[1:2])[0]).abs().max() < 1e-10


# -- DiT and attention --------------------------------------------------------------------------------------------


def test_dit_without_positions_commutes_with_permutations_of_patches():
    net, x, t = dit(1, positions=None), normal(2, 3, 16), torch.tensor([0.2, 0.6]).double()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    permute = lambda v: v.unflatten(2, (8, 2))[:, :, order].flatten(2)  # noqa: E731
    assert (permute(net(x, t)) - net(permute(x), t)).abs().max() < 1e-10
    placed = dit(1)
    assert (permute(placed(x, t)) - placed(permute(x), t)).abs().max() > 1e-3


def test_refined_patches_see_across_their_borders(monkeypatch):
    """Where nothing else joins the patches, a site hears of its own patch alone, and of as many sites to either side as
    the convolutions reach: into, two blocks of two, out.
    """
    monkeypatch.setattr(MaskedGroupNorm, "forward", lambda self, x, mask=None, steer=None: x)
    for net, reach in ((dit(1), 0), (refined(1), 6)):
        for block in net.get_submodule("blocks").children():
            nn.init.zeros_(block.get_parameter("attention.out.weight"))
        x = normal(1, 3, 64).requires_grad_()
        (seen,) = torch.autograd.grad(net(x, torch.tensor([0.3]).double())[0, :, 32].sum(), x)
        sites = seen[0].abs().sum(0).nonzero().flatten()
        assert (int(sites.min()), int(sites.max())) == (32 - reach, 33 + max(0, reach - 1))


def test_a_refiner_begins_by_changing_nothing():
    """A network that has learned may be given one and goes on from there."""
    plain, size = dit(2), {"width": 32, "depth": 2, "heads": 2, "conditions": {"digit": DIGIT}}
    fine = DiT(2, in_channels=3, out_channels=2, refine=16, **size).double()
    missing, odd = fine.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not odd and all(name.startswith(("finer.", "refiner.")) for name in missing)
    x, t = normal(2, 3, 8, 8), torch.tensor([0.1, 0.5]).double()
    assert torch.equal(fine(x, t), plain(x, t))


def test_dit_patches_keep_pixels_in_place():
    """With identity maps in and out, cutting and pasting is the identity."""
    from gendiff.nn.dit import _cut, _paste

    x = normal(2, 3, 8, 12)
    assert torch.equal(_paste(_cut(x, 2), [4, 6], 2), x)
    assert torch.equal(_cut(x, 2)[0, 1], x[0, :, 0:2, 2:4].flatten())
    s = normal(2, 3, 12)
    assert torch.equal(_paste(_cut(s, 3), [4], 3), s)


def test_unet_fold_keeps_pixels_in_place():
    from gendiff.nn.unet import _fold, _unfold

    x = normal(2, 3, 8, 12)
    assert torch.equal(_unfold(_fold(x, (2, 2)), (2, 2)), x)
    assert torch.equal(_fold(x, (2, 2))[0, :, 1, 2], x[0, :, 2:4, 4:6].flatten())


def test_rotary_logits_depend_on_differences_only():
    rotary, q, k = Rotary(), normal(1, 6, 8), normal(1, 6, 8, seed=2)
    here = rotary.angles(grid_positions(2, 3, like=q), 8)
    there = rotary.angles(grid_positions(2, 3, like=q) + torch.tensor([5.0, -3.0]).double(), 8)
    logits = [rotate(q, a) @ rotate(k, a).transpose(-1, -2) for a in (here, there)]
    assert torch.allclose(logits[0], logits[1], atol=1e-12)
    with pytest.raises(RequestError, match="multiple of 4"):
        rotary.angles(grid_positions(2, 3, like=q), 6)


def test_attention_with_bias_and_mask_equals_the_formula():
    attention, x = randomise(Attention(12, 3).double()), normal(2, 5, 12)
    assert isinstance(attention, Attention)
    bias, mask = normal(2, 3, 5, 5), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    q, k, v = attention.qkv(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    logits = attention.q_norm(q) @ attention.k_norm(k).transpose(-1, -2) / 2 + bias
    weights = logits.masked_fill(~mask[:, None, None], -math.inf).softmax(-1)
    expected = attention.out((weights @ v).transpose(1, 2).reshape(2, 5, 12)) * mask[..., None]
    assert torch.allclose(attention(x, mask=mask, bias=bias), expected, atol=1e-12)
    nobody = attention(x, mask=torch.zeros(2, 5, dtype=torch.bool), bias=bias)
    assert torch.equal(nobody, torch.zeros_like(nobody))


@pytest.mark.parametrize("kind", ["none", "mask", "bias"])
def test_written_out_attention_equals_the_fused_kernel(kind):
    q, k, v = (normal(2, 3, 7, 4, seed=i) for i in range(3))
    bias = {"none": None, "mask": torch.arange(7) < 5, "bias": normal(2, 3, 7, 7)}[kind]
    bias = bias[None, None, None] if kind == "mask" and bias is not None else bias
    fused = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    assert torch.allclose(attend(q, k, v, bias), fused, atol=1e-12)
    long = normal(1, 1, 200, 4)
    whole, part = attend(long, long, long, None), attend(long[:, :, :7], long, long, None)
    assert torch.allclose(whole[:, :, :7], part)


def test_adaptive_block_begins_as_the_identity():
    block, x = AdaptiveBlock(16, 2, condition=8).double(), normal(2, 5, 16)
    assert torch.equal(block(x, normal(2, 8)), x)


# -- conditions ---------------------------------------------------------------------------------------------------


def test_a_missing_label_is_the_none_row():
    net, x, t = unet(2), normal(2, 3, 8, 8), torch.tensor([0.2, 0.6]).double()
    none = torch.tensor([4, 4])
    assert torch.equal(net(x, t), net(x, t, digit=none))
    assert torch.equal(net(x, t), net(x, t, digit=None))
    assert (net(x, t) - net(x, t, digit=torch.tensor([0, 3]))).abs().amax((1, 2, 3)).min() > 1e-3
    assert LabelEmbedding(4, 6).table.num_embeddings == 5


def test_several_labels_add_up():
    c = Conditioning(8, {"digit": Label(("0", "1", "2")), "speaker": Label(("a", "b"))}).double()
    t, none = torch.tensor([0.5]).double(), {"digit": torch.tensor([3]), "speaker": torch.tensor([2])}
    digit, both = none | {"digit": torch.tensor([1])}, {"digit": torch.tensor([1]), "speaker": torch.tensor([0])}
    speaker = none | {"speaker": torch.tensor([0])}

    def told(cond: dict[str, Tensor]) -> Tensor:
        return c(t, cond).vector

    assert torch.allclose(told(both) - told(none), told(digit) + told(speaker) - 2 * told(none), atol=1e-12)


def test_an_unknown_label_is_named():
    with pytest.raises(RequestError, match=r'the condition digitt=.*Did you mean "digit"\?'):
        unet(1)(normal(1, 3, 8), torch.tensor([0.5]).double(), digitt=torch.tensor([0]))
    with pytest.raises(RequestError, match=r"Label\("):
        dit(2)(normal(1, 3, 8, 8), torch.tensor([0.5]).double(), speaker=torch.tensor([0]))


def test_times_stay_apart_even_under_autocast():
    """A thousand times give a thousand embeddings whose neighbours differ by much more than float32 rounding."""
    c = Conditioning(64)
    t = torch.linspace(0, 1, 1001)
    with torch.autocast("cpu", torch.bfloat16):
        e = c(t, {}).vector
    assert e.dtype == torch.float32
    gap = (e[1:] - e[:-1]).norm(dim=1) / e.norm(dim=1).mean()
    assert gap.min() > 1e-3
    assert torch.unique(e, dim=0).shape[0] == 1001


def test_the_time_embedding_is_smooth():
    """|de/dt| stays below the highest frequency times |e|: no jolts for objectives that differentiate in t."""
    time = FourierTime(64, scale=2.0).double()
    t, h = torch.linspace(-1, 1, 33).double(), 1e-6
    e, rate = time(t), (time(t + h) - time(t - h)) / (2 * h)
    assert torch.allclose(e.square().mean(1), torch.ones(33).double())
    assert (rate.norm(dim=1) <= 2.0 * 50.0 * e.norm(dim=1) + 1e-6).all()


# -- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("make", [unet, dit, refined])
def test_every_parameter_learns(make, dims):
    shape = (16,) if dims == 1 else (16, 16)
    net = make(dims)
    x, t = normal(4, 3, *shape), torch.rand(4, generator=torch.Generator().manual_seed(0)).double()
    net(x, t, digit=torch.tensor([0, 1, 2, 3])).square().sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not silent
    dead = [n for n, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() < 1e-12]
    assert not dead


@pytest.mark.parametrize("dims", [1, 2])
def test_fresh_networks_answer_zero_in_the_input_dtype(dims):
    shape = (16,) if dims == 1 else (16, 16)
    size: dict[str, Any] = {"in_channels": 3, "out_channels": 2}
    nets = (UNet(dims, **size), *(DiT(dims, width=32, depth=1, refine=n, **size) for n in (0, 8)))
    for net in nets:
        for dtype in (torch.float32, torch.float64):
            y = net.to(dtype)(normal(2, 3, *shape, dtype=dtype), torch.tensor([0.1, 0.9]))
            assert y.dtype == dtype
            assert (y == 0).all()


@pytest.mark.parametrize("make", [unet, dit, refined])
def test_bfloat16_autocast_is_close(make):
    net = make(1).float()
    x, t = normal(2, 3, 16, dtype=torch.float32), torch.tensor([0.2, 0.7])
    mask = torch.arange(16).expand(2, -1) < torch.tensor([[16], [9]])
    exact = net(x, t, mask=mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, t, mask=mask)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("make", [unet, dit, refined])
@pytest.mark.parametrize("dims", [1, 2])
def test_one_graph_without_breaks(make, dims):
    net = make(dims).float()
    shape = (16,) if dims == 1 else (16, 16)
    x, t = normal(2, 3, *shape, dtype=torch.float32), torch.tensor([0.2, 0.7])
    mask, digit = torch.ones(2, *shape, dtype=torch.bool), torch.tensor([0, 4])
    report = torch._dynamo.explain(net)(x, t, mask=mask, digit=digit)
    assert report.graph_break_count == 0


def test_bad_sizes_are_refused():
    with pytest.raises(RequestError, match="dims=3"):
        UNet(3, in_channels=1, out_channels=1)
    with pytest.raises(RequestError, match="one entry of attention per level"):
        UNet(2, in_channels=1, out_channels=1, channels=(16, 32))
    with pytest.raises(RequestError, match="multiple of heads"):
        Attention(10, 3)
    for size in ({"refine": 8}, {"width": 32, "channels": (8,)}, {"width": 32, "patch": 2, "sites": (8, 7)}):
        with pytest.raises(RequestError):
            grid_network(2, 3, **size)  # type: ignore[arg-type]
    for refine in (-1, 1.5, True):
        with pytest.raises(RequestError, match="whole numbers of at least 0"):
            grid_network(2, 3, width=32, refine=refine)  # type: ignore[arg-type]
