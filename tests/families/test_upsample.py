"""Upsampling of portions, and of videos whose frames come in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from drivesim.core.finite import NotFiniteError
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig
from drivesim.families.portions import upsample_next
from drivesim.families.upsample import UpsamplingModel, upsample_portion
from drivesim.models.upsampler import (
    Upsampler,
    UpsamplerConfig,
    UpsamplerTemporalConfig,
    enlarged,
    make_upsampler,
    make_upsampler_temporal,
)

PORTION, OVERLAP = 4, 1
KEY = (7, "start", 0)
CONFIG = UpsamplerConfig(
    scale=2, patch_px=2, detail_gain=4.0, block_out_channels=[8, 8], attention=[False, False], layers_per_block=1,
    num_heads=2, norm_num_groups=4, noise_level=20,
)  # fmt: skip
TEMPORAL = UpsamplerTemporalConfig(num_frames=PORTION, overlap=OVERLAP, context_channels=4, feed_forward_mult=1)
SCHEDULE = ScheduleConfig(beta_schedule="linear", beta_start=1e-4, beta_end=2e-2)


def model(
    *, temporal: bool = True, overlap: int = OVERLAP, eta: float = 0.0, alpha: float | None = None
) -> UpsamplingModel:
    torch.manual_seed(0)
    unet = make_upsampler(CONFIG, (8, 16))
    stack = None
    if temporal:
        stack = make_upsampler_temporal(TEMPORAL, unet)
        for parameter in stack.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        if alpha is not None:
            stack.set_alpha(alpha)
    return UpsamplingModel(
        networks=Upsampler(unet, stack, scale=2, detail_gain=4.0).eval().requires_grad_(False),
        schedule=training_schedule(SCHEDULE, ends_clean=True),
        sampling=SamplingConfig(sampler=Sampler.DDIM, steps=2, eta=eta),
        noise_level=20,
        fps=30.0,
        overlap=overlap if temporal else 0,
    )


def small(num_frames: int, hw: tuple[int, int] = (8, 16)) -> torch.Tensor:
    return torch.rand(num_frames, 3, *hw, generator=torch.Generator().manual_seed(3)) * 2 - 1


def video(upsampling: UpsamplingModel, low: torch.Tensor, pieces: list[int], folder: Path | None = None) -> np.ndarray:
    """Pushes a video in pieces, the state through a file where a folder is given."""
    pending: dict[str, torch.Tensor] = {}
    frames: list[NDArray[np.uint8]] = []
    parts = low.split(pieces)
    for number, part in enumerate(parts):
        pending, new = upsample_next(upsampling, pending, part, key=KEY, is_last=number == len(parts) - 1)
        frames.append(new)
        if folder is not None and pending:
            save_file({k: v.contiguous().clone() for k, v in pending.items()}, folder / "state.safetensors")
            pending = load_file(folder / "state.safetensors")
    assert pending == {}
    return np.concatenate(frames)


@pytest.mark.parametrize("temporal", [True, False])
def test_a_video_has_the_same_bytes_whatever_pieces_it_comes_in(temporal: bool, tmp_path: Path) -> None:
    upsampling, low = model(temporal=temporal), small(15)
    whole = video(upsampling, low, [15])
    assert whole.shape == (15, 16, 32, 3)
    for pieces in ([1] * 15, [2, 0, 11, 1, 1], [15, 0]):
        assert np.array_equal(video(upsampling, low, pieces, tmp_path), whole), pieces


@pytest.mark.parametrize("num_frames", range(1, 12))
def test_all_frames_of_a_video_come_out_whatever_its_length(num_frames: int) -> None:
    upsampling, low = model(), small(num_frames)
    whole = video(upsampling, low, [num_frames])
    assert len(whole) == num_frames
    # each looks like its own small frame: the untrained networks add little to the enlarged ones
    nearest = [np.abs(whole.astype(float) - frame).mean(axis=(1, 2, 3)).argmin() for frame in whole]
    assert nearest == list(range(num_frames))


def test_portions_overlap_and_are_faded_into_one_another() -> None:
    upsampling, low = model(overlap=2), small(8)
    first = upsample_portion(upsampling, low[:4], first_frame=0, key=KEY)
    second = upsample_portion(upsampling, low[2:6], first_frame=2, key=KEY)
    third = upsample_portion(upsampling, low[4:8], first_frame=4, key=KEY)
    expected = torch.cat(
        [
            first[:2],
            (2 * first[2:3] + second[:1]) / 3,
            (first[3:] + 2 * second[1:2]) / 3,
            (2 * second[2:3] + third[:1]) / 3,
            (second[3:] + 2 * third[1:2]) / 3,
            third[2:],
        ]
    )
    assert not torch.allclose(first[2], second[0], atol=1e-3)  # or fading would show nothing
    made = video(upsampling, low, [8])
    wanted = upsampling.pictures(expected, first_frame=0)
    assert np.abs(made.astype(int) - wanted).max() <= 1  # the sum in another order


def test_the_last_portion_is_whole_where_the_video_is_long_enough() -> None:
    upsampling, low = model(), small(9)
    made = video(upsampling, low, [9])  # portions of frames 0-3, 3-6, and 5-8 instead of 6-8
    last = upsample_portion(upsampling, low[5:], first_frame=5, key=KEY)
    assert np.array_equal(made[7:], upsampling.pictures(last, first_frame=5)[2:])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_frame_has_the_same_noise_in_every_portion(eta: float) -> None:
    upsampling, low = model(eta=eta, alpha=1.0), small(6)  # alpha 1: frames do not see one another
    first = upsample_portion(upsampling, low[:4], first_frame=0, key=KEY)
    second = upsample_portion(upsampling, low[2:], first_frame=2, key=KEY)
    torch.testing.assert_close(first[2:], second[:2], rtol=1e-4, atol=1e-5)
    shifted = upsample_portion(upsampling, low[2:], first_frame=3, key=KEY)
    assert not torch.allclose(second, shifted, atol=1e-2)
    other = upsample_portion(upsampling, low[2:], first_frame=2, key=(7, "start", 1))
    assert not torch.allclose(second, other, atol=1e-2)


def test_other_sizes_than_that_of_training_are_upsampled_and_sizes_that_do_not_divide_are_refused() -> None:
    upsampling = model()
    made = upsample_portion(upsampling, small(2, (12, 10)), first_frame=0, key=KEY)
    assert upsampling.pictures(made, first_frame=0).shape == (2, 24, 20, 3)
    with pytest.raises(ValueError, match=r"pictures of \[8, 15\] .* cannot be halved 1 times"):
        upsample_next(upsampling, {}, small(4, (8, 15)), key=KEY, is_last=True)


def test_the_middle_of_a_piece_is_what_the_whole_picture_has_there() -> None:
    upsampling = model(temporal=False)
    for module in upsampling.networks.unet.modules():  # statistics and attention see the whole picture
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    upsampling.networks.unet.mid_block.attentions[0].forward = lambda x, **_: (x,)
    low = small(1, (8, 200))
    noisy = torch.randn(1, 1, 12, 8, 200, generator=torch.Generator().manual_seed(0))
    step, level = torch.tensor([500]), torch.tensor([20])
    whole = upsampling.networks(noisy, step, low[None], level)[0, 0]
    piece = upsampling.networks(noisy[..., 40:160], step, low[None, ..., 40:160], level)[0, 0]
    torch.testing.assert_close(piece[..., 50:70], whole[..., 90:110], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(piece[..., :4], whole[..., 40:44], atol=1e-3)  # nearer to its border it is not


def test_without_temporal_layers_a_frame_depends_on_itself_alone() -> None:
    upsampling, low = model(temporal=False), small(6)
    changed = low.clone()
    changed[4] = -changed[4]
    before, after = video(upsampling, low, [6]), video(upsampling, changed, [6])
    assert np.array_equal(np.delete(before, 4, axis=0), np.delete(after, 4, axis=0))
    assert not np.array_equal(before[4], after[4])


def test_frames_that_are_not_finite_are_named() -> None:
    upsampling, low = model(temporal=False), small(14)
    low[10, 0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match=r"upsampling: frame 10 \(at 0.33 s\) is not finite"):
        video(upsampling, low, [14])


def parts_and_index() -> tuple[dict[str, object], dict[str, object]]:
    networks = model().networks
    assert networks.video_unet is not None
    parts = {
        "upsampler": networks.unet,
        "upsampler_temporal": networks.video_unet.temporal,
        "upsampler_scheduler": training_schedule(SCHEDULE, ends_clean=True),
    }
    index = {
        "name": "tiny",
        "fps": 2.0,
        "rates": [8.0, 32.0],
        "upsampler": {"scale": 2, "patch_px": 2, "detail_gain": 4.0, "noise_level": 20},
        "upsampler_temporal": {"portion": PORTION, "overlap": OVERLAP},
        "upsample_sampling": {"sampler": "ddim", "steps": 2, "eta": 0.0, "guidance": 1.0},
    }
    return parts, index


def test_the_upsampler_of_a_model_folder_runs_as_its_index_says_or_frame_by_frame() -> None:
    parts, index = parts_and_index()
    low = small(9)
    upsampling = UpsamplingModel.from_parts(parts, index)
    assert (upsampling.portion, upsampling.overlap, upsampling.fps) == (PORTION, OVERLAP, 32.0)
    assert np.array_equal(video(upsampling, low, [9]), video(model(), low, [9]))
    alone = UpsamplingModel.from_parts(parts, index, frame_by_frame=True)
    assert np.array_equal(video(alone, low, [9]), video(model(temporal=False), low, [9]))
    parts.pop("upsampler_temporal")
    assert UpsamplingModel.from_parts(parts, index).overlap == 0


@pytest.mark.parametrize(
    ("key", "change", "complaint"),
    [
        ("upsampler", {"patch_px": 4}, "patch_px: 4 in the index, 2 in the parts"),
        ("upsampler", {"noise_level": 1000}, "noise_level=1000, expected a diffusion step from 0 to 999"),
        ("upsampler", {"scale": 3}, "patch_px=2 for scale=3; valid: 1, 3"),
        ("upsampler_temporal", {"portion": 8}, "frames of a portion: 8 in the index, 4 in the parts"),
        ("upsampler_temporal", {"overlap": 3}, "overlap=3 of a portion of 4; at most half"),
        ("upsample_sampling", {"sampler": "dmid"}, "upsample_sampling in .*: unknown sampler 'dmid'; valid: ddim"),
    ],
)
def test_an_index_that_does_not_fit_the_parts_is_refused(key: str, change: dict[str, object], complaint: str) -> None:
    parts, index = parts_and_index()
    index[key] = {**index[key], **change}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=complaint):
        UpsamplingModel.from_parts(parts, index)


def test_a_model_without_an_upsampler_or_without_a_fact_of_it_says_so() -> None:
    with pytest.raises(ValueError, match="model 'tiny' has no upsampler"):
        UpsamplingModel.from_parts({}, {"name": "tiny"})
    with pytest.raises(ValueError, match=r"upsampler in model_index\.json: missing keys noise_level, scale"):
        UpsamplingModel.from_parts({}, {"name": "tiny", "upsampler": {"patch_px": 4, "detail_gain": None}})


def test_a_flat_small_frame_with_an_untrained_network_stays_near_itself() -> None:
    upsampling = model()
    low = torch.full((PORTION, 3, 8, 16), 0.5)
    made = upsample_portion(upsampling, low, first_frame=0, key=KEY)
    rest = (upsampling.networks.unfolded(made) - enlarged(low, 2)) * 4.0
    assert torch.isfinite(rest).all()
    assert rest.abs().mean() < 4.0
