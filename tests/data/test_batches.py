"""Training items and batches: keyed by number, padded, mirrored, and told apart when unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.core.boxes import MAX_BOXES, Boxes2D
from drivesim.data import NuScenesConfig, NuScenesSource, VideoFolderConfig, VideoFolderSource
from drivesim.data.batches import CropConfig, FrameDataset, LatentClipDataset, collate
from drivesim.data.conditions import nearest_boxes
from drivesim.data.frames import FrameCache, cache_frames
from drivesim.data.latents import LatentCache, cache_latents


def encode(frames_THWC) -> torch.Tensor:
    return torch.from_numpy(frames_THWC[:, ::8, ::8]).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def frame_cache(tables, tmp_path: Path) -> FrameCache:
    tables.write()
    source = NuScenesSource(NuScenesConfig(root=str(tables.root), version="v1.0-handmade", val_share=0.0))
    return cache_frames(source, "train", (40, 80), 10.0, tmp_path)


@pytest.fixture
def latent_cache(frame_cache: FrameCache, tmp_path: Path) -> LatentCache:
    return cache_latents(frame_cache, encode, "every eighth pixel", tmp_path)


def _assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_an_item_depends_on_seed_and_number_alone(latent_cache: LatentCache) -> None:
    data = LatentClipDataset(latent_cache, seed=5, num_frames=3, rates=[5.0])
    later = LatentClipDataset(latent_cache, seed=5, num_frames=3, rates=[5.0])
    for index in (1000, 3, 0):
        _assert_same(data[index], later[index])
    chosen = {(drive, int(frames[0])) for drive, frames, _ in (data.where(i) for i in range(400))}
    assert len(chosen) == len(data) == 2 * 9  # every place occurs
    other = LatentClipDataset(latent_cache, seed=6, num_frames=3, rates=[5.0])
    assert [str(data.where(i)) for i in range(20)] != [str(other.where(i)) for i in range(20)]


def test_a_clip_says_how_the_car_came_to_each_frame(latent_cache: LatentCache) -> None:
    data = LatentClipDataset(latent_cache, seed=0, num_frames=3, rates=[5.0])
    for index in range(12):
        _, frames, _ = data.where(index)
        first = int(frames[0])
        motion_T2 = data[index]["motion_T2"].numpy()
        # Every tenth of a second 0.8 m ahead, 0.1 m to the left and 0.02 rad, in the drive's first direction.
        yaw = 0.02 * (first + 2 * np.arange(3) - 1)
        wanted = np.stack([8 * np.cos(yaw) + np.sin(yaw), np.full(3, 0.2)], axis=1)
        wanted[: 1 if first < 2 else 0] = np.nan  # where the car was before, nobody knows
        np.testing.assert_allclose(motion_T2, wanted, rtol=1e-4)
    batch = collate([data[0], data[1]])
    assert batch["motion_BT2"].shape == (2, 3, 2)


def test_how_the_car_came_out_of_a_gap_is_unknown(latent_cache: LatentCache) -> None:
    conditions = latent_cache.conditions["lane-day"]
    whole = replace(conditions, ego_path_T3=np.stack([np.arange(len(conditions)), *np.zeros((2, len(conditions)))], 1))
    gap = replace(whole, valid_T=np.arange(len(whole)) != 3)
    frames = np.array([5, 7, 9])
    assert np.isfinite(whole.motion_at(frames, 0.2)).all()
    assert np.isnan(gap.motion_at(frames, 0.2)).tolist() == [[True, True], [False, False], [False, False]]


def test_a_clip_holds_the_latents_and_boxes_of_its_frames(latent_cache: LatentCache, frame_cache: FrameCache) -> None:
    data = LatentClipDataset(latent_cache, seed=0, num_frames=3, rates=[5.0])
    for index in range(5):
        drive, frames, _ = data.where(index)
        np.testing.assert_array_equal(np.diff(frames), [2, 2])
        item = data[index]
        expected = encode(frame_cache.read(drive, frames)).half().float()
        assert torch.equal(item["latents_TCHW"], expected)
        assert torch.equal(item["boxes_TN4"], torch.from_numpy(frame_cache.conditions[drive].at(frames)[0]))
        assert int(item["is_night"]) == int(drive == "lane-dark")


def test_clips_of_several_rates_come_alike_often_and_say_their_rate(latent_cache: LatentCache) -> None:
    data = LatentClipDataset(latent_cache, seed=0, num_frames=3, rates=[2.5, 5.0])
    steps = {0: 4, 1: 2}  # frames of the cache, which holds 10 a second
    items = [data.where(index) for index in range(200)]
    for index, (_, frames, rate) in enumerate(items[:20]):
        assert np.diff(frames).tolist() == [steps[rate]] * 2
        assert int(data[index]["rate"]) == rate
    assert 70 < sum(rate for _, _, rate in items) < 130
    batch = collate([data[index] for index in range(4)])
    assert batch["rate_B"].tolist() == [rate for _, _, rate in items[:4]]


def test_frames_that_cannot_be_read_are_never_chosen(latent_cache: LatentCache) -> None:
    latent_cache.conditions["lane-day"].valid_T[6] = False
    data = LatentClipDataset(latent_cache, seed=0, num_frames=4)
    for index in range(300):
        drive, frames, _ = data.where(index)
        assert drive != "lane-day" or 6 not in frames


def test_a_mirrored_picture_has_mirrored_boxes(frame_cache: FrameCache) -> None:
    data = FrameDataset(frame_cache, seed=0)
    flips = {bool(data.where(i)[2]): i for i in range(40)}
    assert set(flips) == {False, True}
    drive, frames, _ = data.where(flips[True])
    picture = torch.from_numpy(frame_cache.read(drive, frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    boxes = torch.from_numpy(frame_cache.conditions[drive].at(frames)[0])
    item = data[flips[True]]
    assert torch.equal(item["frames_TCHW"], picture.flip(-1))
    torch.testing.assert_close(item["boxes_TN4"][..., 0], 1 - boxes[..., 2])
    torch.testing.assert_close(item["boxes_TN4"][..., [1, 3]], boxes[..., [1, 3]])
    assert (item["boxes_TN4"][..., 2] > item["boxes_TN4"][..., 0]).all()
    assert not any(FrameDataset(frame_cache, seed=0, flip=False).where(i)[2] for i in range(40))


def test_pieces_of_pictures_are_pieces_and_their_boxes_follow(frame_cache: FrameCache) -> None:
    whole = FrameDataset(frame_cache, seed=0, flip=False)
    data = FrameDataset(frame_cache, seed=0, flip=False, crop=CropConfig(size_hw=[20, 24], on_boxes=1.0))
    seen = 0
    for index in range(20):
        item, full = data[index], whole[index]
        assert item["frames_TCHW"].shape == (1, 3, 20, 24)
        corners = full["frames_TCHW"].unfold(2, 20, 1).unfold(3, 24, 1)  # 1 3 top left h w
        equal = (corners == item["frames_TCHW"][:, :, None, None]).all(dim=-1).all(dim=-1).all(dim=1)[0]
        assert equal.any()
        is_box = item["classes_TN"][0] != -1
        assert is_box.any()  # a piece around a box shows it
        top, left = (int(v) for v in equal.nonzero()[0])
        if int(equal.sum()) == 1:  # else the picture repeats itself and the corner is not certain
            boxes = full["boxes_TN4"][0][is_box] * torch.tensor([80, 40, 80, 40]) - torch.tensor([left, top, left, top])
            wanted = (boxes / torch.tensor([24, 20, 24, 20])).clamp(0, 1)
            torch.testing.assert_close(item["boxes_TN4"][0][is_box], wanted)
            seen += 1
        assert (item["boxes_TN4"][0][~is_box] == 0).all()
        assert int(item["num_cars_T"][0]) == -1
    assert seen > 5


def test_pieces_larger_than_the_pictures_are_refused(frame_cache: FrameCache) -> None:
    with pytest.raises(ValueError, match=r"crop.size_hw=\[41, 80\] is larger than the pictures, \[40, 80\]"):
        FrameDataset(frame_cache, seed=0, crop=CropConfig(size_hw=[41, 80]))
    with pytest.raises(ValueError, match="expected .height, width. in pixels"):
        CropConfig(size_hw=[32])


def test_pieces_on_a_grid_lie_on_it_and_reach_every_place(frame_cache: FrameCache) -> None:
    crop = CropConfig(size_hw=[32, 56], on_boxes=0.5)
    whole = FrameDataset(frame_cache, seed=0, flip=True)
    data = FrameDataset(frame_cache, seed=0, flip=True, crop=crop, align_px=8)
    corners = set()
    for index in range(60):
        piece, full = data[index]["frames_TCHW"], whole[index]["frames_TCHW"]
        on_grid = full.unfold(2, 32, 8).unfold(3, 56, 8)  # 1 3 top left h w
        equal = (on_grid == piece[:, :, None, None]).flatten(4).all(dim=-1).all(dim=1)[0]
        assert equal.any()
        corners.add(tuple(equal.nonzero()[0].tolist()))
    assert corners == {(top, left) for top in range(2) for left in range(4)}


def test_sizes_that_the_grid_does_not_divide_are_refused(frame_cache: FrameCache) -> None:
    with pytest.raises(ValueError, match=r"crop.size_hw \[16, 20\] .*both must divide by 8 pixels"):
        FrameDataset(frame_cache, seed=0, crop=CropConfig(size_hw=[16, 20]), align_px=8)
    with pytest.raises(ValueError, match=r"pictures of \[40, 80\] .*both must divide by 16 pixels"):
        FrameDataset(frame_cache, seed=0, align_px=16)


def test_a_batch_is_padded_to_its_largest_count(frame_cache: FrameCache) -> None:
    counts = np.diff(frame_cache.conditions["lane-day"].offsets)
    assert counts.min() < counts.max()  # or this test would show nothing
    data = FrameDataset(frame_cache, seed=0, num_frames=2)
    items = [data[i] for i in range(16)]
    batch = collate(items)
    most = max(item["classes_TN"].shape[1] for item in items)
    assert batch["frames_BTCHW"].shape == (16, 2, 3, 40, 80)
    assert -1 <= float(batch["frames_BTCHW"].min()) < 0 < float(batch["frames_BTCHW"].max()) <= 1
    assert batch["boxes_BTN4"].shape == (16, 2, most, 4)
    assert batch["boxes_BTN4"].dtype == torch.float32
    assert batch["classes_BTN"].dtype == torch.int64
    padding = batch["classes_BTN"] == -1
    assert padding.any()
    assert (batch["boxes_BTN4"][padding] == 0).all()
    assert batch["num_cars_BT"].shape == (16, 2)
    assert batch["has_boxes_B"].all()
    assert set(batch) == {"frames_BTCHW", "boxes_BTN4", "classes_BTN", "num_cars_BT", "is_night_B", "has_boxes_B"}


def test_unknown_is_not_none(make_video, tmp_path: Path) -> None:
    path = make_video("a.mp4", [50 * k for k in range(40)])
    frames = cache_frames(VideoFolderSource(VideoFolderConfig(root=str(path.parent))), "train", (32, 64), 4.0, tmp_path)
    data = LatentClipDataset(cache_latents(frames, encode, "e", tmp_path), seed=0, num_frames=3)
    batch = collate([data[0], data[1]])
    assert batch["latents_BTCHW"].shape == (2, 3, 3, 4, 8)
    assert batch["boxes_BTN4"].shape == (2, 3, 0, 4)
    assert batch["classes_BTN"].shape == (2, 3, 0)
    assert not batch["has_boxes_B"].any()
    assert (batch["num_cars_BT"] == -1).all()
    assert (batch["is_night_B"] == -1).all()


def test_of_too_many_boxes_the_nearest_stay() -> None:
    rng = np.random.default_rng(0)
    depth_m = rng.permutation(np.arange(200.0))
    corner = rng.uniform(0, 10, (200, 2))
    boxes = Boxes2D(
        xyxy_px=np.concatenate([corner, corner + 1 + np.arange(200)[:, None]], axis=1),
        class_ids=np.zeros(200, dtype=np.int64),
        depth_m=depth_m,
        visibility=np.ones(200),
    )
    np.testing.assert_array_equal(depth_m[nearest_boxes(boxes)], np.arange(MAX_BOXES))
    boxes.depth_m = np.full(200, np.nan)
    np.testing.assert_array_equal(nearest_boxes(boxes), np.arange(199, 199 - MAX_BOXES, -1))


def test_rates_and_lengths_that_the_cache_does_not_hold_are_refused(latent_cache: LatentCache) -> None:
    with pytest.raises(ValueError, match="4 fps wanted of a cache at 10; valid are 10, 5"):
        LatentClipDataset(latent_cache, seed=0, num_frames=2, rates=[4.0])
    with pytest.raises(ValueError, match="no drive holds 20 frames at 10 fps"):
        LatentClipDataset(latent_cache, seed=0, num_frames=20)
