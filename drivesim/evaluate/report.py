"""The report: one HTML file with scores, controls, card, videos and film strips in it; opens from disk."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import atomic_path
from drivesim.core.picture import resize_area
from drivesim.core.video import probe
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate.copies import neighbour_section
from drivesim.evaluate.drift_report import drift_section
from drivesim.evaluate.futures import futures_section
from drivesim.evaluate.report_scores import diversity_section, protocol_section
from drivesim.evaluate.scorer import Side
from drivesim.evaluate.scores import Scores
from drivesim.evaluate.videos import Frame, Video

_TEMPLATE = Path(__file__).parent / "report_template.html"
_STRIP_FRAMES = 8
_STRIP_COLUMNS = 4
_STRIP_HEIGHT_PX = 80
_JPEG_QUALITY = 85
_BROWSER_FORMATS = ("yuv420p", "yuvj420p")
_FRAMES_BETWEEN_CHECKS = 16
_UNTIMED_FPS = 4.0  # at which arrays and picture folders without a rate are shown


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """How much the HTML file shows."""

    title: str = "drivesim evaluation"  # heading
    num_generated: int = 16  # generated videos shown
    num_real: int = 4  # real videos shown
    max_video_mb: float = 40.0  # of all embedded videos together; later ones are shown as film strips alone


def write_report(config: ReportConfig, scores: Sequence[Scores], videos: dict[Side, list[Video]], path: Path) -> None:
    """Writes the report on `videos`, a section a protocol; a video that cannot be read is named in it."""
    budget = VideoBudget(int(config.max_video_mb * 1e6))
    first = scores[0]
    fields = {
        "title": html.escape(config.title),
        "protocols": "".join(protocol_section(one, len(scores) > 1) for one in scores),
        "diversity": diversity_section(first.diversity)
        + futures_section(first.futures)
        + neighbour_section(first.neighbours),
        "drift": drift_section(first.drift),
        "generated": "".join(video_figure(video, budget) for video in videos[Side.GENERATED]),
        "real": "".join(video_figure(video, budget) for video in videos[Side.REAL]),
        "more": _more(first.card.generated.num_videos - len(videos[Side.GENERATED])),
    }
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(fields)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class VideoBudget:
    """Bytes that videos may still take."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int) -> bool:
        """Whether `size` bytes fit; if so, they are taken."""
        if size > self.left:
            return False
        self.left -= size
        return True


def _more(num_hidden: int) -> str:
    return f"<p>{num_hidden} more generated videos were scored and are not shown.</p>" if num_hidden else ""


def video_figure(video: Video, budget: VideoBudget) -> str:
    """A video with its film strip; the strip alone when the video does not fit."""
    name = html.escape(video.name)
    try:
        frames = _evenly(video)
        data = _mp4(video, budget.left)
    except (ValueError, OSError) as error:
        return f'<figure><figcaption>{name}</figcaption><p class="warning">{html.escape(str(error))}</p></figure>'
    strip = f'<img class="strip" alt="frames of {name}" src="{_jpeg(_strip(frames))}">'
    if data is None or not budget.take(len(data)):
        return f"<figure>{strip}<figcaption>{name} (not embedded: over report.max_video_mb)</figcaption></figure>"
    source = "data:video/mp4;base64," + base64.b64encode(data).decode()
    poster = _jpeg(frames[0])
    player = f'<video controls loop muted playsinline preload="metadata" poster="{poster}" src="{source}"></video>'
    return f"<figure>{player}{strip}<figcaption>{name}</figcaption></figure>"


def _evenly(video: Video) -> list[Frame]:
    """Frames spread over the video; memory holds twice as many at most, whatever its length."""
    kept: list[Frame] = []
    step = 1
    for index, (_, picture) in enumerate(video.timed_pictures(None)):
        if index % step:
            continue
        kept.append(picture.pixels())
        if len(kept) == 2 * _STRIP_FRAMES:
            kept, step = kept[::2], 2 * step
    if not kept:
        raise ValueError(f"{video.name}: no frame in it")
    chosen = np.linspace(0, len(kept) - 1, min(_STRIP_FRAMES, len(kept))).round().astype(int)
    return [kept[index] for index in chosen]


def _strip(frames: Sequence[Frame]) -> NDArray[np.uint8]:
    """Frames side by side in reading order."""
    height, width = frames[0].shape[:2]
    size = (_STRIP_HEIGHT_PX, max(1, round(width * _STRIP_HEIGHT_PX / height)))
    pictures = [resize_area(frame, size) for frame in frames]
    pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % _STRIP_COLUMNS)
    rows = [pictures[start : start + _STRIP_COLUMNS] for start in range(0, len(pictures), _STRIP_COLUMNS)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _jpeg(picture_HWC: NDArray[np.uint8]) -> str:
    done, data = cv2.imencode(".jpg", picture_HWC[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _mp4(video: Video, max_bytes: int) -> bytes | None:
    """The video as a browser plays it: plain H.264 files as they are, all else encoded; None = larger than wanted."""
    if max_bytes <= 0:
        return None
    if video.path is not None and _plays_in_browsers(video.path):
        return video.path.read_bytes() if video.path.stat().st_size <= max_bytes else None
    fps = video.fps or (probe(video.path).fps if video.is_timed and video.path is not None else _UNTIMED_FPS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shown.mp4"
        with VideoWriter(path, fps) as writer:
            for index, (_, frame) in enumerate(video.timed_frames(None)):
                writer.write(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])  # yuv420p needs even sides
                if index % _FRAMES_BETWEEN_CHECKS == 0 and _size(Path(folder)) > max_bytes:
                    return None
        return path.read_bytes()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _plays_in_browsers(path: Path) -> bool:
    """Whether a file is H.264 of 8 bits and halved colour in an MP4; few browsers play 10 bits or 4:4:4."""
    if path.suffix.lower() != ".mp4":
        return False
    info = probe(path)
    return info.codec == "h264" and info.pixel_format in _BROWSER_FORMATS
