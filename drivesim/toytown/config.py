"""What a person can choose about a toy town."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Turn(str, Enum):
    """What the ego car does at the junction."""

    LEFT = "left"
    STRAIGHT = "straight"
    RIGHT = "right"
    NONE = "none"  # the road has no junction


@dataclass(kw_only=True, slots=True)
class TurnOdds:
    """Odds of the ego car's choice at a junction; any non-negative numbers, their ratio counts."""

    left: float = 0.3  # turns into the arm on its left
    straight: float = 0.4  # crosses the junction
    right: float = 0.3  # turns into the arm on its right


@dataclass(kw_only=True, slots=True)
class TownConfig:
    """A set of scenes. A scene depends on `seed` and on its own number alone."""

    num_scenes: int = 10  # scenes that `write_nuscenes` writes
    first_scene: int = 0  # number of the first of them
    duration_s: float = 20.0  # length of a scene
    fps: float = 12.0  # frames a second; every frame is drawn
    key_fps: float = 2.0  # annotated frames a second; must divide fps
    size_hw: tuple[int, int] = (128, 256)  # height and width of the pictures in pixels
    seed: int = 0  # everything random follows from it
    night_share: float = 0.3  # share of the scenes that are at night
    junction_share: float = 0.85  # share of the scenes with a junction ahead of the ego car
    turn_odds: TurnOdds | None = None  # at a junction; None = the defaults of TurnOdds
    traffic_density: float = 1.0  # 0 = empty roads, 1 = a car about every 30 m of lane
    parked_share: float = 0.6  # share of the scenes with parking strips along the road
    num_pedestrians: float = 10.0  # people in a scene, on average

    def __post_init__(self) -> None:
        """Refuses what cannot be simulated."""
        for name in ("num_scenes", "first_scene", "traffic_density", "num_pedestrians"):
            if getattr(self, name) < 0:
                raise ValueError(f"TownConfig.{name} is {getattr(self, name)}; it must not be negative")
        for name in ("duration_s", "fps", "key_fps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"TownConfig.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("night_share", "junction_share", "parked_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"TownConfig.{name} is {getattr(self, name)}; it must be between 0 and 1")
        ratio = self.fps / self.key_fps
        if abs(ratio - round(ratio)) > 1e-6 or ratio < 1:
            raise ValueError(f"TownConfig.key_fps is {self.key_fps}; fps ({self.fps}) must be a multiple of it")
        odds = self.turn_odds or TurnOdds()
        if min(odds.left, odds.straight, odds.right) < 0 or odds.left + odds.straight + odds.right <= 0:
            raise ValueError("TownConfig.turn_odds: none may be negative and one must be above 0")

    @property
    def num_frames(self) -> int:
        """Frames of one scene."""
        return max(1, round(self.duration_s * self.fps))

    def scene_name(self, scene_index: int) -> str:
        """Name of a scene in the tables."""
        return f"toytown-{scene_index:04d}"
