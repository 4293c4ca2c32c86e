"""The inputs of the model families, and how each is taken away, shuffled and swapped for its opposite.

Driving: boxes, night and number of cars of a designed frame; given frame, night and, where a model is told it, motion
of the frames predicted from it.
Text: the prompt. Decoders, interpolation and upsamplers are told of none of these and stay out.

Legend: T frames, C channels, H W pixels or latents.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.conditioning.driving import DrivingConditions
from drivesim.core.boxes import Boxes2D
from drivesim.core.motion import MotionSegment
from drivesim.core.scene import Scene
from drivesim.core.seeds import torch_generator
from drivesim.evaluate.boxes import box_mask
from drivesim.evaluate.condition_use import ConditionInput, Frames
from drivesim.families.drive import DriveFacts
from drivesim.families.driving import DrivingModel
from drivesim.families.prompts import Prompts
from drivesim.families.text import TextModel
from drivesim.models.autoencoder import decode

MANY_CARS = 8  # the opposite of n cars are this many less n
_KEY = "condition use"  # of all noise
# Words of prompts that say the opposite of each other, as whole words.
OPPOSITES = (("day", "night"), ("left", "right"), ("empty", "crowded"), ("sunny", "rainy"), ("straight", "turning"))


@dataclass(kw_only=True, slots=True)
class Design:
    """What one frame is designed from. None = not known."""

    name: str  # part of the noise's key
    size_hw: tuple[int, int]  # of the picture that the boxes refer to
    boxes: Boxes2D
    is_night: bool | None
    num_cars: int | None

    def sha256(self) -> str:
        """Digest of all that a designed frame follows from."""
        arrays = self.boxes.xyxy_px.tobytes() + self.boxes.class_ids.tobytes()
        return hashlib.sha256(
            f"{self.name} {self.size_hw} {self.is_night} {self.num_cars}".encode() + arrays
        ).hexdigest()


@dataclass(kw_only=True, slots=True)
class Given:
    """What frames are predicted from."""

    name: str  # part of the noise's key
    latents_CHW: torch.Tensor  # of the given frame
    drive: DriveFacts  # what is said of it

    def sha256(self) -> str:
        """Digest of all that predicted frames follow from."""
        latents = self.latents_CHW.float().contiguous().numpy().tobytes()
        return hashlib.sha256(f"{self.name} {self.drive.facts()}".encode() + latents).hexdigest()


@dataclass(kw_only=True, slots=True)
class Asked:
    """What a video is asked to show."""

    prompt: str  # "" = nothing is said

    def sha256(self) -> str:
        """Digest of the prompt."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()


def design_of(scene: Scene, name: str, size_hw: tuple[int, int]) -> Design:
    """A scene as what a frame of `size_hw` is designed from."""
    boxes = scene.picture_boxes(size_hw)
    return Design(name=name, size_hw=size_hw, boxes=boxes, is_night=scene.is_night, num_cars=scene.count_cars())


def mirrored(inputs: Design) -> Design:
    """The same with its boxes mirrored from left to right."""
    if not len(inputs.boxes):
        return inputs
    boxes = inputs.boxes.select(np.arange(len(inputs.boxes)))
    boxes.xyxy_px = inputs.size_hw[1] * np.array([1, 0, 1, 0]) + inputs.boxes.xyxy_px[:, [2, 1, 0, 3]] * [-1, 1, -1, 1]
    return replace(inputs, boxes=boxes)


def opposite(asked: Asked) -> Asked:
    """The same with words for their opposites; itself where none of OPPOSITES is in it."""
    other = {word: against for pair in OPPOSITES for word, against in (pair, pair[::-1])}
    prompt = re.sub(rf"\b({'|'.join(other)})\b", lambda found: other[found[0]], asked.prompt)
    return asked if prompt == asked.prompt else replace(asked, prompt=prompt)


def turning(index: int) -> tuple[MotionSegment, ...]:
    """A quarter turn in five seconds, to the left for an even item and to the right for an odd one."""
    return (MotionSegment(seconds=5.0, speed_mps=6.0, yaw_deg_per_s=-18.0 if index % 2 else 18.0),)


def _other_way(motion: tuple[MotionSegment, ...]) -> tuple[MotionSegment, ...]:
    return tuple(replace(segment, yaw_deg_per_s=-segment.yaw_deg_per_s) for segment in motion)


def _driven(own: Given, **changes: Any) -> Given:
    return replace(own, drive=replace(own.drive, **changes))


DESIGN_INPUTS = [
    ConditionInput[Design](
        name="boxes",
        zeroed=lambda own: replace(own, boxes=Boxes2D.empty()) if len(own.boxes) else own,
        shuffled=lambda own, other: replace(own, boxes=other.boxes) if len(own.boxes) + len(other.boxes) else own,
        swapped=mirrored,
        place=lambda own, other: box_mask(own.boxes, own.size_hw) | box_mask(other.boxes, own.size_hw),
    ),
    ConditionInput[Design](
        name="night",
        zeroed=lambda own: own if own.is_night is None else replace(own, is_night=None),
        shuffled=lambda own, other: own if own.is_night == other.is_night else replace(own, is_night=other.is_night),
        swapped=lambda own: own if own.is_night is None else replace(own, is_night=not own.is_night),
    ),
    ConditionInput[Design](
        name="number of cars",
        zeroed=lambda own: own if own.num_cars is None else replace(own, num_cars=None),
        shuffled=lambda own, other: own if own.num_cars == other.num_cars else replace(own, num_cars=other.num_cars),
        swapped=lambda own: replace(own, num_cars=max(0, MANY_CARS - (own.num_cars or 0))),
    ),
]

GIVEN_INPUTS = [
    ConditionInput[Given](
        name="given frame",
        zeroed=lambda own: replace(own, latents_CHW=torch.zeros_like(own.latents_CHW)),
        shuffled=lambda own, other: replace(own, latents_CHW=other.latents_CHW),
        swapped=lambda own: replace(own, latents_CHW=own.latents_CHW.flip(-1)),  # left is right
    ),
    ConditionInput[Given](
        name="night of what follows",
        zeroed=lambda own: own if own.drive.is_night is None else _driven(own, is_night=None),
        shuffled=lambda own, other: (
            own if own.drive.is_night == other.drive.is_night else _driven(own, is_night=other.drive.is_night)
        ),
        swapped=lambda own: own if own.drive.is_night is None else _driven(own, is_night=not own.drive.is_night),
    ),
]

# Of models that are told how the ego car drives.
MOTION_INPUT = ConditionInput[Given](
    name="motion",
    zeroed=lambda own: _driven(own, motion=()),
    shuffled=lambda own, other: (
        own if own.drive.motion == other.drive.motion else _driven(own, motion=other.drive.motion)
    ),
    swapped=lambda own: _driven(own, motion=_other_way(own.drive.motion)),
)

TEXT_INPUTS = [
    ConditionInput[Asked](
        name="prompt",
        zeroed=lambda own: replace(own, prompt=""),
        shuffled=lambda own, other: own if own == other else other,
        swapped=opposite,
    ),
]


@dataclass(slots=True)
class Designer:
    """Makes the frame that a scene asks for."""

    model: DrivingModel

    def __call__(self, inputs: Design, seed: int) -> Frames:
        """One frame (1, H, W, 3)."""
        conditions = DrivingConditions.of_pictures([inputs.boxes], inputs.size_hw, [inputs.is_night], [inputs.num_cars])
        latents = self.model.design(conditions, [torch_generator(_KEY, inputs.name, seed)])
        return self.model.decode(latents)


@dataclass(slots=True)
class Predictor:
    """Makes what follows a given frame: one call of the prediction."""

    model: DrivingModel

    def __call__(self, given: Given, seed: int) -> Frames:
        """Key frames (T, H, W, 3) without the given one, which comes back as it was."""
        generators = [torch_generator(_KEY, given.name, seed)]
        latents = self.model.predict(given.latents_CHW[None, None], generators=generators, conditions=[given.drive])
        return self.model.decode(latents[0, 1:])


@dataclass(slots=True)
class TextVideo:
    """Makes the key frames that a prompt asks for."""

    model: TextModel

    def __call__(self, asked: Asked, seed: int) -> Frames:
        """Key frames (T, H, W, 3) before upscaling."""
        none_SHWC: NDArray[np.uint8] = np.zeros((0, *self.model.start_hw, 3), np.uint8)
        prompts = Prompts(prompts=[asked.prompt]) if asked.prompt else Prompts.unsaid()
        latents = self.model.predict(
            self.model.encode(none_SHWC)[None], generators=[torch_generator(_KEY, seed)], conditions=[prompts]
        )
        return decode(self.model.parts.image.vae, latents[0])
