"""Roads of one scene: up to four arms that meet at the origin, and the ways through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANE_M = 3.5
PARKING_M = 2.3
ARM_LENGTH_M = 320.0
SIDEWALK_M = 3.2
LATERAL_COMFORT = 2.6  # m/s^2 in bends
BRAKE_COMFORT = 1.8  # m/s^2 before bends

Array = NDArray[np.float64]


@dataclass(kw_only=True, slots=True)
class Arm:
    """A road from the junction outward; points are 1 m apart on its centre line."""

    points_m: Array  # (K, 2)
    yaw_rad: Array  # (K,) direction outward

    def at(self, s_m: Array | float, offset_m: Array | float) -> Array:
        """Points (..., 2) at a distance from the junction, `offset_m` to the left of outward."""
        grid = np.arange(len(self.yaw_rad), dtype=np.float64)
        yaw = np.interp(s_m, grid, self.yaw_rad)
        x = np.interp(s_m, grid, self.points_m[:, 0]) - np.sin(yaw) * offset_m
        y = np.interp(s_m, grid, self.points_m[:, 1]) + np.cos(yaw) * offset_m
        return np.stack([x, y], axis=-1)

    def yaw_at(self, s_m: float) -> float:
        """Outward direction at a distance from the junction."""
        return float(np.interp(s_m, np.arange(len(self.yaw_rad)), self.yaw_rad))


@dataclass(kw_only=True, slots=True)
class Way:
    """What one vehicle drives: along a lane to the junction, through it, and on; points 1 m apart."""

    points_m: Array  # (K, 2)
    yaw_rad: Array  # (K,) unwrapped
    speed_limit: Array  # (K,) m/s that bends allow, with braking before them
    stop_s_m: float  # where the stop line is; inf = none
    exit_s_m: float  # where the junction ends
    from_arm: int
    to_arm: int


@dataclass(kw_only=True, slots=True)
class Town:
    """The roads of one scene. Arms: 0 ego comes from, 1 straight on, 2 left, 3 right."""

    arms: list[Arm]
    num_lanes: int  # a direction
    parking_m: float  # width of the strip on each side; 0 = none
    radius_m: float  # half size of the junction; 0 = the road simply goes on

    @property
    def lanes_half_m(self) -> float:
        """From the centre line to the edge of the lanes."""
        return self.num_lanes * LANE_M

    @property
    def half_m(self) -> float:
        """From the centre line to the kerb."""
        return self.lanes_half_m + self.parking_m

    @property
    def stop_m(self) -> float:
        """Distance of the stop line from the junction's centre."""
        return self.radius_m + 5.0

    def distance_to_road_m(self, points_m: Array) -> Array:
        """(N,) distance of points (N, 2) to the nearest centre line."""
        centre = np.concatenate([arm.points_m[::3] for arm in self.arms])
        gaps = np.linalg.norm(points_m[:, None] - centre[None], axis=-1)
        return np.asarray(gaps.min(axis=1))

    def lanes(self) -> list[Array]:
        """Centre lines (K, 2) of all lanes, each in driving direction."""
        lines = []
        for arm in self.arms:
            s_m = np.arange(self.radius_m, ARM_LENGTH_M - 1, 2.0)
            for lane in range(self.num_lanes):
                offset = (lane + 0.5) * LANE_M
                lines.append(arm.at(s_m[::-1], offset))
                lines.append(arm.at(s_m, -offset))
        return lines

    def way(self, from_arm: int, to_arm: int, lane: int) -> Way:
        """The way from one arm to another in a lane (0 = next to the centre line)."""
        offset = (lane + 0.5) * LANE_M
        s_m = np.arange(self.radius_m, ARM_LENGTH_M - 1, 1.0)
        inward = self.arms[from_arm].at(s_m[::-1], offset)
        outward = self.arms[to_arm].at(s_m, -offset)
        if self.radius_m > 0:
            middle = _bezier(inward[-1], inward[-1] - inward[-3], outward[0], outward[2] - outward[0])
            points = np.concatenate([inward, middle, outward])
        else:
            points = np.concatenate([inward, outward[1:]])
        points = _resample(points)
        delta = np.gradient(points, axis=0)
        yaw = np.unwrap(np.arctan2(delta[:, 1], delta[:, 0]))
        yaw = np.convolve(np.pad(yaw, 2, mode="edge"), np.ones(5) / 5, mode="valid")
        to_junction = float(np.linalg.norm(np.diff(inward, axis=0), axis=1).sum())
        return Way(
            points_m=points,
            yaw_rad=yaw,
            speed_limit=_speed_limit(yaw),
            stop_s_m=to_junction - (self.stop_m - self.radius_m) if self.radius_m > 0 else np.inf,
            exit_s_m=to_junction + 2 * self.radius_m,
            from_arm=from_arm,
            to_arm=to_arm,
        )


def make_town(rng: np.random.Generator, *, junction: bool, parking: bool) -> Town:
    """Random roads; every number comes from `rng`."""
    num_lanes = int(rng.choice([1, 2], p=[0.65, 0.35]))
    parking_m = PARKING_M if parking else 0.0
    half = num_lanes * LANE_M + parking_m
    directions = [np.pi, 0.0, np.pi / 2, -np.pi / 2]
    if junction:
        tilt = rng.uniform(-0.14, 0.14, size=4)
        arms = [_make_arm(rng, direction + t, 26.0) for direction, t in zip(directions, tilt, strict=True)]
    else:
        arms = [_make_arm(rng, direction, 4.0, strong=True) for direction in directions[:2]]
    return Town(arms=arms, num_lanes=num_lanes, parking_m=parking_m, radius_m=half + 4.5 if junction else 0.0)


def _make_arm(rng: np.random.Generator, yaw: float, straight_m: float, strong: bool = False) -> Arm:
    """An arm that leaves the junction straight and then bends, once or twice."""
    s_m = np.arange(ARM_LENGTH_M)
    yaws = np.full(len(s_m), yaw)
    start = straight_m + rng.uniform(0, 15)
    for _ in range(3 if strong else 2):
        length = rng.uniform(35, 70)
        angle = rng.uniform(0.25, 0.75) * rng.choice([-1.0, 1.0]) * (rng.random() < 0.8)
        if abs(yaws[-1] + angle - yaw) > 0.75:
            angle = -angle
        share = np.clip((s_m - start) / length, 0, 1)
        yaws = yaws + angle * share * share * (3 - 2 * share)
        start += length + rng.uniform(10, 50)
    steps = np.stack([np.cos(yaws), np.sin(yaws)], axis=-1)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps[:-1], axis=0)])
    return Arm(points_m=points, yaw_rad=yaws)


def _bezier(start: Array, start_direction: Array, end: Array, end_direction: Array) -> Array:
    """A cubic curve between two lanes."""
    reach = 0.45 * float(np.linalg.norm(end - start))
    first = start + start_direction / np.linalg.norm(start_direction) * reach
    second = end - end_direction / np.linalg.norm(end_direction) * reach
    t = np.linspace(0, 1, 42)[1:-1, None]
    return np.asarray((1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * end)


def _resample(points_m: Array) -> Array:
    """The same line with points 1 m apart."""
    s = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points_m, axis=0), axis=1))])
    grid = np.arange(0, s[-1], 1.0)
    return np.stack([np.interp(grid, s, points_m[:, axis]) for axis in range(2)], axis=-1)


def _speed_limit(yaw_rad: Array) -> Array:
    """What bends allow at every metre, and braking in time for them."""
    bend = np.abs(np.gradient(yaw_rad)) + 1e-6
    limit = np.minimum(np.sqrt(LATERAL_COMFORT / bend), 30.0)
    for i in range(len(limit) - 2, -1, -1):
        limit[i] = min(limit[i], np.sqrt(limit[i + 1] ** 2 + 2 * BRAKE_COMFORT))
    return limit
