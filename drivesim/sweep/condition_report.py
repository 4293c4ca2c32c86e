"""What a test of a model's inputs leaves for readers: rows, a table in three formats, one HTML file with pictures."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import asdict
from pathlib import Path
from string import Template

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.files import append_row, atomic_path, write_json
from drivesim.core.picture import resize_area
from drivesim.core.run_folder import ROWS_FILE
from drivesim.evaluate.condition_use import number_cells, verdict
from drivesim.evaluate.drift_report import plain
from drivesim.sweep.condition_run import ConditionTest, Shown
from drivesim.sweep.report import REPORT_FILE, html_table, write_table
from drivesim.sweep.table import Table

CONDITION_USE_FILE = "condition_use.json"
NOTE = (
    "Root mean square differences in grey levels of 255; standard errors over items in brackets. Between seeds: "
    "outputs of the same inputs. Between inputs: outputs of other inputs and other seeds. Excess: energy distance, 0 "
    "when the input changes no more than the seed does. In place: the excess where the input may change something, "
    "less that outside of it."
)
_COLUMNS = [
    "input", "change", "items", "seeds", "between seeds", "between inputs", "excess", "in place - outside", "verdict",
]  # fmt: skip
_SHOWN_HEIGHT_PX = 128
_PAGE = Template(
    '<!doctype html><meta charset="utf-8"><title>Use of inputs</title><style>'
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "td,th{padding:.1rem .8rem .1rem 0;text-align:left}th{font-weight:normal;color:#6b7680}"
    "figure{display:inline-block;margin:.4rem}.warning{color:#a04000}pre{white-space:pre-wrap}</style>"
    "<h1>Which inputs $model uses</h1>$notes<p>$note</p>$table"
    "<h2>Pictures</h2><p>First frames of the first item that a change reaches: as it is, and changed.</p>"
    "$pictures<h2>Card</h2><pre>$card</pre>"
)


def use_table(test: ConditionTest) -> Table:
    """A line a change."""
    cells = [
        [row.input, row.change.value, str(row.num_items), str(row.num_seeds), *number_cells(row), verdict(row)]
        for row in test.rows
    ]
    return Table(columns=_COLUMNS, cells=cells)


def write_condition_use(test: ConditionTest, out: Path) -> Table:
    """Writes condition_use.json, rows.jsonl, table.csv, table.md, table.tex and report.html; gives the table back.

    Raises:
        ValueError: no change could be told from the seeds' noise, for want of items that it reaches.
    """
    if not test.rows:
        raise ValueError("nothing was tested: " + "; ".join(test.notes))
    rows = out / ROWS_FILE
    rows.unlink(missing_ok=True)
    named = [plain(row) | {"verdict": verdict(row)} for row in test.rows]
    for row in named:
        append_row(rows, row)
    card = asdict(test.card) | {"comparable_sha256": test.card.sha256()}
    write_json(out / CONDITION_USE_FILE, {"card": card, "rows": named, "notes": test.notes})
    table = use_table(test)
    write_table(table, out / "table")
    page = _PAGE.substitute(
        model=html.escape(test.card.model),
        notes="".join(f'<p class="warning">{html.escape(text)}</p>' for text in test.notes),
        note=html.escape(NOTE),
        table=html_table(table),
        pictures="".join(map(_figure, test.shown)),
        card=html.escape(json.dumps(card, indent=2, ensure_ascii=False)),
    )
    with atomic_path(out / REPORT_FILE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return table


def _figure(shown: Shown) -> str:
    """The first frames of both, side by side."""
    both = [_fitted(frames_THWC[0]) for frames_THWC in (shown.own_THWC, shown.changed_THWC)]
    done, data = cv2.imencode(".png", np.concatenate(both, axis=1)[:, :, ::-1])
    assert done
    source = "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
    caption = html.escape(f"{shown.input}: as it is, {shown.change.value}")
    return f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def _fitted(picture_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture_HWC.shape[:2]
    return resize_area(picture_HWC, (_SHOWN_HEIGHT_PX, round(width * _SHOWN_HEIGHT_PX / height)))
