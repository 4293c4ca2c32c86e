"""FLOPs and memory of code on the meta device, against closed forms and against real tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.video_unet import VideoUNet
from drivesim.nn import frame_groups
from drivesim.nn.frame_groups import in_groups
from drivesim.planning import tally as tallies
from drivesim.planning.as_on_device import AsOnDevice
from drivesim.planning.speed import Work
from drivesim.planning.tally import Tally
from tests.models.test_video_unet import make_backbone

MIB = 1 << 20


def test_flops_of_a_convolution_and_of_its_backward_pass() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1, device="meta")
    x = torch.empty(2, 3, 16, 32, device="meta")
    forward = 2 * 2 * 8 * 3 * 9 * 16 * 32
    with Tally() as tally:
        made = layer(x)
    assert Work.of(tally).flops == forward
    with tally:
        made.sum().backward()
    assert Work.of(tally).flops == 2 * forward, "the input asks for no gradient: the weight's alone"


def test_the_peak_is_what_is_held_at_once_and_not_what_was_made() -> None:
    x = torch.empty(MIB // 4, device="meta")  # from before: not counted
    with Tally() as tally:
        for _ in range(10):
            y = x + 1
            y.mul_(2)
            y.view(2, -1)
        assert tally.live_bytes == MIB
        assert tally.peak_bytes == 2 * MIB, "the new one is made before the old one is freed"
        del y
        assert tally.live_bytes == 0
        tally.begin()
        assert tally.peak_bytes == 0


def test_tensors_that_are_saved_for_the_backward_pass_are_held() -> None:
    layers = nn.Sequential(*[nn.SiLU() for _ in range(5)])
    x = torch.empty(MIB // 4, device="meta", requires_grad=True)
    with Tally() as tally:
        made = layers(x)
        assert tally.live_bytes == 5 * MIB
        with torch.no_grad():
            tally.begin()
            layers(x)
            assert tally.peak_bytes == 7 * MIB
    del made


def test_attention_is_counted_as_fused() -> None:
    b, heads, length, dim = 2, 4, 256, 8
    q, k, v = (torch.empty(b, heads, length, dim, device="meta", requires_grad=True) for _ in range(3))
    with Tally() as tally, AsOnDevice():
        out = F.scaled_dot_product_attention(q, k, v)
    assert out.shape == q.shape
    assert tally.peak_bytes < b * heads * length * length * 4, "a matrix of all scores was made"
    assert Work.of(tally).flops == 2 * 2 * b * heads * length * length * dim


def test_mixed_precision_runs_layers_in_16_bits_and_norms_in_32_with_one_copy_of_a_weight() -> None:
    layer, norm = nn.Linear(64, 64, device="meta"), nn.LayerNorm(64, device="meta")
    x = torch.empty(8, 64, device="meta")
    with Tally() as tally, AsOnDevice(torch.bfloat16):
        first = layer(x)
        before = tally.live_bytes
        second = layer(first)
        assert (first.dtype, norm(second).dtype) == (torch.bfloat16, torch.float32)
    assert before >= 64 * 64 * 2
    assert tally.live_bytes - before < 64 * 64 * 2, "the weight's copy was made twice"


def test_results_leave_the_meta_device_without_memory() -> None:
    x = torch.empty(1000, 1000, 1000, device="meta")
    with AsOnDevice():
        picture = x.cpu().numpy()
        assert bool(torch.isfinite(x).all())
        assert x.to("cpu").is_meta
    assert picture.shape == (1000, 1000, 1000)
    assert picture.dtype == np.float32
    assert picture.strides == (0, 0, 0)


def test_groups_of_frames_that_stand_for_others_count_as_all_of_them() -> None:
    with torch.device("meta"):
        layer, frames = torch.nn.Conv2d(8, 8, 3, padding=1), torch.empty(11, 8, 128, 128)
    ran = []

    def counted(part: torch.Tensor) -> torch.Tensor:
        ran.append(len(part))
        return layer(part)

    with torch.no_grad(), Tally() as whole:
        layer(frames)
    with torch.no_grad(), Tally() as grouped:
        made = in_groups(counted, frames, fewest=2)
    assert made.shape == frames.shape
    assert ran == [2, 3], "the first of four alike, and the rest"
    flops = [
        sum(times * tally.flops_of[kernel] for kernel, times in tally.kernels.items()) for tally in (whole, grouped)
    ]
    assert flops[0] == flops[1] > 0


def test_samples_that_are_made_one_after_the_other_count_as_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        backbone = make_backbone()
        network = VideoUNet(backbone, TemporalStack.for_backbone(backbone, num_frames=4)).eval()

    def tally_of(num_samples: int) -> Tally:
        with torch.device("meta"), torch.no_grad(), Tally() as tally:
            sample = torch.empty(num_samples, 4, 4, 64, 128)
            made = network(sample, torch.empty(num_samples), torch.empty(num_samples, 3, 24))
        assert made.shape == sample.shape
        return tally

    one, three = tally_of(1), tally_of(3)
    assert Work.of(three).flops == 3 * Work.of(one).flops > 0
    assert three.peak_bytes < 1.5 * one.peak_bytes, "what is made of one sample is gone before the next"
    two_at_once = 2 * 4 * 64 * 128 * int(backbone.conv_in.out_channels)
    monkeypatch.setattr(frame_groups, "_SAMPLES_AT_ONCE", {"meta": two_at_once})
    for num_samples in (2, 3, 4, 5):  # parts of two, of which the first stands for all, and a rest
        flops = Work.of(tally_of(num_samples)).flops
        # embeddings of frame positions are made once a part
        assert flops == pytest.approx(num_samples * Work.of(one).flops, rel=1e-4), num_samples


def test_layers_that_a_backward_pass_runs_again_see_the_device_as_well() -> None:
    with torch.device("meta"):
        block = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(4, 4, 1))
        picture = torch.zeros(1, 4, 8, 8, requires_grad=True)
    tallies = []
    for is_run_again in (False, True):
        with Tally() as tally, AsOnDevice(torch.bfloat16):
            made = checkpoint(block, picture, use_reentrant=False) if is_run_again else block(picture)
            made.float().sum().backward()
        tallies.append(sum(tally.flops_of[kernel] * count for kernel, count in tally.kernels.items()))
    first = block[0].weight
    assert first.grad is not None and first.grad.dtype is torch.float32
    before, last = 2 * 8 * 8 * 4 * 4 * 9, 2 * 8 * 8 * 4 * 4
    assert tallies == [3 * (before + last), 3 * (before + last) + before]  # the last one's result is not needed again


def test_what_is_remembered_of_an_operator_is_what_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "_SEEN", {})
    whole = torch.empty(4, 6, 8, dtype=torch.int32, device="meta")
    norm = nn.GroupNorm(2, 6, device="meta")

    def results() -> list[torch.Tensor]:
        turned = whole.transpose(1, 2)
        made = [whole * 2, whole * 2.0, whole > True, turned.clone(), norm(whole.float()), *whole.split(2)]
        return [*made, whole.view(24, 8), whole.mul_(2), torch.ops.aten._unsafe_view(whole, [24, 8])]

    expected = results()
    with torch.no_grad(), Tally() as tally:
        first, again = results(), results()
    moved, calls, held = tally.moved_bytes, tally.num_calls, tally.live_bytes
    for wanted, one, other in zip(expected, first, again, strict=True):
        for made in (one, other):
            assert (made.shape, made.stride(), made.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)
        is_view = wanted.untyped_storage()._cdata == whole.untyped_storage()._cdata
        assert is_view == (other.untyped_storage()._cdata == whole.untyped_storage()._cdata)
    assert held > 0
    with torch.no_grad(), Tally() as once:
        kept = results()
    assert (2 * once.moved_bytes, 2 * once.num_calls, 2 * once.live_bytes) == (moved, calls, held)
    del kept
