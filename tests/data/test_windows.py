"""Where clips may begin, and how often each place comes by the words of its captions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from drivesim.data.captions import Captions
from drivesim.data.conditions import Conditions, ConditionsBuilder
from drivesim.data.windows import CaptionWeight, Windows, caption_weights_of, tell_left_out

TEXTS_TP = [["a drive", "day"], ["Left turn, day", "day"], ["day", "turning right."], ["left, then right", "lefty"]]


def drive(texts_TP: list[list[str]] | None) -> Conditions:
    made = ConditionsBuilder(4, None, has_boxes=False).build()
    made.valid_T[:] = True
    made.captions = None if texts_TP is None else Captions.of_frames(texts_TP)
    return made


def weights(of: dict[str, float]) -> list[CaptionWeight]:
    return [CaptionWeight(word=word, weight=weight) for word, weight in of.items()]


def test_a_place_weighs_what_the_heaviest_word_of_any_phrasing_says() -> None:
    found = caption_weights_of(Captions.of_frames(TEXTS_TP), {"left": 3.0, "right": 0.5})
    np.testing.assert_array_equal(found, [1.0, 3.0, 0.5, 3.0])


def test_places_come_as_often_as_they_weigh_whatever_drive_they_are_in() -> None:
    drives = {"a": drive(TEXTS_TP), "b": drive([["day", "night"]] * 4)}
    drives["a"].valid_T[3] = False
    windows = Windows(drives, 4.0, 1, None, weights({"left": 6.0, "right": 2.0}))
    rng = np.random.default_rng(0)
    counts = Counter((name, int(frames[0]) % 4) for name, frames in (windows.choose(rng) for _ in range(26_000)))
    expected = {("a", 0): 1, ("a", 1): 6, ("a", 2): 2} | {("b", frame): 1 for frame in range(4)}
    assert counts.keys() == expected.keys()
    for place, weight in expected.items():
        assert counts[place] / 26_000 == pytest.approx(weight / 13, abs=0.01)


def test_without_weights_every_place_is_as_likely_and_captions_are_not_needed() -> None:
    windows = Windows({"a": drive(None)}, 4.0, 1, None)
    rng = np.random.default_rng(0)
    counts = Counter(int(windows.choose(rng)[1][0]) for _ in range(4_000))
    assert all(count == pytest.approx(1_000, abs=120) for count in counts.values())


def test_words_that_no_caption_holds_and_drives_without_captions_are_refused() -> None:
    with pytest.raises(ValueError, match="no caption of a clip holds 'lefts', 'uphill'"):
        Windows({"a": drive(TEXTS_TP)}, 4.0, 1, None, weights({"left": 2.0, "lefts": 2.0, "uphill": 3.0}))
    drives = {"a": drive(TEXTS_TP), "b": drive(None)}
    with pytest.raises(ValueError, match="b has no captions"):
        Windows(drives, 4.0, 1, None, weights({"left": 2.0}))
    drives["b"].valid_T[:] = False
    assert len(Windows(drives, 4.0, 1, None, weights({"left": 2.0}))) == 4, "nothing can begin in b"
    drives["a"].valid_T[[1, 3]] = False
    with pytest.raises(ValueError, match="no caption of a clip holds 'left'"):
        Windows(drives, 4.0, 1, None, weights({"left": 2.0}))


def test_drives_in_which_no_clip_fits_at_any_rate_are_told(caplog: pytest.LogCaptureFixture) -> None:
    drives = {"long": drive(None), "gaps": drive(None), "short": drive(None)}
    drives["gaps"].valid_T[1] = drives["short"].valid_T[2:] = False
    tell_left_out([Windows(drives, 4.0, 2, fps) for fps in (4.0, 2.0)])
    assert caplog.messages == []
    tell_left_out([Windows(drives, 4.0, 3, None)])
    assert caplog.messages == [
        "2 of 3 drives hold no 3 frames at 4 fps without a gap and are left out, the first: gaps"
    ]


@pytest.mark.parametrize(
    ("word", "weight", "message"),
    [
        ("left", 0.0, "above 0"), ("left", float("inf"), "above 0"), ("Left", 2.0, "lower case"),
        ("left turn", 2.0, "one word"), ("left,", 2.0, "one word"),
    ],
)  # fmt: skip
def test_weights_that_mean_nothing_are_refused(word: str, weight: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionWeight(word=word, weight=weight)
