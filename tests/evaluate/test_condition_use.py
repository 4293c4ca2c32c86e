"""Generators that use an input, that ignore it, and that let it change the wrong place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from drivesim.core.seeds import derive_seed, numpy_generator
from drivesim.evaluate.condition_use import Change, ConditionInput, ConditionUse, condition_use, use_lines, verdict

Frames = NDArray[np.uint8]
HEIGHT, WIDTH = 32, 64


@dataclass(kw_only=True, slots=True, frozen=True)
class Inputs:
    """A bright object at a column, or none, by day or at night."""

    column: int | None
    is_night: bool


ITEMS = [Inputs(column=8 * index, is_night=index % 2 == 0) for index in range(7)]


def place_of(*items: Inputs) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for item in items:
        if item.column is not None:
            mask[8:24, item.column : item.column + 12] = True
    return mask


INPUTS = [
    ConditionInput[Inputs](
        name="object",
        zeroed=lambda item: replace(item, column=None),
        shuffled=lambda item, other: replace(item, column=other.column),
        swapped=lambda item: replace(item, column=52 - (item.column or 0)),
        place=place_of,
    ),
    ConditionInput[Inputs](
        name="night",
        zeroed=lambda item: replace(item, is_night=False) if item.is_night else item,
        shuffled=lambda item, other: (
            replace(item, is_night=other.is_night) if item.is_night != other.is_night else item
        ),
        swapped=lambda item: replace(item, is_night=not item.is_night),
    ),
]


def scenery(item: Inputs, seed: int) -> Frames:
    """A ground that depends on the seed alone."""
    return np.random.default_rng(seed).integers(60, 120, size=(2, HEIGHT, WIDTH, 3)).astype(np.uint8)


def obedient(item: Inputs, seed: int) -> Frames:
    frames = scenery(item, seed)
    frames[:, place_of(item)] = 200
    return frames // 3 if item.is_night else frames


def careless(item: Inputs, seed: int) -> Frames:
    """Reads its inputs as part of the seed: other inputs, other noise, and nothing else."""
    return scenery(item, derive_seed(f"c1 {item.column} {item.is_night}", seed))


def misplaced(item: Inputs, seed: int) -> Frames:
    """An object in the wrong half of the picture."""
    frames = scenery(item, seed)
    frames[:, :6, :] = 60 + 2 * (item.column or 0)
    return frames


def found(generate: Callable[[Inputs, int], Frames]) -> dict[tuple[str, Change], ConditionUse]:
    rows = condition_use(generate, ITEMS, INPUTS, seeds=(0, 1, 2))
    return {(row.input, row.change): row for row in rows}


def test_inputs_that_are_used_are_found_in_their_place() -> None:
    rows = found(obedient)
    assert set(rows) == {(tested.name, change) for tested in INPUTS for change in Change}
    assert all(row.is_used for row in rows.values())
    assert all(rows["object", change].is_in_place is True for change in Change)
    assert all(rows["night", change].is_in_place is None for change in Change)
    assert rows["night", Change.ZEROED].num_items == 4  # where it was night
    assert "used, in the right place" in "\n".join(use_lines(list(rows.values())))


def test_an_input_that_only_changes_the_noise_is_not_used() -> None:
    rows = [
        row
        for first in range(0, 60, 3)
        for row in condition_use(careless, ITEMS, INPUTS, seeds=(first, first + 1, first + 2))
    ]
    assert all(row.between_inputs > 10 for row in rows)  # the pictures do change
    assert np.mean([row.excess for row in rows]) == pytest.approx(0, abs=0.03)
    assert np.mean([row.is_used for row in rows]) < 0.1  # Student: 0.046 of 7 items, 0.07 of 4
    assert {verdict(row) for row in rows if not row.is_used} == {"no more than from seed to seed"}


def test_an_input_that_is_ignored_is_not_used() -> None:
    assert not any(row.is_used for row in found(scenery).values())


def test_a_change_in_the_wrong_place_is_told() -> None:
    rows = found(misplaced)
    row = rows["object", Change.SHUFFLED]
    assert row.outside_excess is not None and row.outside_excess > row.excess
    assert row.is_in_place is False


def test_the_excess_is_the_energy_distance() -> None:
    def noisy(item: Inputs, seed: int) -> Frames:
        rng = numpy_generator("noise", item.column or 0, seed)
        level = 100 + (40 if item.is_night else 0)
        return np.clip(rng.normal(level, 10, size=(4, 64, 64, 3)), 0, 255).astype(np.uint8)

    rows = {(row.input, row.change): row for row in condition_use(noisy, ITEMS, INPUTS[1:], seeds=(0, 1, 2, 3))}
    # Of pictures of many independent pixels: sqrt(2 s^2 + d^2) across, sqrt(2 s^2) within.
    expected = 2 * (np.sqrt(2 * 10**2 + 40**2) - np.sqrt(2 * 10**2))
    assert rows["night", Change.SWAPPED].excess == pytest.approx(expected, rel=0.02)


def test_too_few_items_or_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="3 items and 2 seeds"):
        condition_use(obedient, ITEMS[:2], INPUTS)
    with pytest.raises(ValueError, match="3 items and 2 seeds"):
        condition_use(obedient, ITEMS, INPUTS, seeds=(1, 1))
