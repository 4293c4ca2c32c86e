"""Errors of decoded videos: what is wrong all the time, and what flickers."""

from __future__ import annotations

import numpy as np
import pytest

from drivesim.evaluate.extractors import ExtractorConfig, make_extractor
from drivesim.evaluate.reconstruction import Reconstruction, ReconstructionMeter

RNG = np.random.default_rng(0)
REAL = RNG.integers(60, 190, (3, 4, 64, 128, 3), dtype=np.uint8)  # clips


def measured(decoded: np.ndarray) -> Reconstruction:
    meter = ReconstructionMeter(make_extractor(ExtractorConfig(name="toytown-clip")))
    for real, made in zip(REAL, decoded, strict=True):
        meter.update(real, made)
    return meter.compute()


def test_the_real_video_has_no_error() -> None:
    same = measured(REAL)
    assert (same.num_clips, same.change_error, same.error) == (3, 0.0, 0.0)
    assert same.clip_distance == pytest.approx(0.0, abs=1e-6)


def test_what_is_wrong_in_every_frame_has_an_error_and_does_not_flicker() -> None:
    always = measured(REAL + np.uint8(6))
    assert (always.change_error, always.error) == (0.0, 6.0)


def test_what_is_wrong_in_every_other_frame_flickers_twice_as_much_as_it_is_wrong() -> None:
    swing = np.array([1, -1, 1, -1]).reshape(4, 1, 1, 1) * 6
    flickering = measured((REAL + swing).astype(np.uint8))
    assert (flickering.change_error, flickering.error) == (12.0, 6.0)
    assert flickering.clip_distance > 1e-3


def test_clips_of_other_shapes_are_refused() -> None:
    meter = ReconstructionMeter(make_extractor(ExtractorConfig(name="toytown-clip")))
    with pytest.raises(ValueError, match="expected equal shapes, 2 frames at least"):
        meter.update(REAL[0], REAL[0, 1:])
    with pytest.raises(ValueError, match="expected equal shapes, 2 frames at least"):
        meter.update(REAL[0, :1], REAL[0, :1])
