"""Whether a generator uses an input: take it away, shuffle it, swap it, and see what changes, how much, and where.

An output that is compared with one of the same seed changes with any input that reaches the network; whether the
input says anything is another question. So outputs of different seeds are compared: the energy distance (Székely and
Rizzo 2013) 2 E d(X, Y) - E d(X, X') - E d(Y, Y') between outputs X of the true input and Y of the other one is 0 in
the mean when the input changes nothing that the seed does not change as well.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

SURE = 0.995  # probability with which a mean is above 0 before it counts as such; a table holds several of them


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
        return self._is_sure(self.excess, self.excess_error)

    @property
    def is_in_place(self) -> bool | None:
        """Whether it changes more where it should than elsewhere; None = it may change anywhere."""
        if self.place_gain is None or self.place_gain_error is None:
            return None
        return self._is_sure(self.place_gain, self.place_gain_error)

    def _is_sure(self, mean: float, error: float) -> bool:
        """By Student's t: a standard error from a handful of items is itself uncertain."""
        return mean > student_quantile(SURE, self.num_items - 1) * error


def condition_use(
    generate: Generate[C],
    items: Sequence[C],
    inputs: Sequence[ConditionInput[C]],
    seeds: Sequence[int] = (0, 1),
    changes: Sequence[Change] = tuple(Change),
) -> list[ConditionUse]:
    """Tests every input of a generator; calls it items x seeds x (1 + inputs x changes) times.

    A change that leaves an item as it was (shuffled day for day) says nothing and is left out.

    Args:
        generate: Any generator.
        items: Inputs of at least 3 outputs, such as held-out scenes.
        inputs: Of the generator.
        seeds: At least 2.
        changes: What to do to each input.

    Raises:
        ValueError: too few items or seeds, or outputs of different sizes.
    """
    if len(items) < 3 or len(set(seeds)) < 2:
        raise ValueError(f"{len(items)} items and {len(set(seeds))} seeds; it takes at least 3 items and 2 seeds")
    own = [[generate(item, seed) for seed in seeds] for item in items]
    found = []
    for tested in inputs:
        for change in changes:
            distances = list(_distances(generate, items, own, tested, change, seeds))
            if len(distances) >= 3:
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
        other = _changed(tested, change, item, items[(index + 1) % len(items)])
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


def _changed(tested: ConditionInput[C], change: Change, item: C, neighbour: C) -> C | None:
    """The item with one input changed; None = it is as it was."""
    other = {
        Change.ZEROED: lambda: tested.zeroed(item),
        Change.SHUFFLED: lambda: tested.shuffled(item, neighbour),
        Change.SWAPPED: lambda: tested.swapped(item),
    }[change]()
    return None if other is item else other


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
    with_place = len(gains) >= 3
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
    yield f"{'input':16}{'change':10}{'seed':>7}{'input':>7}{'excess':>16}{'in place - outside':>20}  verdict"
    for row in found:
        excess = f"{row.excess:.2f} ({row.excess_error:.2f})"
        gain = "anywhere" if row.place_gain is None else f"{row.place_gain:.2f} ({row.place_gain_error:.2f})"
        yield (
            f"{row.input:16}{row.change.value:10}{row.between_seeds:7.1f}{row.between_inputs:7.1f}"
            f"{excess:>16}{gain:>20}  {verdict(row)}"
        )


def verdict(row: ConditionUse) -> str:
    """In words."""
    if not row.is_used:
        return "no more than from seed to seed"
    return {None: "used", True: "used, in the right place", False: "used, not only in the right place"}[row.is_in_place]
