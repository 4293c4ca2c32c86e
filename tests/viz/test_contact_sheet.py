"""The contact sheet shows every future in its row and every moment in its column."""

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.picture import load_picture
from drivesim.core.video_writing import VideoWriter
from drivesim.viz.contact_sheet import contact_sheet


def _video(path: Path, colour: tuple[int, int, int], num_frames: int) -> Path:
    """A video of one colour that grows darker by 5 a frame."""
    with VideoWriter(path, fps=4.0) as writer:
        for index in range(num_frames):
            writer.write(np.broadcast_to(np.maximum(np.array(colour) - 5 * index, 0).astype(np.uint8), (32, 64, 3)))
    return path


def test_rows_are_futures_and_columns_are_moments(tmp_path: Path) -> None:
    videos = [
        _video(tmp_path / "future_000.mp4", (200, 200, 200), num_frames=21),
        _video(tmp_path / "future_001.mp4", (240, 120, 120), num_frames=25),
    ]
    contact_sheet(videos, tmp_path / "sheet.png", num_columns=3, cell_width_px=64)
    sheet = load_picture(tmp_path / "sheet.png").astype(int)
    height, width = sheet.shape[:2]
    assert height == 24 + 2 * 36
    for column, darker in enumerate((0, 50, 100)):  # frames 0, 10 and 20: the last that both have
        x = width - (3 - column) * 68 + 32
        assert np.abs(sheet[24 + 16, x] - (200 - darker)).max() <= 6
        assert np.abs(sheet[24 + 36 + 16, x] - np.maximum(np.array([240, 120, 120]) - darker, 0)).max() <= 6
    assert sheet[24:, : width - 3 * 68].min() < 100, "labels stand at the left"


def test_a_failed_future_among_the_videos_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"future_001\.mp4"):
        contact_sheet([_video(tmp_path / "a.mp4", (9, 9, 9), 3), tmp_path / "future_001.mp4"], tmp_path / "s.png")


def test_a_sheet_of_nothing_or_with_other_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of 0 videos"):
        contact_sheet([], tmp_path / "s.png")
    with pytest.raises(ValueError, match="2 labels for 1 videos"):
        contact_sheet([_video(tmp_path / "a.mp4", (9, 9, 9), 3)], tmp_path / "s.png", labels=["a", "b"])
