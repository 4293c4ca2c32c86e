"""The upsampler's networks: folding, what they are told, and parts that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drivesim.models.autoencoder import to_levels, to_picture_range
from drivesim.models.build import BackboneConfig, make_backbone
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.upsampler import (
    Upsampler,
    UpsamplerConfig,
    UpsamplerTemporalConfig,
    enlarged,
    make_upsampler,
    make_upsampler_temporal,
)

LOW_HW = (4, 8)


def config(**other: object) -> UpsamplerConfig:
    tiny = {
        "scale": 4, "patch_px": 2, "block_out_channels": [8, 16], "attention": [False, True],
        "layers_per_block": 1, "num_heads": 2, "norm_num_groups": 4,
    }  # fmt: skip
    return UpsamplerConfig(**{**tiny, **other})  # type: ignore[arg-type]


def networks(temporal: bool = False, gain: float | None = None, **other: object) -> Upsampler:
    torch.manual_seed(0)
    own = config(**other)
    unet = make_upsampler(own, LOW_HW)
    stack = None
    if temporal:
        layers = UpsamplerTemporalConfig(num_frames=4, overlap=1, context_channels=4, feed_forward_mult=1)
        stack = make_upsampler_temporal(layers, unet)
        for parameter in stack.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return Upsampler(unet, stack, scale=own.scale, detail_gain=gain).eval()


def inputs(net: Upsampler, t: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    noisy, low = (torch.randn(2, t, *shape, generator=generator) for shape in (net.folded_shape(LOW_HW), (3, *LOW_HW)))
    return noisy, torch.tensor([3, 900]), low, torch.tensor([0, 80])


@torch.no_grad()
@pytest.mark.parametrize("patch_px", [1, 2, 4])
def test_frames_by_themselves_are_what_the_u_net_makes_of_folded_pixels(patch_px: int) -> None:
    net = networks(patch_px=patch_px)
    noisy, steps, low, levels = inputs(net)
    made = net(noisy, steps, low, levels)
    frame = (1, 2)
    shown = enlarged(low[frame][None], 4 // patch_px)
    x = torch.cat([noisy[frame][None], shown], dim=1)
    out = net.unet(x, steps[1:], torch.zeros(1, 1, 1), class_labels=levels[1:]).sample
    torch.testing.assert_close(made[frame], out[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patch_px", [1, 2, 4])
def test_pixels_are_folded_to_channels_patch_by_patch(patch_px: int) -> None:
    net, p = networks(patch_px=patch_px), patch_px
    x = torch.rand(2, 3, 16, 32)
    folded = net.folded(x)
    assert folded.shape[1:] == net.folded_shape(LOW_HW)
    # written out by hand: channel c * p * p + i * p + j of a folded picture is pixel (i, j) of each patch
    by_hand = torch.stack([x[:, c, i::p, j::p] for c in range(3) for i in range(p) for j in range(p)], dim=1)
    assert torch.equal(folded, by_hand)
    assert torch.equal(net.unfolded(folded), x)
    for number in (2, 0):
        assert np.array_equal(net.pictures(to_levels(folded[:number])), to_picture_range(x[:number]))


@torch.no_grad()
def test_the_level_of_noise_and_the_small_frames_are_seen() -> None:
    for temporal in (False, True):
        net = networks(temporal)
        noisy, steps, low, levels = inputs(net)
        made = net(noisy, steps, low, levels)
        assert not torch.allclose(made, net(noisy, steps, low, levels + 50), atol=1e-4)
        assert not torch.allclose(made, net(noisy, steps, low + 1, levels), atol=1e-4)
        assert not torch.allclose(made, net(noisy, steps + 50, low, levels), atol=1e-4)


@torch.no_grad()
def test_frames_see_one_another_and_each_others_small_frames_through_the_temporal_layers_alone() -> None:
    net = networks(temporal=True)
    noisy, steps, low, levels = inputs(net)
    other = low.clone()
    other[:, 2] += 1
    assert not torch.allclose(net(noisy, steps, low, levels)[:, 0], net(noisy, steps, other, levels)[:, 0], atol=1e-5)
    assert net.video_unet is not None
    net.video_unet.temporal.set_alpha(1.0)
    assert torch.equal(net(noisy, steps, low, levels)[:, 0], net(noisy, steps, other, levels)[:, 0])
    alone = Upsampler(net.unet, None, scale=4, detail_gain=None)
    assert torch.equal(net(noisy, steps, low, levels), alone(noisy, steps, low, levels))


@torch.no_grad()
def test_the_context_of_the_temporal_layers_are_the_small_frames() -> None:
    net = networks(temporal=True)
    assert net.video_unet is not None
    seen = []
    context_conv = net.video_unet.temporal.mid_block.resnets[0].context_conv  # there the U-Net is as small as they are
    context_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    noisy, steps, low, levels = inputs(net)
    net(noisy, steps, low, levels)
    assert torch.equal(seen[0], low.flatten(0, 1))


@pytest.mark.parametrize(("scale", "patch_px"), [(4, 4), (4, 2), (4, 1), (3, 3), (1, 1)])
def test_what_is_diffused_is_the_picture_or_what_the_enlarged_one_lacks(scale: int, patch_px: int) -> None:
    low = torch.rand(2, 3, *LOW_HW)
    frames = torch.rand(2, 3, *(scale * side for side in LOW_HW))
    whole = networks(scale=scale, patch_px=patch_px)
    assert torch.equal(whole.to_diffused(frames, low), whole.folded(frames))
    assert torch.equal(whole.from_diffused(whole.folded(frames), low), whole.folded(frames))
    net = networks(gain=5.0, scale=scale, patch_px=patch_px)
    lacking = 5 * (frames - enlarged(low, scale))
    torch.testing.assert_close(net.to_diffused(frames, low), net.folded(lacking), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.unfolded(net.from_diffused(net.to_diffused(frames, low), low)), frames)
    # a flat picture lacks nothing
    assert net.to_diffused(torch.full_like(frames, 0.25), torch.full_like(low, 0.25)).abs().max() < 1e-5


def test_sizes_that_do_not_fit_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="patch_px=3 for scale=4; valid: 1, 2, 4"):
        config(patch_px=3)
    with pytest.raises(ValueError, match="1 entries in attention for 2 block_out_channels"):
        config(attention=[True])
    with pytest.raises(ValueError, match=r"pictures of \[5, 8\] .* as \[5, 8\], which cannot be halved 1"):
        make_upsampler(config(patch_px=4), (5, 8))
    with pytest.raises(ValueError, match=r"overlap=5 of num_frames=8; at most half"):
        UpsamplerTemporalConfig(num_frames=8, overlap=5)
    with pytest.raises(ValueError, match=r"cannot be halved 1 times"):
        networks(patch_px=4).check_low((4, 7))


def test_parts_of_other_models_are_refused_by_name() -> None:
    latent = make_backbone(
        BackboneConfig(block_out_channels=[16, 32], attention=[False, True], layers_per_block=1, channels_per_head=8,
                       norm_num_groups=8), 12, (4, 8),
    )  # fmt: skip
    with pytest.raises(ValueError, match="part 'upsampler' is no upsampler's: in_channels is 12, expected 15"):
        Upsampler(latent, None, scale=4, detail_gain=None)
    unet = make_upsampler(config(), LOW_HW)
    with pytest.raises(ValueError, match="'upsampler_temporal' .*: context_in_channels is 5, expected 3"):
        Upsampler(unet, TemporalStack.for_backbone(unet, context_in_channels=5), scale=4, detail_gain=None)
    wider = make_upsampler(config(block_out_channels=[16, 16]), LOW_HW)
    with pytest.raises(ValueError, match=r"does not fit the backbone: block_out_channels is \(16, 16\)"):
        stack = make_upsampler_temporal(UpsamplerTemporalConfig(), wider)
        Upsampler(unet, stack, scale=4, detail_gain=None)
    with pytest.raises(ValueError, match="patch_px=2 for scale=3"):
        Upsampler(unet, None, scale=3, detail_gain=None)
