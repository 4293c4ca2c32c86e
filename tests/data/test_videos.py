"""Video folders: any codec and rate, sampled by time; broken files among good ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.video import read_all
from drivesim.data import ProblemKind, VideoFolderConfig, VideoFolderSource


@pytest.mark.parametrize(("name", "codec", "options"), [
    ("a.mp4", "libx264", {"crf": "12", "g": "10", "bf": "2"}),
    ("a.mkv", "mpeg4", {"b": "2000000"}),
    ("a.ts", "libx264", {"crf": "12", "g": "10"}),
    ("a.webm", "libvpx", {"b": "2000000", "deadline": "realtime"}),
])  # fmt: skip
def test_any_codec_and_container_gives_the_frame_shown_at_each_time(
    make_video, shown_numbers, name, codec, options
) -> None:
    path = make_video(name, [40 * k for k in range(50)], codec=codec, options=options)
    source = VideoFolderSource(VideoFolderConfig(root=str(path.parent)))
    (drive,) = source.drives("train")
    assert drive.fps == pytest.approx(25, rel=0.03)
    assert drive.size_hw == (64, 128)
    clip = source.read(name, start_s=0.4, num_frames=8, fps=5, size_hw=(32, 64))
    assert shown_numbers(clip.frames_THWC) == [10, 15, 20, 25, 30, 35, 40, 45]


def test_a_varying_rate_is_sampled_by_time_not_by_number(make_video, shown_numbers) -> None:
    # 25 fps for a second, then 10 fps, then 50 fps.
    times_ms = [*range(0, 1000, 40), *range(1000, 3000, 100), *range(3000, 4000, 20)]
    path = make_video("uneven.mp4", times_ms)
    source = VideoFolderSource(VideoFolderConfig(root=str(path.parent)))
    clip = source.read("uneven.mp4", start_s=0.0, num_frames=20, fps=5, size_hw=(64, 128))
    wanted_ms = 200 * np.arange(20)
    expected = [int(np.abs(np.array(times_ms) - t).argmin()) for t in wanted_ms]
    assert shown_numbers(clip.frames_THWC) == expected
    np.testing.assert_array_equal(clip.timestamps_us, 1000 * np.array(times_ms)[expected])


def test_times_count_from_the_first_frame(make_video, shown_numbers) -> None:
    path = make_video("late.mp4", [2000 + 50 * k for k in range(40)])
    source = VideoFolderSource(VideoFolderConfig(root=str(path.parent)))
    assert source.timestamps_s("late.mp4")[0] == 0
    clip = source.read("late.mp4", start_s=0.5, num_frames=4, fps=4, size_hw=(64, 128))
    assert shown_numbers(clip.frames_THWC) == [10, 15, 20, 25]


def test_frames_are_cut_in_the_middle_to_the_wanted_shape(make_video) -> None:
    path = make_video("square.mp4", [50 * k for k in range(10)], size_hw=(128, 128))
    source = VideoFolderSource(VideoFolderConfig(root=str(path.parent)))
    clip = source.read("square.mp4", start_s=0, num_frames=1, fps=1, size_hw=(64, 128))
    whole = source.read("square.mp4", start_s=0, num_frames=1, fps=1, size_hw=(128, 128))
    np.testing.assert_array_equal(clip.frames_THWC[0], whole.frames_THWC[0, 32:96])


def test_broken_files_are_problems_and_the_good_ones_are_served(make_video) -> None:
    good = make_video("good.mp4", [50 * k for k in range(40)])
    data = good.read_bytes()
    (good.parent / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    (good.parent / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (good.parent / "empty.mp4").touch()
    (good.parent / "notes.txt").write_text("not a video")
    source = VideoFolderSource(VideoFolderConfig(root=str(good.parent), val_share=0.0))
    assert [drive.name for drive in source.drives("train")] == ["good.mp4"]
    kinds = {problem.where: problem.kind for problem in source.problems()}
    assert kinds == {
        "cut.mp4": ProblemKind.TRUNCATED,
        "noise.mp4": ProblemKind.UNREADABLE,
        "empty.mp4": ProblemKind.UNREADABLE,
    }
    with pytest.raises(ValueError, match=r"no readable video 'cut\.mp4'; there are good\.mp4"):
        source.read("cut.mp4", start_s=0, num_frames=1, fps=1, size_hw=(64, 128))


def test_named_files_are_held_out_and_a_pattern_without_a_file_is_refused(make_video) -> None:
    for name in ("a.mp4", "b.mp4", "deep/c.mp4"):
        path = make_video(name, [0, 50, 100])
    root = str(path.parents[1])
    source = VideoFolderSource(VideoFolderConfig(root=root, val_files=["deep/*"]))
    assert [drive.name for drive in source.drives("val")] == ["deep/c.mp4"]
    assert [drive.name for drive in source.drives("train")] == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match=r"'d\.mp4' matches none of the 3 videos"):
        VideoFolderSource(VideoFolderConfig(root=root, val_files=["d.mp4"]))


def test_no_folder_and_no_video_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        VideoFolderSource(VideoFolderConfig(root=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"no video matches '\*\*/\*'"):
        VideoFolderSource(VideoFolderConfig(root=str(tmp_path)))


def test_real_clips_are_read_at_their_time(shared_data: Path) -> None:
    source = VideoFolderSource(VideoFolderConfig(root=str(shared_data / "driving-hills"), pattern="clip_02[0-2].mp4"))
    frames, fps = read_all(shared_data / "driving-hills" / "clip_021.mp4")
    clip = source.read("clip_021.mp4", start_s=1.0, num_frames=10, fps=4, size_hw=(256, 512))
    assert fps == pytest.approx(20)
    np.testing.assert_array_equal(clip.frames_THWC, frames[20:70:5])
