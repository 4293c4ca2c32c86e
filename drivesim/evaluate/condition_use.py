"""Whether a generator uses an input: take it away, shuffle it, swap it, and see what changes, how much, and where.

An output that is compared with one of the same seed changes with any input that reaches the network; whether the
input says anything is another question. So outputs of different seeds are compared: the energy distance (Székely and
Rizzo 2013) 2 E d(X, Y) - E d(X, X') - E d(Y, Y') between outputs X of the true input and Y of the other one is 0 in
the mean when the input changes nothing that the seed does not change as well.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import permutations
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from drivesim.evaluate.uncertainty import student_quantile

C = TypeVar("C")  # all inputs of one output: a scene, given frames with labels, ...
Frames = NDArray[np.uint8]  # (T, H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Generate = Callable[[C, int], Frames]  # inputs and seed -> frames; the same for the same two

SURE = 0.95  # of items that an input does nothing to, this share of tests says so: Student's t, one side
MIN_ITEMS = 3  # below, a standard error says nothing
MIN_SEEDS = 2


class Change(str, Enum):
    """What is done to one input while the others stay."""

    ZEROED = "zeroed"  # not known, or empty
    SHUFFLED = "shuffled"  # another item's
    SWAPPED = "swapped"  # its opposite


@dataclass(kw_only=True, slots=True)
class ConditionInput(Generic[C]):
    """One input of a generator, and how it is changed."""

    name: str
    zeroed: Callable[[C], C]
    shuffled: Callable[[C, C], C]  # the first one's inputs with this one of the second
    swapped: Callable[[C], C]
    place: Callable[[C, C], Mask | None] = field(default=lambda own, other: None)  # what may change; None = anything


@dataclass(kw_only=True, slots=True)
class ConditionUse:
    """What one change of one input does, averaged over items; in grey levels of 255, root mean square."""

    input: str
    change: Change
    num_items: int
    num_seeds: int
    between_seeds: float  # difference of two outputs of the same inputs, inside the place
    between_inputs: float  # difference of two outputs of other inputs and other seeds, inside the place
    excess: float  # energy distance inside the place; 0 = the input changes no more than the seed does
    excess_error: float  # standard error of it, over items
    outside_excess: float | None  # the same outside the place; None = the place is everywhere
    place_gain: float | None  # mean over items of excess - outside_excess
    place_gain_error: float | None

    @property
    def is_used(self) -> bool:
        """Whether the output changes by more than from seed to seed."""
        return self.excess > _threshold(self.num_items) * self.excess_error

    @property
    def is_in_place(self) -> bool | None:
        """Whether it changes more where it should than elsewhere; None = it may change anywhere."""
        if self.place_gain is None or self.place_gain_error is None:
            return None
        return self.place_gain > _threshold(self.num_items) * self.place_gain_error


def _threshold(num_items: int) -> float:
    """Standard errors from which on a mean over items counts as above 0: 2.9 of 3 items, 1.9 of 7."""
    return student_quantile(SURE, num_items - 1)


def condition_use(
    generate: Generate[C],
    items: Sequence[C],
    inputs: Sequence[ConditionInput[C]],
    seeds: Sequence[int] = (0, 1),
    changes: Sequence[Change] = tuple(Change),
) -> list[ConditionUse]:
    """Tests every input of a generator; calls it items x seeds x (1 + inputs x changes) times.

    A change that leaves an item as it was (mirrored boxes where there are none) says nothing and is left out.

    Args:
        generate: Any generator.
        items: Inputs of at least 3 outputs, such as held-out scenes.
        inputs: Of the generator.
        seeds: At least 2.
        changes: What to do to each input.

    Raises:
        ValueError: too few items or seeds, or outputs of different sizes.
    """
    if len(items) < MIN_ITEMS or len(set(seeds)) < MIN_SEEDS:
        raise ValueError(
            f"{len(items)} items and {len(set(seeds))} seeds; it takes at least {MIN_ITEMS} items and {MIN_SEEDS} seeds"
        )
    own = [[generate(item, seed) for seed in seeds] for item in items]
    found = []
    for tested in inputs:
        for change in changes:
            distances = list(_distances(generate, items, own, tested, change, seeds))
            if len(distances) >= MIN_ITEMS:
                found.append(_summary(tested.name, change, distances, len(seeds)))
    return found


@dataclass(kw_only=True, slots=True)
class _Distances:
    """Of one item."""

    within: float  # between seeds, of either input
    across: float
    outside: float | None  # energy distance outside the place

    @property
    def excess(self) -> float:
        return 2 * (self.across - self.within)


def _distances(
    generate: Generate[C],
    items: Sequence[C],
    own: Sequence[Sequence[Frames]],
    tested: ConditionInput[C],
    change: Change,
    seeds: Sequence[int],
) -> Iterator[_Distances]:
    for index, item in enumerate(items):
        other = _changed(tested, change, item, [*items[index + 1 :], *items[:index]])
        if other is None:
            continue
        made = [generate(other, seed) for seed in seeds]
        place = tested.place(item, other)
        if place is not None and not place.any():
            continue
        within, across = _within_and_across(own[index], made, place)
        outside = None
        if place is not None and not place.all():
            outside_within, outside_across = _within_and_across(own[index], made, ~place)
            outside = 2 * (outside_across - outside_within)
        yield _Distances(within=within, across=across, outside=outside)


def _changed(tested: ConditionInput[C], change: Change, item: C, others: Sequence[C]) -> C | None:
    """The item with one input changed, by the first of the others that is another there; None = it is as it was."""
    changed: Iterable[C] = {
        Change.ZEROED: lambda: [tested.zeroed(item)],
        Change.SHUFFLED: lambda: (tested.shuffled(item, other) for other in others),
        Change.SWAPPED: lambda: [tested.swapped(item)],
    }[change]()
    return next((other for other in changed if other is not item), None)


def first_changed(tested: ConditionInput[C], change: Change, items: Sequence[C]) -> tuple[C, C] | None:
    """The first item that a change reaches, and what becomes of it; None = it leaves all as they were."""
    for index, item in enumerate(items):
        other = _changed(tested, change, item, [*items[index + 1 :], *items[:index]])
        if other is not None:
            return item, other
    return None


def _within_and_across(own: Sequence[Frames], made: Sequence[Frames], place: Mask | None) -> tuple[float, float]:
    """Mean distance between seeds, of both inputs, and between inputs at different seeds."""
    pairs = list(permutations(range(len(own)), 2))
    within = [_distance(frames[a], frames[b], place) for frames in (own, made) for a, b in pairs if a < b]
    across = [_distance(own[a], made[b], place) for a, b in pairs]
    return float(np.mean(within)), float(np.mean(across))


def _distance(first: Frames, second: Frames, place: Mask | None) -> float:
    """Root mean square difference in grey levels, over the pixels of a place and all frames."""
    if first.shape != second.shape:
        raise ValueError(f"outputs of {first.shape} and {second.shape}; the generator must keep to one size")
    squares = np.square(first.astype(np.float32) - second)
    return float(np.sqrt((squares if place is None else squares[:, place]).mean()))


def _summary(name: str, change: Change, distances: Sequence[_Distances], num_seeds: int) -> ConditionUse:
    excess = np.array([item.excess for item in distances])
    outside = np.array([np.nan if item.outside is None else item.outside for item in distances])
    gains = (excess - outside)[~np.isnan(outside)]
    with_place = len(gains) >= MIN_ITEMS
    return ConditionUse(
        input=name,
        change=change,
        num_items=len(distances),
        num_seeds=num_seeds,
        between_seeds=float(np.mean([item.within for item in distances])),
        between_inputs=float(np.mean([item.across for item in distances])),
        excess=float(excess.mean()),
        excess_error=_standard_error(excess),
        outside_excess=float(np.nanmean(outside)) if with_place else None,
        place_gain=float(gains.mean()) if with_place else None,
        place_gain_error=_standard_error(gains) if with_place else None,
    )


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def use_lines(found: Sequence[ConditionUse]) -> Iterator[str]:
    """A table for a terminal, a line a change."""
    yield f"{'input':24}{'change':10}{'seed':>7}{'input':>7}{'excess':>16}{'in place - outside':>20}  verdict"
    for row in found:
        seeds, inputs, excess, gain = number_cells(row)
        yield f"{row.input:24}{row.change.value:10}{seeds:>7}{inputs:>7}{excess:>16}{gain:>20}  {verdict(row)}"


def number_cells(row: ConditionUse) -> list[str]:
    """Between seeds, between inputs, excess, and in place less outside, as a table shows them."""
    gain = "anywhere" if row.place_gain is None else f"{row.place_gain:.2f} ({row.place_gain_error:.2f})"
    excess = f"{row.excess:.2f} ({row.excess_error:.2f})"
    return [f"{row.between_seeds:.1f}", f"{row.between_inputs:.1f}", excess, gain]


def verdict(row: ConditionUse) -> str:
    """In words."""
    if not row.is_used:
        return "no more than from seed to seed"
    return {None: "used", True: "used, in the right place", False: "used, not only in the right place"}[row.is_in_place]
