"""What a sweep leaves for readers: rows, a table in three formats, plots, and one HTML file with videos in it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template

from drivesim.core.files import atomic_path
from drivesim.evaluate.report import ReportConfig, VideoBudget, video_figure
from drivesim.evaluate.scores import ScoreRow
from drivesim.evaluate.videos import Video
from drivesim.sweep.rows import write_rows
from drivesim.sweep.run import Sweep
from drivesim.sweep.table import NOTE, OWN, Line, Setting, Table, lines_of, score_table
from drivesim.viz.series import Point, SeriesPanel, draw_series

REPORT_FILE = "report.html"
_TEMPLATE = Path(__file__).parent / "report_template.html"
_FAR = 2.0  # a control this many times above all measurements would squash them; the table has it

# What can stand along an axis: its name, and the place of a setting on it (None = not on this axis).
_AXES: dict[str, Callable[[Setting], float | None]] = {
    "sampling steps": lambda setting: setting.steps,
    "guidance": lambda setting: setting.guidance,
    "first seconds": lambda setting: setting.span.end_s if setting.span.begin_s == 0 else None,
}


def write_sweep(sweep: Sweep, config: ReportConfig, real: str, out: Path) -> Table:
    """Writes rows.jsonl, table.csv, table.md, table.tex, plots.png and report.html; gives the table back.

    Raises:
        ValueError: nothing was scored; holds the first causes.
    """
    if not sweep.rows:
        raise ValueError("nothing of the sweep was scored: " + "; ".join(sweep.failures[:3]))
    lines = lines_of(sweep.rows)
    table = score_table(lines)
    write_rows(out / "rows.jsonl", sweep.rows)
    write_table(table, out / "table")
    draw_series(panels_of(lines), out / "plots.png")
    fields = {
        "title": html.escape(config.title),
        "about": html.escape(f"{len(sweep.videos)} settings of the first seed are shown; real videos: {real}"),
        "failures": "".join(f'<p class="warning">{html.escape(text)}</p>' for text in [*sweep.failures, *sweep.notes]),
        "note": html.escape(NOTE),
        "table": html_table(table),
        "plots": embedded_png(out / "plots.png"),
        "videos": _videos(sweep, config),
        "card": html.escape(json.dumps(sweep.card, indent=2, ensure_ascii=False)),
    }
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(fields)
    with atomic_path(out / REPORT_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return table


def write_table(table: Table, stem: Path) -> None:
    """Writes a table as STEM.csv, STEM.md and STEM.tex."""
    for suffix, text in ((".csv", table.as_csv()), (".md", table.as_markdown()), (".tex", table.as_latex())):
        with atomic_path(stem.with_suffix(suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def panels_of(lines: Sequence[Line]) -> list[SeriesPanel]:
    """A panel for each metric and each setting of several values; without any, the models stand side by side."""
    generated = [line for line in lines if line.row == ScoreRow.GENERATED.value]
    panels = []
    for metric in dict.fromkeys(line.metric for line in generated):
        own = [line for line in generated if line.metric == metric]
        levels = _levels(metric, lines, own)
        varied = [name for name, place in _AXES.items() if len({place(line.setting) for line in own} - {None}) > 1]
        panels += [_panel(metric, name, own, levels) for name in varied]
        windows = [line for line in own if line.setting.span.begin_s > 0]
        if windows:
            length = windows[0].setting.span.end_s - windows[0].setting.span.begin_s
            windows += [line for line in own if line.setting.span.begin_s == 0 and line.setting.span.end_s == length]
            panels.append(_window_panel(metric, windows, levels))
        if not varied and not windows:
            panels.append(_model_panel(metric, own, levels))
    return panels


def _panel(metric: str, axis: str, lines: Sequence[Line], levels: dict[str, float]) -> SeriesPanel:
    """One axis; a series a combination of the other settings."""
    series: dict[str, list[Point]] = {}
    whole = [line for line in lines if line.setting.span.begin_s == 0]  # windows have a panel of their own
    for line in whole:
        x = _AXES[axis](line.setting)
        if x is not None:
            series.setdefault(_series_name(line.setting, axis, whole), []).append(_point(x, line))
    return SeriesPanel(title=metric, x_label=axis, series=series, levels=levels)


def _window_panel(metric: str, lines: Sequence[Line], levels: dict[str, float]) -> SeriesPanel:
    series: dict[str, list[Point]] = {}
    for line in lines:
        span = line.setting.span
        name = _series_name(line.setting, "first seconds", lines)
        series.setdefault(name, []).append(_point((span.begin_s + span.end_s) / 2, line))
    return SeriesPanel(title=metric, x_label="middle of the window, s", series=series, levels=levels)


def _model_panel(metric: str, lines: Sequence[Line], levels: dict[str, float]) -> SeriesPanel:
    models = list(dict.fromkeys(line.setting.model for line in lines))
    points = [_point(float(models.index(line.setting.model)), line) for line in lines]
    ticks = [(float(index), model) for index, model in enumerate(models)]
    return SeriesPanel(title=metric, x_label="model", series={"": points}, levels=levels, x_ticks=ticks)


def _series_name(setting: Setting, axis: str, lines: Sequence[Line]) -> str:
    """The settings beside the axis in which the lines differ."""
    parts = {"sampling steps": "steps {}", "guidance": "guidance {}", "first seconds": "{}"}
    texts = dict(zip(("model", *parts), setting.cells(), strict=True))
    others = [dict(zip(("model", *parts), line.setting.cells(), strict=True)) for line in lines]
    named = [name for name in texts if name != axis and len({other[name] for other in others}) > 1]
    return ", ".join(parts.get(name, "{}").format(texts[name]) for name in named) or (
        setting.model if setting.model != OWN else ""
    )


def _point(x: float, line: Line) -> Point:
    return Point(x=x, mean=line.value.mean, low=line.value.low, high=line.value.high)


def _levels(metric: str, lines: Sequence[Line], own: Sequence[Line]) -> dict[str, float]:
    highest = max(max(line.value.mean, line.value.high or 0.0) for line in own)
    left_out = (ScoreRow.GENERATED.value, ScoreRow.GENERATED_SHUFFLED.value)
    controls = {
        line.row: line.value.mean for line in reversed(lines) if line.metric == metric and line.row not in left_out
    }
    return {row: value for row, value in controls.items() if value <= _FAR * highest}


def html_table(table: Table) -> str:
    """The table for a page."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in table.cells)
    return f"<table><tr>{head}</tr>{body}</table>"


def embedded_png(path: Path) -> str:
    """A picture inside a page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="plots" alt="scores by setting" src="data:image/png;base64,{data}">'


def _videos(sweep: Sweep, config: ReportConfig) -> str:
    """The first futures of every setting, as many of each as the number of videos allows."""
    budget = VideoBudget(int(config.max_video_mb * 1e6))
    each = max(1, config.num_generated // max(1, len(sweep.videos)))
    return "".join(
        f"<h3>{html.escape(name)}</h3>"
        f'<div class="videos">{"".join(video_figure(video, budget) for video in _spread(videos, each))}</div>'
        for name, videos in sweep.videos.items()
    )


def _spread(videos: Sequence[Video], most: int) -> list[Video]:
    """Videos of as many starts as there are places."""
    starts = dict.fromkeys(video.drive for video in videos)
    by_start = [[video for video in videos if video.drive == start] for start in starts]
    longest = max(map(len, by_start), default=0)
    in_turn = [group[index] for index in range(longest) for group in by_start if index < len(group)]
    return in_turn[:most]
