"""Grids of settings, and tables over their seeds in three formats."""

from __future__ import annotations

import csv
import io

import pytest

from drivesim.evaluate.scores import ScoreRow
from drivesim.sweep.cells import grid, model_labels
from drivesim.sweep.report import panels_of
from drivesim.sweep.rows import SweepRow
from drivesim.sweep.settings import SweepConfig
from drivesim.sweep.table import Table, lines_of, score_table

METRIC = "Fréchet clip distance (toytown-clip)"


def row(value: float, *, seed: int = 0, steps: int | None = 6, end_s: float = 5.0, **more: object) -> SweepRow:
    settings = {"model": "a", "guidance": 1.5, "begin_s": 0.0, "metric": METRIC, "row": ScoreRow.GENERATED.value}
    return SweepRow(**(settings | more), steps=steps, seed=seed, end_s=end_s, value=value, num_left=8, num_right=9)  # type: ignore[arg-type]


def test_every_combination_is_a_cell_with_a_name_of_its_own() -> None:
    cells = grid(["m"], [6, 12], [1.0, 2.5], [0, 1])
    assert len(cells) == len({cell.name for cell in cells}) == 8
    assert cells[0].name == "m_steps6_guidance1_seed0"
    assert [cell.seed for cell in cells[:2]] == [0, 1]
    own = grid(["m"], [], [], [3])[0]
    assert (own.name, own.sampling.steps, own.sampling.guidance) == ("m_seed3", None, None)


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (["runs/a/model", "runs/b/model"], ["a-model", "b-model"]),
        (["toytown", "runs/b/model"], ["toytown", "model"]),
        (["/x/run/model", "/y/run/model"], ["x-run-model", "y-run-model"]),
    ],
)
def test_models_are_called_by_as_much_of_their_paths_as_tells_them_apart(models: list[str], labels: list[str]) -> None:
    assert list(model_labels(models).values()) == labels


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"seed": []}, "sweep.seed is empty"),
        ({"steps": [6, 6]}, "sweep.steps names a value twice"),
        ({"seconds": [0.0]}, "sweep.seconds is"),
        ({"futures": 0}, "sweep.futures is 0"),
        ({"seconds": [5.0], "window_s": 6.0}, "sweep.window_s is 6.0"),
    ],
)
def test_settings_that_make_no_sweep_are_named(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SweepConfig(start=["x"], **settings).validate()  # type: ignore[arg-type]


def test_horizons_come_first_then_windows_half_their_length_apart() -> None:
    spans = SweepConfig(start=["x"], seconds=[8.0, 4.0], window_s=4.0).spans()
    assert [str(span) for span in spans] == ["0-4 s", "0-8 s", "2-6 s", "4-8 s"]


def test_seeds_become_one_line_with_mean_and_interval_and_other_settings_stay_apart() -> None:
    lines = lines_of([row(1.0, seed=0), row(3.0, seed=1), row(7.0, steps=12), row(9.0, end_s=20.0)])
    assert [line.value.mean for line in lines] == [2.0, 7.0, 9.0]
    assert lines[0].value.num_seeds == 2
    assert lines[0].value.low == pytest.approx(2 - 12.7062, abs=1e-3)  # t of 1 degree of freedom, error 1


def test_a_single_seed_shows_the_interval_over_drives() -> None:
    (line,) = lines_of([row(4.0, low=3.0, high=6.0)])
    assert (line.value.low, line.value.high, line.value.num_seeds) == (3.0, 6.0, 1)


def test_controls_stand_once_beneath_the_settings() -> None:
    floor = [row(0.5, seed=seed, row=ScoreRow.FLOOR.value, end_s=20.0) for seed in (0, 1)]
    shuffled = row(5.0, row=ScoreRow.GENERATED_SHUFFLED.value)
    table = score_table(lines_of([row(1.0), row(2.0, end_s=20.0), shuffled, *floor]))
    assert table.columns == ["model", "steps", "guidance", "seconds", "seeds", "vectors of the first", METRIC]
    assert [cells[0] for cells in table.cells] == ["a", "a", "real against real"]
    assert table.cells[-1][-1] == "0.5"


def test_all_formats_hold_the_same_cells() -> None:
    table = Table(columns=["name", "a_b, %"], cells=[["x|y & z", "1 [0, 2]"], ['q"t', ""]])
    assert list(csv.reader(io.StringIO(table.as_csv()))) == [table.columns, *table.cells]
    assert table.as_markdown().splitlines()[2] == r"| x\|y & z | 1 [0, 2] |"
    latex = table.as_latex().splitlines()
    assert latex[2] == r"name & a\_b, \% \\"
    assert latex[4] == r"x|y \& z & 1 [0, 2] \\"


def test_a_panel_for_each_setting_of_several_values_with_the_others_as_series() -> None:
    rows = [row(steps + end_s, steps=steps, end_s=end_s) for steps in (6, 12) for end_s in (5.0, 20.0)]
    far = row(999.0, row=ScoreRow.FROZEN.value, end_s=20.0)
    near = row(20.0, row=ScoreRow.FLOOR.value, end_s=20.0)
    panels = panels_of(lines_of([*rows, far, near]))
    assert [panel.x_label for panel in panels] == ["sampling steps", "first seconds"]
    assert list(panels[0].series) == ["0-5 s", "0-20 s"]
    assert [(point.x, point.mean) for point in panels[1].series["steps 6"]] == [(5.0, 11.0), (20.0, 26.0)]
    assert list(panels[0].levels) == ["real against real"]  # the frozen one is far off the scale


def test_an_interval_over_seeds_does_not_fall_below_what_a_score_can_be() -> None:
    (line,) = lines_of([row(1.0, lowest=0.0), row(9.0, seed=1, lowest=0.0)])
    assert line.value.low == 0.0 and line.value.high is not None and line.value.high > 9
    (free,) = lines_of([row(1.0), row(9.0, seed=1)])
    assert free.value.low is not None and free.value.low < 0
