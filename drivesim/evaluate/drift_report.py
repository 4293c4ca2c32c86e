"""Drift for readers: plain values for JSON, and a section of the HTML report."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.core.wording import number_of
from drivesim.evaluate.drift import Drift, DriftCurve
from drivesim.evaluate.faults import Fault, FaultKind
from drivesim.evaluate.frechet_curve import leaves_floor_s
from drivesim.evaluate.seams import Seams

_DECIMALS = 5
_NUM_SHOWN = 8  # notes and faults that a terminal shows
_UNITS = {
    FaultKind.BLUR: "sigma of {:.2f} pixels",
    FaultKind.GAIN: "factor {:.2f}",
    FaultKind.FLICKER: "factor {:.2f} from frame to frame",
    FaultKind.FROZEN_TAIL: "{:.1f} s",
    FaultKind.SHUFFLED: "{:.0f} frames",
    FaultKind.REMOVED_OBJECT: "{:.0f} pixels",
    FaultKind.ADDED_OBJECT: "{:.0f} pixels",
}


def plain(value: Any) -> Any:
    """Dataclasses, arrays and enums as JSON holds them; what is not a finite number becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return value.name
    if isinstance(value, (float, np.floating)):
        return round(float(value), _DECIMALS) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def fault_text(fault: Fault, fps: float) -> str:
    """One line for people."""
    what = fault.kind.value if fault.object_class is None else f"{fault.kind.value} ({fault.object_class.value})"
    return f"{what} from {fault.onset_frame / fps:.2f} s on, {_UNITS[fault.kind].format(fault.size)}"


def drift_lines(drift: Drift | None) -> Iterator[str]:
    """Which measures leave the band of real video and when, chunk borders, and faults; nothing without a drift."""
    if drift is None:
        return
    yield from (f"note: {text}" for text in _first(drift.warnings))
    for curve in drift.curves:
        if left := _left(curve):
            videos = number_of(len(curve.leaves_s), "video")
            what = f"{len(left)} of {videos} leave real video's band, the first at {left[0]:.2f} s"
            yield f"{curve.generated[-1]:12.3f}  {curve.measure.value} at the end: {what}"
    if drift.curves and all(curve.band is not None and not _left(curve) for curve in drift.curves):
        yield f"{'':12}  no measure of any video leaves the band of real video"
    yield from (
        f"{'':12}  {text}" for text in (_seam_text(drift.seams, drift.real_seams), _frechet_text(drift)) if text
    )
    yield from (f"{'':12}  {text}" for text in _first(_fault_texts(drift)))


def _first(texts: Sequence[str]) -> list[str]:
    """As many as a terminal should show."""
    more = len(texts) - _NUM_SHOWN
    return [*texts[:_NUM_SHOWN], *([f"and {more} more; drift.json has them"] if more > 0 else [])]


def _left(curve: DriftCurve) -> list[float]:
    """When videos leave the band, the earliest first."""
    return sorted(time_s for time_s in curve.leaves_s.values() if time_s is not None)


def _frechet_text(drift: Drift) -> str:
    """Begin, end and the time at which the distance leaves that of real video; "" = not measured."""
    curve, floor = drift.frechet, drift.frechet_floor
    if curve is None:
        return ""
    text = (
        f"Fréchet distance in sliding windows: {curve.distance[0]:.4g} in the first, {curve.distance[-1]:.4g} in the "
        f"last ({number_of(min(curve.num_clips), 'clip')} or more in each)"
    )
    if floor is None or not np.isfinite(floor.distance).any():
        return text
    left = leaves_floor_s(curve, floor)
    most = float(np.nanmax(floor.distance, initial=0.0))
    where = "never" if left is None else f"from {left:.2f} s on"
    clips = number_of(min(floor.num_clips), "clip")
    return f"{text}; {where} above that of real video against itself ({most:.4g} at most, of {clips})"


def drift_section(drift: Drift | None) -> str:
    """The section of the report; nothing where drift was not measured."""
    if drift is None:
        return ""
    rows = "".join(_row(curve) for curve in drift.curves)
    head = (
        "<tr><th></th><td>mean at the end</td><td>real video there</td><td>videos that left it</td><td>first</td></tr>"
    )
    parts = [
        "<h2>Drift over time</h2>",
        f'<p class="soft">{_legend(drift)}</p>',
        "".join(f'<p class="warning">{html.escape(text)}</p>' for text in drift.warnings),
        _figure(drift.figure),
        f'<section class="metric"><table>{head}{rows}</table>{_texts(drift)}</section>',
        _faults(drift),
    ]
    return "".join(parts)


def _legend(drift: Drift) -> str:
    bands = [curve.band for curve in drift.curves if curve.band is not None]
    if not bands:
        return "No band of real video."
    band = bands[0]
    return (
        f"Band: {100 * band.share:.0f} % of real videos stay inside it over its whole length, with "
        f"{100 * band.confidence:.0f} % confidence, from {band.num_videos} of them. Logarithms of changes since the "
        "first frame, except flicker, motion and disorder."
    )


def _row(curve: DriftCurve) -> str:
    left = _left(curve)
    cells = [f"{curve.generated[-1]:.3f}", "", "", ""]
    if curve.band is not None:
        cells[1] = f"{curve.band.low[-1]:.3f} to {curve.band.high[-1]:.3f}"
        cells[2] = f"{len(left)} of {len(curve.leaves_s)}"
        cells[3] = f"{left[0]:.2f} s" if left else ""
    name = html.escape(f"{curve.measure.full_name}, {curve.measure.unit}")
    return f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _seam_text(made: Seams | None, real: Seams | None) -> str:
    if made is None:
        return ""
    text = f"change across chunk borders over change inside: {made.ratio:.2f} ({made.low:.2f} to {made.high:.2f})"
    if real is not None:
        text += f"; at the same places of real video {real.ratio:.2f} ({real.low:.2f} to {real.high:.2f})"
    return f"{text}, {made.num_borders} borders"


def _figure(path: Path | None) -> str:
    if path is None:
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img class="curves" alt="curves over time" src="data:image/png;base64,{data}"></figure>'


def _texts(drift: Drift) -> str:
    texts = (_seam_text(drift.seams, drift.real_seams), _frechet_text(drift))
    return "".join(f"<p>{html.escape(text[0].upper() + text[1:])}.</p>" for text in texts if text)


def _faults(drift: Drift) -> str:
    if not drift.faults:
        return ""
    lines = "".join(f"<li>{html.escape(text)}</li>" for text in _fault_texts(drift))
    return f"<h3>Faults that real video does not have</h3><ul>{lines}</ul>"


def _fault_texts(drift: Drift) -> list[str]:
    """A line a video that has any."""
    return [
        f"{name}: {'; '.join(fault_text(fault, drift.fps) for fault in faults)}"
        for name, faults in drift.faults.items()
    ]
