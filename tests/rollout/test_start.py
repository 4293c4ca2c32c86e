"""Start frames from people's files: fitted to the model, or refused in clear words."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drivesim.core.picture import save_png
from drivesim.core.video_writing import VideoWriter
from drivesim.rollout.start import check_scene, start_from_clip, start_from_file, start_from_image

SIZE_HW = (32, 64)


def _grey(height: int, width: int, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_a_two_to_one_picture_is_only_resized(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_png(tmp_path / "street.png", _grey(128, 256))
    start = start_from_file(tmp_path / "street.png", SIZE_HW, conditions=True)
    assert (start.name, start.conditions, start.frame_HWC.shape) == ("street", True, (32, 64, 3))
    assert caplog.records == []


def test_another_shape_is_cropped_saying_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture = _grey(90, 160)
    picture[:5] = picture[-5:] = 255  # what a centre crop from 90 to 80 rows takes away
    save_png(tmp_path / "wide.png", picture)
    with caplog.at_level(logging.WARNING):
        start = start_from_image(tmp_path / "wide.png", SIZE_HW)
    assert "160 x 90 pixels cropped to 160 x 80" in caplog.text
    assert (start.frame_HWC == 100).all()


def test_a_picture_smaller_than_the_model_is_refused(tmp_path: Path) -> None:
    save_png(tmp_path / "small.png", _grey(31, 300))
    with pytest.raises(ValueError, match=r"small\.png: picture of 62 x 31 pixels is too small; at least 64 x 32"):
        start_from_file(tmp_path / "small.png", SIZE_HW)


def test_an_alpha_channel_and_a_false_picture_are_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (128, 64)).save(tmp_path / "logo.png")
    with pytest.raises(ValueError, match=r"logo\.png: has an alpha channel"):
        start_from_file(tmp_path / "logo.png", SIZE_HW)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.jpg: not a picture"):
        start_from_file(tmp_path / "text.jpg", SIZE_HW)


def test_a_file_of_another_kind_names_the_kinds_there_are(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"starts from pictures \(\.png.*videos \(\.mp4.*ends in '\.txt'"):
        start_from_file(tmp_path / "notes.txt", SIZE_HW)


@pytest.mark.parametrize("start_s", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(tmp_path: Path, start_s: float) -> None:
    with pytest.raises(ValueError, match="start_s is"):
        start_from_clip(tmp_path / "any.mp4", (32, 64), start_s=start_s)


def test_a_clip_gives_the_frame_shown_at_the_wanted_time(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "drive.MP4.mp4", fps=10) as writer:
        for index in range(30):
            writer.write(_grey(64, 128, 5 * index))
    start = start_from_file(tmp_path / "drive.MP4.mp4", SIZE_HW, start_s=2.0)
    assert start.name == "drive.MP4@2s"
    assert abs(int(start.frame_HWC.mean()) - 100) <= 2
    with pytest.raises(ValueError, match=r"no frame at 9\.000 s"):
        start_from_clip(tmp_path / "drive.MP4.mp4", SIZE_HW, start_s=9.0)
    with pytest.raises(ValueError, match="must be a number of 0 or more"):
        start_from_clip(tmp_path / "drive.MP4.mp4", SIZE_HW, start_s=-1.0)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"start_s": 5.0}, "no video: start_s=5 is"),
        ({"is_night": True}, "a scene, which says itself what it shows: is_night=true is"),
        ({"is_night": False}, "a scene, which says itself what it shows: is_night=false is"),
    ],
)
def test_what_a_scene_says_itself_is_refused_beside_it(said: dict[str, Any], told: str) -> None:
    spoken = {"start_s": 0.0, "is_night": None} | said
    for scene in ("cut_in", "mine/cut_in.yaml"):
        with pytest.raises(ValueError, match=f"^start={scene} is {told}"):
            check_scene(scene, spoken["start_s"], spoken["is_night"])
        check_scene(scene, 0.0, None)
    check_scene("drive.mp4", spoken["start_s"], spoken["is_night"])


def test_times_are_of_videos_alone() -> None:
    with pytest.raises(ValueError, match="^start=photo.jpg is no video: start_s=2 is a time in one; leave it out"):
        check_scene("photo.jpg", 2.0, None)
    check_scene("photo.jpg", 0.0, True)
    with pytest.raises(ValueError, match=r"the time apart: start=a/drive.mp4 start_s=2.5"):
        start_from_file("a/drive.mp4@2.5", SIZE_HW)
