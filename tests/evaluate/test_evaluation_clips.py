"""Videos of any maker become clips by timestamps; what cannot be read says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from drivesim.core.picture import save_png
from drivesim.core.video import Picture
from drivesim.core.video_writing import VideoWriter
from drivesim.data.sampling import nearest_frames
from drivesim.evaluate.clips import ClipCutter, fit, iter_clips, resample
from drivesim.evaluate.protocol import ClipChoice, Crop, ProtocolConfig, ResizeFilter
from drivesim.evaluate.videos import Video, as_videos, find_videos

Frames = NDArray[np.uint8]
Kernel = Callable[[float], float]


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


def test_pixels_are_made_of_the_pictures_that_are_wanted_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Video(name="v", path=write_mp4(tmp_path / "v.mp4", counting(41), 20.0))
    made: list[int] = []
    pixels = Picture.pixels
    monkeypatch.setattr(Picture, "pixels", lambda picture: made.append(1) or pixels(picture))
    assert clips_of(video, num_frames=4, fps=4.0) == [[0, 5, 10, 15], [20, 25, 30, 35]]
    assert len(made) == 9  # of 41: two seconds and the last frame


def test_uneven_timestamps_give_the_nearest_frames() -> None:
    times = [0.0, 0.1, 0.24, 0.3, 0.52, 0.7, 0.76]
    timed = ((time, Picture(counting(7)[k])) for k, time in enumerate(times))
    assert [round(float(frame.mean()) / 4) for frame in resample(timed, 4.0, "v")] == [0, 2, 4, 6]


@pytest.mark.parametrize(("native", "wanted"), [(30, 12), (30, 20), (12, 8), (15, 10), (24, 16), (25, 10), (60, 24)])
def test_half_way_between_two_frames_the_earlier_one_is_taken_as_data_sources_do(native: int, wanted: int) -> None:
    times_s = np.arange(60) / native
    pictures = ((float(time_s), Picture(np.full((1, 1, 3), k, np.uint8))) for k, time_s in enumerate(times_s))
    taken = [int(frame[0, 0, 0]) for frame in resample(pictures, float(wanted), "v")]
    index, _ = nearest_frames(times_s, np.arange(len(taken)) / wanted)
    assert taken == index.tolist()
    assert len(taken) in (60 * wanted // native, -(-60 * wanted // native))


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


def by_hand(picture: Frames, size_hw: tuple[int, int], kernel: Kernel, antialias: bool) -> NDArray[np.float64]:
    """Separable resampling with half-pixel centres, written out; 8 bits between the passes, columns first."""
    result = picture.astype(np.float64)
    for axis, size in ((1, size_hw[1]), (0, size_hw[0])):
        scale = picture.shape[axis] / size
        width = max(scale, 1.0) if antialias else 1.0
        matrix = np.zeros((size, picture.shape[axis]))
        for out in range(size):
            centre = (out + 0.5) * scale - 0.5
            for source in range(-8 * int(np.ceil(width)), picture.shape[axis] + 8 * int(np.ceil(width))):
                weight = kernel((source - centre) / width)
                if antialias and not 0 <= source < picture.shape[axis]:
                    continue  # Pillow leaves out what lies beyond the edge, OpenCV repeats the edge
                matrix[out, min(max(source, 0), picture.shape[axis] - 1)] += weight
        matrix /= matrix.sum(axis=1, keepdims=True)
        result = np.tensordot(matrix, result, axes=(1, axis))
        result = np.clip(np.moveaxis(result, 0, axis), 0, 255)
    return result


def triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


def cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


RESIZES = {
    ResizeFilter.BILINEAR: (triangle, False),
    ResizeFilter.BILINEAR_ANTIALIAS: (triangle, True),
    ResizeFilter.BICUBIC_ANTIALIAS: (cubic, True),
}


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size_hw", [(9, 14), (40, 60)])
def test_squashed_pictures_are_those_of_the_formula(resize: ResizeFilter, size_hw: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, size=(27, 40, 3), dtype=np.uint8)
    found = fit(picture, size_hw, ProtocolConfig(crop=Crop.NONE, resize=resize))
    expected = by_hand(picture, size_hw, *RESIZES[resize])
    assert np.abs(found - expected).max() <= 1.1  # two passes round to 8 bits, the second with weights above 1


def test_antialias_averages_what_plain_bilinear_skips() -> None:
    stripes = np.zeros((32, 64, 3), dtype=np.uint8)
    stripes[:, ::8] = 240
    spread = {resize: fit(stripes, (4, 8), ProtocolConfig(crop=Crop.NONE, resize=resize)).mean() for resize in RESIZES}
    assert spread[ResizeFilter.BILINEAR_ANTIALIAS] == pytest.approx(30, abs=2)
    assert spread[ResizeFilter.BICUBIC_ANTIALIAS] == pytest.approx(30, abs=3)
    assert spread[ResizeFilter.BILINEAR] == 0  # pixels 3 and 4 of each 8 alone


def test_short_side_and_centre_crop_cut_the_same_middle_as_by_hand() -> None:
    picture = np.random.default_rng(1).integers(0, 256, size=(30, 50, 3), dtype=np.uint8)
    config = ProtocolConfig(crop=Crop.AFTER_CENTRE, resize=ResizeFilter.BILINEAR)
    whole = by_hand(picture, (20, 34), triangle, antialias=False)  # 50 * 20 / 30 = 33.3, rounded up
    assert np.abs(fit(picture, (20, 20), config) - whole[:, 7:27]).max() <= 1.01
    tall = np.ascontiguousarray(picture.transpose(1, 0, 2))
    whole = by_hand(tall, (34, 20), triangle, antialias=False)
    assert np.abs(fit(tall, (20, 20), config) - whole[7:27]).max() <= 1.01


def test_magicdrives_bottom_crop_keeps_the_lowest_rows_of_the_middle_columns() -> None:
    picture = np.random.default_rng(2).integers(0, 256, size=(90, 160, 3), dtype=np.uint8)
    config = ProtocolConfig(crop=Crop.AFTER_BOTTOM, resize=ResizeFilter.BICUBIC_ANTIALIAS, resize_hw=(23, 40))
    whole = by_hand(picture, (23, 40), cubic, antialias=True)
    assert np.abs(fit(picture, (22, 22), config) - whole[1:, 9:31]).max() <= 1.01


def test_a_size_before_the_crop_has_to_make_sense() -> None:
    with pytest.raises(ValueError, match="protocol.resize_hw is for protocol.crop AFTER_CENTRE, AFTER_BOTTOM"):
        ProtocolConfig(resize_hw=(10, 10))
    with pytest.raises(ValueError, match="smaller than protocol.size_hw"):
        ProtocolConfig(crop=Crop.AFTER_CENTRE, size_hw=(20, 20), resize_hw=(20, 19))


def test_random_clips_start_anywhere_and_always_in_the_same_place() -> None:
    settings = {"num_frames": 3, "clip_choice": ClipChoice.RANDOM}
    starts = []
    for index in range(200):
        video = Video(name=f"v{index}", frames=counting(8))
        ((first, second, third),) = clips_of(video, **settings)
        assert (second, third) == (first + 1, first + 2)
        starts.append(first)
    assert clips_of(video, **settings) == [[first, second, third]]
    counts = np.bincount(starts, minlength=6)
    assert len(counts) == 6 and counts.min() > 15  # 33 expected


def test_a_clip_knows_its_first_frame() -> None:
    cutter = ClipCutter(ProtocolConfig(num_frames=3), (16, 32), "v", skip_frames=2)
    clips = [clip for index, frame in enumerate(counting(8)) for clip in cutter.push(float(index), Picture(frame))]
    assert [(start, numbers(clip)[0]) for start, clip in [*clips, *cutter.finish()]] == [(2, 2), (5, 5)]


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_frames", 0), ("frame_stride", 0), ("spacing_frames", 0), ("max_clips", 0), ("fps", 0.0),
        ("untimed_fps", -1.0), ("root_eps", 0.0), ("size_hw", (0, 0)), ("size_hw", (224, -1)), ("extractors", []),
        ("context_frames", -1),
    ],
)  # fmt: skip
def test_protocol_without_meaning_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"protocol.{field} is"):
        ProtocolConfig(**{field: value})  # type: ignore[arg-type]


def test_lvdm_cuts_63_of_256_grey_levels_off() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    cutter = ClipCutter(ProtocolConfig(num_frames=1), (16, 16), "v", truncates=True)
    ((_, clip),) = cutter.push(0.0, Picture(frames[0]))
    lowered = frames.astype(int) - clip
    assert set(np.unique(lowered)) == {0, 1} and (lowered[..., 0] == 1).sum() == 63


@pytest.mark.parametrize("damage", ["a member", "the rate"])
def test_a_damaged_array_file_is_a_cause_and_no_crash(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "video.npz"
    np.savez_compressed(path, video=counting(9), fps=np.array([4.0, 5.0] if damage == "the rate" else 4.0))
    if damage == "a member":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    (video,) = find_videos(tmp_path)
    with pytest.raises(ValueError, match="video.npz: cannot be read as a video"):
        list(video.timed_frames(4.0))
