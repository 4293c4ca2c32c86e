"""Which of its inputs the shipped model uses: boxes, night, number of cars, given frames.

Few scenes and few sampling steps; the table is printed, the claims are those that hold with so little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.conditioning.driving import DrivingConditions
from drivesim.core.boxes import Boxes2D
from drivesim.core.camera import Camera
from drivesim.core.seeds import torch_generator
from drivesim.diffusion.settings import PredictionOverrides, SamplerOverrides
from drivesim.evaluate.boxes import box_mask
from drivesim.evaluate.condition_use import Change, ConditionInput, ConditionUse, condition_use, use_lines
from drivesim.families.driving import DrivingModel
from drivesim.families.stages import StagesConfig, Upsampling
from drivesim.models.autoencoder import decode
from drivesim.toytown import TownConfig, render, simulate
from tests.evaluate.town_videos import TownVideo, boxes_of

Frames = NDArray[np.uint8]
FIRST_HELD_OUT = 9000
SIZE_HW = (64, 128)
TOWN = TownConfig(fps=4.0, key_fps=4.0, duration_s=2.0)
CAMERA = Camera.front(SIZE_HW)
MANY_CARS = 8


@dataclass(kw_only=True, slots=True)
class Design:
    """What a start frame is designed from. None = not known."""

    boxes: Boxes2D | None
    is_night: bool | None
    num_cars: int | None


@dataclass(kw_only=True, slots=True)
class Given:
    """What frames are predicted from."""

    latents_SCHW: torch.Tensor
    is_night: bool


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


def mirrored(boxes: Boxes2D) -> Boxes2D:
    other = boxes.select(np.arange(len(boxes)))
    other.xyxy_px = SIZE_HW[1] * np.array([1, 0, 1, 0]) + boxes.xyxy_px[:, [2, 1, 0, 3]] * [-1, 1, -1, 1]
    return other


def known_boxes(inputs: Design) -> Boxes2D:
    return Boxes2D.empty() if inputs.boxes is None else inputs.boxes


DESIGN_INPUTS = [
    ConditionInput[Design](
        name="boxes",
        zeroed=lambda inputs: replace(inputs, boxes=Boxes2D.empty()),
        shuffled=lambda inputs, other: replace(inputs, boxes=other.boxes),
        swapped=lambda inputs: replace(inputs, boxes=mirrored(known_boxes(inputs))),
        place=lambda own, other: box_mask(known_boxes(own), SIZE_HW) | box_mask(known_boxes(other), SIZE_HW),
    ),
    ConditionInput[Design](
        name="night",
        zeroed=lambda inputs: replace(inputs, is_night=None),
        shuffled=lambda inputs, other: replace(inputs, is_night=other.is_night),
        swapped=lambda inputs: replace(inputs, is_night=not inputs.is_night),
    ),
    ConditionInput[Design](
        name="number of cars",
        zeroed=lambda inputs: replace(inputs, num_cars=None),
        shuffled=lambda inputs, other: (
            inputs if inputs.num_cars == other.num_cars else replace(inputs, num_cars=other.num_cars)
        ),
        swapped=lambda inputs: replace(inputs, num_cars=max(0, MANY_CARS - (inputs.num_cars or 0))),
    ),
]

GIVEN_INPUTS = [
    ConditionInput[Given](
        name="given frames",
        zeroed=lambda given: replace(given, latents_SCHW=torch.zeros_like(given.latents_SCHW)),
        shuffled=lambda given, other: replace(given, latents_SCHW=other.latents_SCHW),
        swapped=lambda given: replace(given, latents_SCHW=given.latents_SCHW.flip(0)),
    ),
]


def by_name(rows: list[ConditionUse]) -> dict[tuple[str, Change], ConditionUse]:
    print(*use_lines(rows), sep="\n")
    return {(row.input, row.change): row for row in rows}


def test_designed_frames_use_boxes_in_their_place_and_night(model: DrivingModel) -> None:
    items = []
    for video in videos(5):
        boxes = boxes_of(video)[0]
        items.append(Design(boxes=boxes, is_night=video.episode.is_night, num_cars=boxes.num_cars()))

    def design(inputs: Design, seed: int) -> Frames:
        conditions = DrivingConditions.of_pictures([inputs.boxes], SIZE_HW, [inputs.is_night], [inputs.num_cars])
        return decode(model.autoencoder, model.design(conditions, [torch_generator("condition use", seed)]))

    rows = by_name(condition_use(design, items, DESIGN_INPUTS))
    assert rows["boxes", Change.SWAPPED].is_used
    gain = rows["boxes", Change.SWAPPED].place_gain
    assert gain is not None and gain > 0
    assert rows["night", Change.SWAPPED].is_used


def test_predicted_frames_use_the_given_ones(model: DrivingModel) -> None:
    items = []
    for video in videos(4):
        pictures = np.stack([render(video.episode, frame, CAMERA) for frame in (0, 1)])
        items.append(Given(latents_SCHW=model.encode(pictures), is_night=video.episode.is_night))

    def predict(given: Given, seed: int) -> Frames:
        generators = [torch_generator("condition use", seed)]
        latents = model.predict(given.latents_SCHW[None], generators=generators, conditions=[given.is_night])
        return decode(model.autoencoder, latents[0, 2:5])

    rows = by_name(condition_use(predict, items, GIVEN_INPUTS))
    assert rows["given frames", Change.SHUFFLED].is_used
    assert rows["given frames", Change.ZEROED].excess > 0
