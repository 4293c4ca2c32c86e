"""Which of its inputs the shipped model uses: boxes, night, number of cars, given frames.

Few scenes and few sampling steps; the table is printed, the claims are those that hold with so little.
"""

from __future__ import annotations

import numpy as np
import pytest

from drivesim.core.camera import Camera
from drivesim.diffusion.settings import PredictionOverrides, SamplerOverrides
from drivesim.evaluate.boxes import box_mask
from drivesim.evaluate.condition_use import Change, ConditionUse, condition_use, use_lines
from drivesim.families.drive import DriveFacts
from drivesim.families.driving import DrivingModel
from drivesim.families.stages import StagesConfig, Upsampling
from drivesim.sweep.condition_inputs import (
    DESIGN_INPUTS,
    GIVEN_INPUTS,
    MOTION_INPUT,
    Design,
    Designer,
    Given,
    Predictor,
    turning,
)
from drivesim.toytown import TownConfig, render, simulate
from tests.evaluate.town_videos import TownVideo, boxes_of

FIRST_HELD_OUT = 9000
SIZE_HW = (64, 128)
TOWN = TownConfig(fps=4.0, key_fps=4.0, duration_s=2.0)
CAMERA = Camera.front(SIZE_HW)


@pytest.fixture(scope="module")
def model() -> DrivingModel:
    return DrivingModel.from_pretrained(
        "toytown",
        design_sampling=SamplerOverrides(steps=5),
        predict_sampling=PredictionOverrides(steps=2),
        stages=StagesConfig(interpolate=False, upsampling=Upsampling.NONE),
    )


def videos(num: int) -> list[TownVideo]:
    """Held-out scenes by day and by night in turn, each with a large box."""
    found: list[TownVideo] = []
    for scene in range(FIRST_HELD_OUT, FIRST_HELD_OUT + 99):
        episode = simulate(TOWN, scene)
        video = TownVideo(episode=episode, frames_THWC=np.zeros(0, dtype=np.uint8))
        share = box_mask(boxes_of(video)[0], SIZE_HW).mean()
        if episode.is_night == bool(len(found) % 2) and 0.04 < share < 0.5:
            found.append(video)
        if len(found) == num:
            break
    return found


def by_name(rows: list[ConditionUse]) -> dict[tuple[str, Change], ConditionUse]:
    print(*use_lines(rows), sep="\n")
    return {(row.input, row.change): row for row in rows}


def test_designed_frames_use_boxes_in_their_place_and_night(model: DrivingModel) -> None:
    items = []
    for video in videos(5):
        boxes, night = boxes_of(video)[0], video.episode.is_night
        items.append(
            Design(name=video.episode.name, size_hw=SIZE_HW, boxes=boxes, is_night=night, num_cars=boxes.num_cars())
        )
    rows = by_name(condition_use(Designer(model), items, DESIGN_INPUTS))
    assert rows["boxes", Change.SWAPPED].is_used
    gain = rows["boxes", Change.SWAPPED].place_gain
    assert gain is not None and gain > 0
    assert rows["night", Change.SWAPPED].is_used


def test_predicted_frames_use_the_given_one(model: DrivingModel) -> None:
    items = []
    for index, video in enumerate(videos(4)):
        latents = model.encode(render(video.episode, 0, CAMERA)[None])[0]
        drive = DriveFacts(is_night=video.episode.is_night, motion=turning(index))
        items.append(Given(name=video.episode.name, latents_CHW=latents, drive=drive))
    rows = by_name(condition_use(Predictor(model), items, [*GIVEN_INPUTS, MOTION_INPUT]))
    assert rows["given frame", Change.SHUFFLED].is_used
    assert rows["motion", Change.SWAPPED].is_used
    assert rows["given frame", Change.ZEROED].excess > 0
