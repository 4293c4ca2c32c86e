"""Videos of any maker become clips by timestamps; what cannot be read says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from drivesim.core.picture import save_png
from drivesim.core.video import VideoWriter
from drivesim.evaluate.clips import fit, iter_clips, resample
from drivesim.evaluate.protocol import ClipChoice, Crop, ProtocolConfig, ResizeFilter
from drivesim.evaluate.videos import Video, as_videos, find_videos

Frames = NDArray[np.uint8]


def counting(num_frames: int, size_hw: tuple[int, int] = (16, 32)) -> Frames:
    """Frame k is grey with value 4 k, so that a frame tells its number even after H.264."""
    return np.stack([np.full((*size_hw, 3), 4 * k, dtype=np.uint8) for k in range(num_frames)])


def numbers(frames: Frames) -> list[int]:
    return [round(float(frame.mean()) / 4) for frame in frames]


def write_mp4(path: Path, frames: Frames, fps: float) -> Path:
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def clips_of(video: Video, **settings: object) -> list[list[int]]:
    config = ProtocolConfig(**settings)  # type: ignore[arg-type]
    return [numbers(clip) for clip in iter_clips(video, config, (16, 32))]


def test_every_maker_gives_the_same_clips(tmp_path: Path) -> None:
    frames = counting(12)
    write_mp4(tmp_path / "a" / "video.mp4", frames, 4.0)
    np.save(tmp_path / "a" / "array.npy", frames)
    np.savez(tmp_path / "a" / "array.npz", video=frames, fps=np.array(4.0))
    for index, frame in enumerate(frames):
        save_png(tmp_path / "a" / "pictures" / f"{index}.png", frame)  # 10 sorts after 9
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a" / "moving.gif", save_all=True, append_images=pictures[1:], duration=250)
    _, in_memory = as_videos([frames / 255.0])
    found = {video.name: video for video in [*find_videos(tmp_path / "a"), *in_memory]}
    assert set(found) == {"video.mp4", "array.npy", "array.npz", "pictures", "moving.gif", "video_00000"}
    for name, video in found.items():
        assert clips_of(video, num_frames=5, fps=4.0) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], name


def test_faster_video_is_sampled_by_timestamps(tmp_path: Path) -> None:
    video = Video(name="v", path=write_mp4(tmp_path / "v.mp4", counting(41), 20.0))
    assert clips_of(video, num_frames=4, fps=4.0) == [[0, 5, 10, 15], [20, 25, 30, 35]]


def test_uneven_timestamps_give_the_nearest_frames() -> None:
    times = [0.0, 0.1, 0.24, 0.3, 0.52, 0.7, 0.76]
    timed = ((time, counting(7)[k]) for k, time in enumerate(times))
    assert [round(float(frame.mean()) / 4) for frame in resample(timed, 4.0, "v")] == [0, 2, 4, 6]


def test_slower_video_is_refused_instead_of_repeating_frames() -> None:
    video = Video(name="slow", frames=counting(12), fps=2.0)
    with pytest.raises(ValueError, match="2 frames a second.*asks for 4"):
        clips_of(video, num_frames=4, fps=4.0)


def test_stride_spacing_and_first_clip_follow_the_protocol() -> None:
    video = Video(name="v", frames=counting(12))
    assert clips_of(video, num_frames=3, frame_stride=2, spacing_frames=3) == [[0, 2, 4], [3, 5, 7], [6, 8, 10]]
    assert clips_of(video, num_frames=3, spacing_frames=5) == [[0, 1, 2], [5, 6, 7]]
    assert clips_of(video, num_frames=3, clip_choice=ClipChoice.FIRST) == [[0, 1, 2]]


def test_given_frames_at_the_front_are_left_out() -> None:
    config = ProtocolConfig(num_frames=3)
    clips = list(iter_clips(Video(name="v", frames=counting(8)), config, (16, 32), skip_frames=2))
    assert [numbers(clip) for clip in clips] == [[2, 3, 4], [5, 6, 7]]


def test_too_short_video_says_what_it_would_take() -> None:
    with pytest.raises(ValueError, match="5 frames.*1 are given.*needs 5 more"):
        list(iter_clips(Video(name="v", frames=counting(5)), ProtocolConfig(num_frames=5), (16, 32), skip_frames=1))


def test_frames_of_changing_size_are_refused() -> None:
    frames = [*counting(3), *counting(3, (8, 32))]
    with pytest.raises(ValueError, match="a frame of"):
        list(iter_clips(Video(name="v", frames=frames), ProtocolConfig(num_frames=6), (16, 32)))


def test_nan_frames_and_floats_in_0_to_255_are_refused() -> None:
    for frames, words in ((np.full((9, 16, 32, 3), np.nan), "NaN"), (np.full((9, 16, 32, 3), 99.0), "uint8")):
        with pytest.raises(ValueError, match=words):
            list(iter_clips(Video(name="v", frames=frames), ProtocolConfig(), (16, 32)))


def test_crop_keeps_the_middle_and_squash_keeps_all() -> None:
    frame = np.zeros((40, 40, 3), dtype=np.uint8)
    frame[10:30] = 200
    cropped = fit(frame, (10, 20), ProtocolConfig())
    squashed = fit(frame, (10, 20), ProtocolConfig(crop=Crop.NONE, resize=ResizeFilter.BILINEAR))
    assert (cropped == 200).all()
    assert squashed.mean() == pytest.approx(100, abs=5)


def test_contact_sheet_beside_videos_is_no_video(tmp_path: Path) -> None:
    write_mp4(tmp_path / "run" / "future_000.mp4", counting(4), 4.0)
    save_png(tmp_path / "run" / "contact_sheet.png", counting(1)[0])
    save_png(tmp_path / "run" / "start.png", counting(1)[0])
    assert [video.name for video in find_videos(tmp_path)] == ["run/future_000.mp4"]


def test_folder_of_frames_alone_is_one_video(tmp_path: Path) -> None:
    for index, frame in enumerate(counting(3)):
        save_png(tmp_path / "clip" / f"frame_{index}.png", frame)
    assert [video.name for video in find_videos(tmp_path / "clip")] == ["clip"]


def test_empty_and_absent_folders_name_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=".mp4"):
        find_videos(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_videos(tmp_path / "absent")


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_truncated_file_is_an_error_and_not_a_shorter_video(tmp_path: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, size=(30, 16, 32, 3), dtype=np.uint8)
    path = write_mp4(tmp_path / "v.mp4", frames, 10.0)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="v.mp4"):
        list(iter_clips(Video(name="v", path=path), ProtocolConfig(num_frames=4), (16, 32)))


def test_arrays_that_are_no_video_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((4, 16, 32)))
    np.savez(tmp_path / "two.npz", a=counting(2), b=counting(2))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    for video in find_videos(tmp_path):
        with pytest.raises(ValueError, match=video.name):
            list(video.timed_frames(None))


@pytest.mark.parametrize("field", ["num_frames", "frame_stride", "spacing_frames", "max_clips"])
def test_protocol_without_meaning_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ProtocolConfig(**{field: 0})  # type: ignore[arg-type]
