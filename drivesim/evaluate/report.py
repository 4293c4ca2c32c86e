"""The report: one HTML file with scores, controls, card, videos and film strips in it; opens from disk."""

from __future__ import annotations

import base64
import html
import json
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
from drivesim.core.video import VideoWriter, probe
from drivesim.evaluate.diversity import Diversity
from drivesim.evaluate.drift_report import drift_section
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.futures import futures_section
from drivesim.evaluate.protocol import SetCard
from drivesim.evaluate.published import PublishedResult
from drivesim.evaluate.scorer import Side
from drivesim.evaluate.scores import ContentBias, Score, ScoreRow, Scores
from drivesim.evaluate.uncertainty import Interval
from drivesim.evaluate.videos import Frame, Video

_TEMPLATE = Path(__file__).parent / "report_template.html"
_STRIP_FRAMES = 8
_STRIP_COLUMNS = 4
_STRIP_HEIGHT_PX = 80
_JPEG_QUALITY = 85
_UNTIMED_FPS = 4.0  # at which arrays and picture folders without a rate are shown


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """How much the HTML file shows."""

    title: str = "drivesim evaluation"  # heading
    num_generated: int = 16  # generated videos shown
    num_real: int = 4  # real videos shown
    max_video_mb: float = 40.0  # of all embedded videos together; later ones are shown as film strips alone


def write_report(config: ReportConfig, scores: Scores, videos: dict[Side, list[Video]], path: Path) -> None:
    """Writes the report on `videos`; one that cannot be read is named in it."""
    budget = VideoBudget(int(config.max_video_mb * 1e6))
    fields = {
        "title": html.escape(config.title),
        "sets": html.escape(f"{_set(scores.card.generated)} against real {_set(scores.card.real)}"),
        "verdict": _verdict(scores),
        "warnings": "".join(f'<p class="warning">{html.escape(text)}</p>' for text in scores.warnings),
        "scores": "".join(_metric(scores.scores, name) for name in dict.fromkeys(s.extractor for s in scores.scores)),
        "content_bias": "".join(_content_bias(entry) for entry in scores.content_bias),
        "published": _published(scores.published),
        "diversity": _diversities(scores.diversity) + futures_section(scores.futures),
        "drift": drift_section(scores.drift),
        "generated": "".join(video_figure(video, budget) for video in videos[Side.GENERATED]),
        "real": "".join(video_figure(video, budget) for video in videos[Side.REAL]),
        "more": _more(scores.card.generated.num_videos - len(videos[Side.GENERATED])),
        "card": html.escape(json.dumps(scores.card.as_dict(), indent=2, ensure_ascii=False)),
        "card_sha256": scores.card_sha256,
    }
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(fields)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _set(card: SetCard) -> str:
    return f"{card.name} ({card.num_videos} videos, {card.num_clips} clips)"


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


def _verdict(scores: Scores) -> str:
    """One sentence a clip metric: what the generated videos beat. Single frames say nothing of motion."""
    sentences = []
    for network in scores.card.extractors:
        rows = {score.row: score for score in scores.scores if score.extractor == network["name"]}
        controls = [rows[row] for row in (ScoreRow.FROZEN, ScoreRow.SHUFFLED) if row in rows]
        if network["kind"] != FeatureKind.CLIP.value or not controls:
            continue
        mine = rows[ScoreRow.GENERATED].value
        parts = [
            f"{'nearer' if mine < control.value else 'not nearer'} than {control.row.value} ({control.value:.4g})"
            for control in controls
        ]
        mark = "good" if all(mine < control.value for control in controls) else "bad"
        text = f"{network['metric']}, to real driving: generated videos ({mine:.4g}) are {', '.join(parts)}."
        sentences.append(f'<p class="{mark}">{html.escape(text)}</p>')
    return "".join(sentences)


def _metric(scores: Sequence[Score], extractor: str) -> str:
    """The table of one extractor, with logarithmic bars: a frozen video may be a thousand times farther."""
    rows = [score for score in scores if score.extractor == extractor]
    smallest = min((score.value for score in rows if score.value > 0), default=1.0)
    longest = max(np.log1p(score.value / smallest) for score in rows) or 1.0
    cells = "".join(
        f'<tr class="{"mine" if score.row is ScoreRow.GENERATED else "control"}">'
        f"<th>{html.escape(score.row.value)}</th>"
        f'<td class="value">{score.value:.5g}</td>'
        f'<td class="interval">{_interval(score.interval)}</td>'
        f'<td class="bar"><i style="width:{100 * np.log1p(score.value / smallest) / longest:.2f}%"></i></td>'
        f'<td class="count">{score.num_left} / {score.num_right}</td></tr>'
        for score in rows
    )
    level = next((f"{score.interval.level:.0%} " for score in rows if score.interval is not None), "")
    head = (
        f"<tr><th></th><td>distance</td><td>at infinitely many, {level}interval</td>"
        "<td>lower is nearer to real (logarithmic)</td><td>vectors</td></tr>"
    )
    return f'<section class="metric"><h3>{html.escape(rows[0].metric)}</h3><table>{head}{cells}</table></section>'


def _interval(interval: Interval | None) -> str:
    """Estimate and ends; a dash where there are too few vectors or drives, which a warning explains."""
    return "&ndash;" if interval is None else f"{interval.estimate:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _content_bias(entry: ContentBias) -> str:
    """One sentence on what shuffling the generated frames does to a score."""
    text = f"{entry.metric}: shuffling the generated frames changes the score by {entry.rise:+.4g} ({entry.share:+.0%})"
    if entry.interval is not None:
        text += f", at infinitely many clips by {entry.interval.low:+.4g} to {entry.interval.high:+.4g}"
    text += "." if entry.is_seen else "; a metric that sees motion has to rise."
    return f'<p class="{"good" if entry.is_seen else "bad"}">{html.escape(text)}</p>'


def _published(results: Sequence[PublishedResult]) -> str:
    """The table of others' results under the same card; nothing where there are none."""
    if not results:
        return ""
    rows = "".join(
        f"<tr><th>{html.escape(result.model)}</th><td>{html.escape(result.metric)}</td>"
        f'<td class="value">{result.value:g}</td><td>{html.escape(result.data_set)}</td>'
        f"<td>{html.escape('; '.join(filter(None, (result.source, result.note))))}</td></tr>"
        for result in results
    )
    head = "<tr><th></th><td>metric</td><td>published</td><td>data set</td><td>source</td></tr>"
    return f"<h2>Published under this protocol</h2><table>{head}{rows}</table>"


def _diversities(entries: Sequence[Diversity]) -> str:
    """The section on futures of one start; nothing where there are none."""
    if not entries:
        return ""
    legend = "Line: spread of the futures over time. Dashed: spread of re-encodings of one future, on average."
    head = f'<h2>Do the futures of one start frame differ?</h2><p class="soft">{legend}</p>'
    return head + "".join(_diversity(entry) for entry in entries)


def _diversity(entry: Diversity) -> str:
    """One start frame's futures: numbers and the curve of their spread."""
    text = (
        f"{entry.name}: {entry.num_futures} futures differ by {entry.futures:.2f} grey levels (root mean square over "
        f"pairs), re-encodings of one by {entry.reencodings:.2f}: {entry.ratio:.3g} times as much."
    )
    top = max(max(entry.curve), entry.reencodings, 1e-9)
    steps = max(len(entry.curve) - 1, 1)
    points = " ".join(f"{300 * i / steps:.1f},{58 - 54 * value / top:.1f}" for i, value in enumerate(entry.curve))
    level = 58 - 54 * entry.reencodings / top
    return (
        f'<div class="diversity"><svg viewBox="0 0 300 60" role="img" aria-label="spread over time">'
        f'<line x1="0" x2="300" y1="{level:.1f}" y2="{level:.1f}"/><polyline points="{points}"/></svg>'
        f"<p>{html.escape(text)}</p></div>"
    )


def _more(num_hidden: int) -> str:
    return f"<p>{num_hidden} more generated videos were scored and are not shown.</p>" if num_hidden else ""


def video_figure(video: Video, budget: VideoBudget) -> str:
    """A video with its film strip; the strip alone when the video does not fit."""
    name = html.escape(video.name)
    try:
        frames = _evenly(video)
        data = _mp4(video)
    except (ValueError, OSError) as error:
        return f'<figure><figcaption>{name}</figcaption><p class="warning">{html.escape(str(error))}</p></figure>'
    strip = f'<img class="strip" alt="frames of {name}" src="{_jpeg(_strip(frames))}">'
    if not budget.take(len(data)):
        return f"<figure>{strip}<figcaption>{name} (not embedded: over report.max_video_mb)</figcaption></figure>"
    source = "data:video/mp4;base64," + base64.b64encode(data).decode()
    poster = _jpeg(frames[0])
    player = f'<video controls loop muted playsinline preload="metadata" poster="{poster}" src="{source}"></video>'
    return f"<figure>{player}{strip}<figcaption>{name}</figcaption></figure>"


def _evenly(video: Video) -> list[Frame]:
    """Frames spread over the video; memory holds twice as many at most, whatever its length."""
    kept: list[Frame] = []
    step = 1
    for index, (_, frame) in enumerate(video.timed_frames(None)):
        if index % step:
            continue
        kept.append(frame)
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


def _mp4(video: Video) -> bytes:
    """The video as a browser plays it: H.264 files as they are, all else encoded."""
    if video.path is not None and video.path.suffix.lower() == ".mp4" and probe(video.path).codec == "h264":
        return video.path.read_bytes()
    fps = video.fps or (probe(video.path).fps if video.is_timed and video.path is not None else _UNTIMED_FPS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shown.mp4"
        with VideoWriter(path, fps) as writer:
            for _, frame in video.timed_frames(None):
                writer.write(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])  # yuv420p needs even sides
        return path.read_bytes()
