"""Obedience for readers: lines for a terminal, a section of HTML, and a page of its own."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D
from drivesim.core.files import atomic_path
from drivesim.core.picture import resize_area
from drivesim.evaluate.drift_report import plain
from drivesim.evaluate.obedience import ObedienceRow
from drivesim.evaluate.scene_measures import Estimate

_SHOWN_HEIGHT_PX = 192
_WANTED_RGB, _FOUND_RGB = (255, 255, 255), (255, 60, 160)
_PAGE = Template(
    '<!doctype html><meta charset="utf-8"><title>Obedience</title><style>'
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "td,th{padding:.1rem .8rem;text-align:right}th{text-align:left;font-weight:normal}"
    "figure{display:inline-block;margin:.4rem}.warning{color:#a04000}pre{white-space:pre-wrap}</style>"
    "<h1>Obedience to boxes and labels</h1>$warnings$section"
    "<h2>Pictures</h2><p>White: wanted. Pink: found.</p>$pictures<h2>Card</h2><pre>$card</pre>"
)


@dataclass(kw_only=True, slots=True)
class ShownPicture:
    """One picture of the report."""

    name: str
    picture_HWC: NDArray[np.uint8]
    wanted: Boxes2D
    found: Boxes2D


def obedience_lines(rows: Sequence[ObedienceRow]) -> Iterator[str]:
    """A line a number, its interval and its ceiling behind it."""
    for row in rows:
        ceiling = "" if row.ceiling is None else f"; real pictures {_text(row.ceiling)}"
        yield f"{row.made.value:8.3f}  {row.measure.value}, {row.kind} ({row.num}){_ends(row.made)}{ceiling}"


def obedience_section(rows: Sequence[ObedienceRow]) -> str:
    """The table; nothing where there are no rows."""
    if not rows:
        return ""
    head = "<tr><th></th><th></th><td>generated</td><td>real pictures</td><td>of</td></tr>"
    cells = "".join(
        f"<tr><th>{row.measure.value}</th><th>{row.kind}</th><td>{_text(row.made)}</td>"
        f"<td>{'&ndash;' if row.ceiling is None else _text(row.ceiling)}</td><td>{row.num}</td></tr>"
        for row in rows
    )
    return f"<h2>Boxes and labels</h2><table>{head}{cells}</table>"


def write_obedience_report(
    rows: Sequence[ObedienceRow],
    warnings: Sequence[str],
    card: Mapping[str, Any],
    shown: Sequence[ShownPicture],
    path: Path,
) -> None:
    """Writes one HTML file that opens from disk."""
    text = _PAGE.substitute(
        warnings="".join(f'<p class="warning">{html.escape(warning)}</p>' for warning in warnings),
        section=obedience_section(rows),
        pictures="".join(_figure(picture) for picture in shown),
        card=html.escape(json.dumps(plain(dict(card)), indent=2, ensure_ascii=False)),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _figure(shown: ShownPicture) -> str:
    height, width = shown.picture_HWC.shape[:2]
    size_hw = (_SHOWN_HEIGHT_PX, round(width * _SHOWN_HEIGHT_PX / height))
    picture = resize_area(shown.picture_HWC, size_hw).copy()
    for boxes, colour in ((shown.wanted, _WANTED_RGB), (shown.found, _FOUND_RGB)):
        for left, top, right, bottom in np.rint(boxes.scaled((height, width), size_hw).xyxy_px).astype(int).tolist():
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 1)
    done, data = cv2.imencode(".png", picture[:, :, ::-1])
    assert done
    source = "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
    return f'<figure><img alt="" src="{source}"><figcaption>{html.escape(shown.name)}</figcaption></figure>'


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}{_ends(estimate)}"


def _ends(estimate: Estimate) -> str:
    return "" if np.isnan(estimate.low) else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
