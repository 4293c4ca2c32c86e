"""A sweep's table: a line a setting and part of the time, over its seeds, as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from drivesim.evaluate.scores import ScoreRow
from drivesim.evaluate.settings import Span
from drivesim.sweep.repeated import Repeated, over_seeds
from drivesim.sweep.rows import SweepRow

OWN = "own"  # what a table says where a model samples as it does by itself
NOTE = (
    "Mean over seeds with its 95 % interval (Student's t); with one seed, the interval over drives where there is one."
)


@dataclass(kw_only=True, slots=True, frozen=True)
class Setting:
    """What the seeds of a line have in common."""

    model: str
    steps: int | None
    guidance: float | None
    span: Span

    def cells(self) -> list[str]:
        """Its columns, as text."""
        steps = OWN if self.steps is None else str(self.steps)
        return [self.model, steps, OWN if self.guidance is None else f"{self.guidance:g}", str(self.span)]


SETTING_COLUMNS = ("model", "steps", "guidance", "seconds")


@dataclass(kw_only=True, slots=True)
class Line:
    """One setting, one metric."""

    setting: Setting
    metric: str
    row: str  # a value of `ScoreRow`
    value: Repeated
    num_vectors: int  # of one seed


def lines_of(rows: Iterable[SweepRow]) -> list[Line]:
    """The mean over seeds of everything that differs by its seed alone, in the order in which it was measured."""
    groups: dict[tuple[Setting, str, str], list[SweepRow]] = {}
    for row in rows:
        setting = Setting(
            model=row.model, steps=row.steps, guidance=row.guidance, span=Span(begin_s=row.begin_s, end_s=row.end_s)
        )
        groups.setdefault((setting, row.metric, row.row), []).append(row)
    return [
        Line(setting=setting, metric=metric, row=row, value=_value(of_seeds), num_vectors=of_seeds[0].num_left)
        for (setting, metric, row), of_seeds in groups.items()
    ]


def _value(rows: Sequence[SweepRow]) -> Repeated:
    found = over_seeds([row.value for row in rows])
    if found.low is not None and rows[0].lowest is not None:  # Student's interval knows of no end
        return replace(found, low=max(found.low, rows[0].lowest))
    if found.num_seeds > 1:
        return found
    return Repeated(mean=found.mean, low=rows[0].low, high=rows[0].high, num_seeds=1)


@dataclass(kw_only=True, slots=True)
class Table:
    """Text cells under headings; the same ones in every format."""

    columns: list[str]
    cells: list[list[str]]

    def as_csv(self) -> str:
        """RFC 4180."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.cells])
        return text.getvalue()

    def as_markdown(self) -> str:
        """A pipe table."""
        lines = [self.columns, ["---"] * len(self.columns), *self.cells]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

    def as_latex(self) -> str:
        """A tabular of booktabs."""
        head, *body = (" & ".join(map(_escaped, line)) + r" \\" for line in (self.columns, *self.cells))
        middle = [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        return "\n".join([rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}", *middle, r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def score_table(lines: Sequence[Line]) -> Table:
    """A line a setting, a column a metric, controls beneath: what every generated line has to beat."""
    metrics = list(dict.fromkeys(line.metric for line in lines))
    generated = [line for line in lines if line.row == ScoreRow.GENERATED.value]
    by_place = {(line.setting, line.metric): line for line in generated}
    cells = []
    for setting in dict.fromkeys(line.setting for line in generated):
        of_metric = [by_place.get((setting, metric)) for metric in metrics]
        first = next(line for line in of_metric if line is not None)
        counts = [str(first.value.num_seeds), str(first.num_vectors)]
        cells.append([*setting.cells(), *counts, *("" if line is None else shown(line.value) for line in of_metric)])
    cells += control_cells(lines, metrics)
    return Table(columns=[*SETTING_COLUMNS, "seeds", "vectors of the first", *metrics], cells=cells)


def control_cells(lines: Sequence[Line], metrics: Sequence[str]) -> list[list[str]]:
    """A line a control, over the whole sweep: controls of the real side are the same in every cell."""
    left_out = (ScoreRow.GENERATED.value, ScoreRow.GENERATED_SHUFFLED.value)
    controls: dict[str, dict[str, Line]] = {}
    for line in lines:
        if line.row not in left_out:
            controls.setdefault(line.row, {}).setdefault(line.metric, line)
    return [
        [row, "", "", "", "", "", *(f"{by[metric].value.mean:.5g}" if metric in by else "" for metric in metrics)]
        for row, by in controls.items()
    ]


def shown(value: Repeated) -> str:
    """A mean with its interval."""
    if value.low is None or value.high is None:
        return f"{value.mean:.5g}"
    return f"{value.mean:.5g} [{value.low:.4g}, {value.high:.4g}]"
