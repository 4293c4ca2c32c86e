"""Convolutions over time and space: the same map as Conv3d, frame by frame."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from drivesim.nn.temporal import Mix
from drivesim.nn.video_convolution import FEWEST_CHANNELS, FEWEST_PIXELS, VideoConv, VideoConvLayer, counted_as


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (4, 2)])
@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_it_is_conv3d_with_the_same_weights(side: int, stride: int, bias: bool, num_frames: int) -> None:
    torch.manual_seed(0)
    conv = VideoConv(3, 5, side, stride=stride, bias=bias)
    clips = torch.randn(2, num_frames, 3, 8, 6, requires_grad=True)
    wanted = nn.Conv3d.forward(conv, clips.transpose(1, 2)).transpose(1, 2)
    made = conv(clips)
    torch.testing.assert_close(made, wanted)
    pull = torch.randn(made.shape)
    for a, b in zip(
        *(torch.autograd.grad((m * pull).sum(), [clips, conv.weight]) for m in (made, wanted)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_frames", [2, 3, 4, 5, 7, 10])
@pytest.mark.parametrize("cut", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_groups_of_frames_with_fewer_products_are_the_same_map(num_frames: int, cut: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = VideoConv(FEWEST_CHANNELS, 5)
    clips = torch.randn(2, num_frames, FEWEST_CHANNELS, 16, FEWEST_PIXELS // 16, requires_grad=True)
    wanted = nn.Conv3d.forward(conv, clips.transpose(1, 2)).transpose(1, 2)[:, cut[0] : num_frames - cut[1]]
    made = conv(clips, cut)
    assert made.shape == wanted.shape
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)
    assert made.shape[1] < 2 or not torch.equal(made, wanted), "made another way"
    pull = torch.randn(made.shape)
    of_both = (torch.autograd.grad((m * pull).sum(), [clips, conv.weight, conv.bias]) for m in (made, wanted))
    for a, b in zip(*of_both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def products(conv: VideoConv, clip: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        conv(clip)
    return counter.get_flop_counts()["Global"][torch.ops.aten.convolution]


def test_groups_of_frames_take_half_the_products_on_a_cpu_in_float32_alone() -> None:
    conv, clip = VideoConv(32, 32).to("meta"), torch.empty(1, 8, 32, 16, 16, device="meta")
    half = products(conv, clip)
    with counted_as(has_groups=False):
        assert products(conv, clip) == 2 * half
    assert products(conv.to(torch.bfloat16), clip.to(torch.bfloat16)) == 2 * half
    conv, clip = VideoConv(32, 32), torch.randn(1, 8, 32, 16, 16)
    assert products(conv, clip) == half
    with torch.autocast("cpu", torch.bfloat16):
        assert products(conv, clip) == 2 * half
    assert products(conv, clip[..., :8]) == half, "fewer pixels, all products"


@pytest.mark.parametrize("cut", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_frames_that_are_cut_are_context_for_the_others(cut: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = VideoConv(3, 5)
    clips = torch.randn(1, 4, 3, 6, 6)
    assert torch.equal(conv(clips, cut), conv(clips)[:, cut[0] : 4 - cut[1]])


@pytest.mark.parametrize("num_convolutions", [1, 3])
@pytest.mark.parametrize("cut", [(0, 0), (1, 0), (1, 1)])
def test_a_layer_cuts_as_late_as_it_can(num_convolutions: int, cut: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = VideoConvLayer(8, num_convolutions, groups=2)
    clips = torch.randn(2, 7, 8, 4, 4)
    assert torch.equal(layer(clips), clips)  # a fresh one changes nothing
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.3)
    assert layer.radius == num_convolutions
    deepest = tuple(num_convolutions * side for side in cut)
    for left_out in (cut, deepest):
        wanted = layer(clips)[:, left_out[0] : 7 - left_out[1]]
        torch.testing.assert_close(layer(clips, left_out), wanted, rtol=0, atol=1e-6)


def test_alpha_one_leaves_frames_as_they_are_bit_for_bit() -> None:
    torch.manual_seed(0)
    layer = VideoConvLayer(8, 1, groups=2)
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.3)
    clips = torch.randn(2, 3, 8, 4, 4)
    mix: Mix = layer.mix
    mix.set_alpha(1.0)
    assert torch.equal(layer(clips), clips)
