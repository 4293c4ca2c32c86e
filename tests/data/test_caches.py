"""Caches of frames and latents: what is in them, and that a kill changes nothing."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from drivesim.core.camera import project_boxes
from drivesim.data import NuScenesConfig, NuScenesSource, ProblemKind, VideoFolderConfig, VideoFolderSource
from drivesim.data.frames import cache_frames
from drivesim.data.latents import cache_latents

SIZE_HW = (32, 64)


def encode(frames_THWC) -> Tensor:
    """Eightfold means: an encoder that can be checked by hand."""
    return avg_pool2d(torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float() / 127.5 - 1, 8)


def contents(folder: Path) -> dict[str, str]:
    """Checksums of all files."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def three_videos(make_video) -> VideoFolderConfig:
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        path = make_video(name, [50 * k for k in range(60)], seed=seed)
    return VideoFolderConfig(root=str(path.parent), val_share=0.0)


class StopsAt(VideoFolderSource):
    """A source that is killed when it comes to b.mp4."""

    def read(self, drive: str, **wanted):
        if drive == "b.mp4":
            raise KeyboardInterrupt
        return super().read(drive, **wanted)


def test_cached_frames_are_the_sources_frames(three_videos, tmp_path: Path) -> None:
    source = VideoFolderSource(three_videos)
    cache = cache_frames(source, "train", SIZE_HW, 4.0, tmp_path)
    assert list(cache.conditions) == ["a.mp4", "b.mp4", "c.mp4"]
    assert [len(c) for c in cache.conditions.values()] == [12, 12, 12]
    clip = source.read("b.mp4", start_s=1.0, num_frames=3, fps=4, size_hw=SIZE_HW)
    np.testing.assert_array_equal(cache.read("b.mp4", np.array([4, 5, 6])), clip.frames_THWC)
    assert not cache.conditions["b.mp4"].has_boxes


def test_a_process_that_does_not_build_waits_for_the_one_that_does(three_videos, tmp_path: Path) -> None:
    def never(frames_THWC) -> Tensor:
        raise AssertionError("encoded twice")

    def build() -> None:
        cache_latents(cache_frames(source, "train", SIZE_HW, 4.0, tmp_path), encode, "mean", tmp_path)

    source = VideoFolderSource(three_videos)
    first = threading.Timer(0.5, build)
    first.start()
    frames = cache_frames(StopsAt(three_videos), "train", SIZE_HW, 4.0, tmp_path, builds=False)
    latents = cache_latents(frames, never, "mean", tmp_path, builds=False)
    first.join()
    assert list(latents.conditions) == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_killed_cache_goes_on_to_the_same_bytes(three_videos, tmp_path: Path) -> None:
    whole = cache_frames(VideoFolderSource(three_videos), "train", SIZE_HW, 4.0, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        cache_frames(StopsAt(three_videos), "train", SIZE_HW, 4.0, tmp_path / "killed")
    resumed = cache_frames(VideoFolderSource(three_videos), "train", SIZE_HW, 4.0, tmp_path / "killed")
    assert contents(resumed.folder) == contents(whole.folder)

    calls = []

    def killed_encode(frames_THWC) -> Tensor:
        calls.append(len(frames_THWC))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(frames_THWC)

    latents = cache_latents(whole, encode, "mean", tmp_path / "latents", batch=5)
    with pytest.raises(KeyboardInterrupt):
        cache_latents(whole, killed_encode, "mean", tmp_path / "killed-latents", batch=5)
    resumed_latents = cache_latents(whole, encode, "mean", tmp_path / "killed-latents", batch=7)
    assert contents(resumed_latents.folder) == contents(latents.folder)


def test_a_finished_cache_is_opened_not_made_again(three_videos, tmp_path: Path) -> None:
    first = cache_frames(VideoFolderSource(three_videos), "train", SIZE_HW, 4.0, tmp_path)
    again = cache_frames(StopsAt(three_videos), "train", SIZE_HW, 4.0, tmp_path)
    assert again.folder == first.folder
    other = cache_frames(VideoFolderSource(three_videos), "train", SIZE_HW, 5.0, tmp_path)
    assert other.folder != first.folder

    def never(frames_THWC) -> Tensor:
        raise AssertionError("encoded again")

    latents = cache_latents(first, encode, "mean", tmp_path)
    assert cache_latents(first, never, "mean", tmp_path).folder == latents.folder
    with pytest.raises(AssertionError):
        cache_latents(first, never, "other weights", tmp_path)


def test_latents_are_what_the_encoder_makes_in_half_precision(three_videos, tmp_path: Path) -> None:
    frames = cache_frames(VideoFolderSource(three_videos), "train", SIZE_HW, 4.0, tmp_path)
    latents = cache_latents(frames, encode, "mean", tmp_path, batch=5)
    assert latents.shape_CHW == (3, 4, 8)
    numbers = np.array([3, 5, 7, 9])
    expected = encode(frames.read("c.mp4", numbers)).half().float()
    torch.testing.assert_close(latents.read("c.mp4", numbers), expected, rtol=0, atol=0)


def test_an_encoder_that_overflows_half_precision_is_refused(three_videos, tmp_path: Path) -> None:
    frames = cache_frames(VideoFolderSource(three_videos), "train", SIZE_HW, 4.0, tmp_path)
    with pytest.raises(ValueError, match=r"a\.mp4.*not finite"):
        cache_latents(frames, lambda f: encode(f) * 1e6, "loud", tmp_path)


def test_times_in_a_gap_and_slow_drives_are_left_out_with_a_reason(make_video, tmp_path: Path) -> None:
    gap = [50 * k for k in range(20)] + [50 * k + 1000 for k in range(20, 40)]
    make_video("gap.mp4", gap, seed=1)
    path = make_video("slow.mp4", [500 * k for k in range(6)], seed=2)
    source = VideoFolderSource(VideoFolderConfig(root=str(path.parent), val_share=0.0))
    cache = cache_frames(source, "train", SIZE_HW, 5.0, tmp_path)
    assert list(cache.conditions) == ["gap.mp4"]
    valid = cache.conditions["gap.mp4"].valid_T
    np.testing.assert_array_equal(np.flatnonzero(~valid), [6, 7, 8, 9])  # 1.2 s to 1.8 s
    (problem,) = cache.problems
    assert (problem.where, problem.kind) == ("slow.mp4", ProblemKind.WRONG_RATE)
    with pytest.raises(ValueError, match=r"none of the 2 drives in split 'train' can be used.*recorded at 2"):
        cache_frames(source, "train", SIZE_HW, 30.0, tmp_path)


def test_conditions_of_tables_are_shares_of_the_picture_nearest_first(tables, tmp_path: Path) -> None:
    tables.write()
    broken = tables.root / "sweeps/CAM_FRONT/lane-dark-005.png"
    broken.write_bytes(broken.read_bytes()[:200])
    source = NuScenesSource(NuScenesConfig(root=str(tables.root), version="v1.0-handmade", val_share=0.0))
    cache = cache_frames(source, "train", (40, 80), 10.0, tmp_path)
    day, dark = cache.conditions["lane-day"], cache.conditions["lane-dark"]
    assert (day.is_night, dark.is_night) == (0, 1)
    assert day.has_boxes
    np.testing.assert_array_equal(np.flatnonzero(~dark.valid_T), [5])
    clip = source.read("lane-day", start_s=0.3, num_frames=1, fps=10, size_hw=(40, 80))
    boxes, classes = day.at(np.array([3]))
    order = np.argsort(clip.boxes[0].depth_m)
    np.testing.assert_allclose(boxes[0], clip.boxes[0].xyxy_px[order] / [80, 40, 80, 40], atol=1e-6)
    np.testing.assert_array_equal(classes[0], clip.boxes[0].class_ids[order])
    assert day.num_cars_T[3] == clip.num_cars()[0]
    _, seen = project_boxes(source.boxes_in_camera("d-lane-day-3"), clip.camera)
    assert len(boxes[0]) == len(seen)
