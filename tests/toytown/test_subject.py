"""Pictures of one car: large, of its own colour, and the same every time."""

from __future__ import annotations

import numpy as np

from drivesim.toytown import TownConfig
from drivesim.toytown.subject import PINK, subject_pictures


def pink_share(picture: np.ndarray) -> float:
    red, green, blue = (picture[..., c].astype(int) for c in range(3))
    return float(((red - green > 60) & (blue - green > 40)).mean())


def test_the_subject_is_seen_in_every_picture_and_nowhere_else() -> None:
    town = TownConfig(duration_s=4.0, fps=4.0, key_fps=4.0, size_hw=(64, 128), night_share=0.0, traffic_density=1.5)
    pictures = list(subject_pictures(town, 2))
    assert [picture.shape for picture in pictures] == [(64, 128, 3)] * 2
    assert min(map(pink_share, pictures)) > 0.01
    plain = next(subject_pictures(town, 1, colour=(24, 152, 74)))
    assert pink_share(plain) == 0
    np.testing.assert_array_equal(next(subject_pictures(town, 1)), pictures[0])
    assert PINK[1] < 100
