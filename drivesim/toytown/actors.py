"""Who is on the road: sizes, colours and starting places of everybody in a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import ObjectClass
from drivesim.toytown.config import TownConfig, Turn
from drivesim.toytown.roads import ARM_LENGTH_M, Town, Way

Array = NDArray[np.float64]

# width, length, height in metres, and the spread of sizes
SIZES: dict[ObjectClass, tuple[float, float, float]] = {
    ObjectClass.CAR: (1.9, 4.5, 1.6),
    ObjectClass.TRUCK: (2.4, 7.2, 3.1),
    ObjectClass.BUS: (2.6, 11.0, 3.2),
    ObjectClass.MOTORCYCLE: (0.8, 2.1, 1.6),
    ObjectClass.BICYCLE: (0.65, 1.8, 1.75),
    ObjectClass.PEDESTRIAN: (0.65, 0.6, 1.75),
}
PAINTS = (
    (214, 36, 40),  # red
    (32, 84, 206),  # blue
    (246, 200, 24),  # yellow
    (240, 240, 240),  # white
    (244, 116, 22),  # orange
    (24, 152, 74),  # green
    (30, 176, 204),  # cyan
    (150, 48, 168),  # purple
    (40, 42, 50),  # black
)
TURN_ARM = {Turn.STRAIGHT: 1, Turn.LEFT: 2, Turn.RIGHT: 3, Turn.NONE: 1}


@dataclass(kw_only=True, slots=True)
class Actor:
    """One road user. `way` None = does not drive; `walk` None = does not walk."""

    object_class: ObjectClass
    size_m: tuple[float, float, float]  # width, length, height
    colour: tuple[int, int, int]
    way: Way | None = None
    start_s_m: float = 0.0  # on the way
    wish_speed: float = 0.0  # m/s on a free straight road
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, y, yaw of what is parked
    walk: Array | None = None  # (K, 2) line that a person walks along
    walk_speed: float = 0.0  # m/s
    walk_start_s: float = 0.0  # when a person sets off


def make_actors(rng: np.random.Generator, town: Town, turn: Turn, config: TownConfig) -> list[Actor]:
    """Everybody in a scene; the first is the ego car."""
    ego = _make_ego(rng, town, turn)
    actors = [ego]
    if config.traffic_density > 0:
        actors += _inbound(rng, town, ego, config.traffic_density)
        actors += _outbound(rng, town, ego, config.traffic_density)
    if town.parking_m > 0:
        actors += _parked(rng, town)
    if config.traffic_density > 0 and rng.random() < 0.25:
        actors.append(_obstacle(rng, town, ego))
    actors += _walkers(rng, town, ego, config.num_pedestrians)
    return actors


def _make_ego(rng: np.random.Generator, town: Town, turn: Turn) -> Actor:
    if turn is Turn.NONE:
        gap, speed, lane = rng.uniform(110, 200), rng.uniform(9.5, 15), town.num_lanes - 1
    else:
        gap, speed = rng.uniform(45, 95), rng.uniform(8.5, 13)
        lane = {Turn.LEFT: 0, Turn.RIGHT: town.num_lanes - 1}.get(turn, int(rng.integers(town.num_lanes)))
    way = town.way(0, TURN_ARM[turn], lane)
    to_junction = ARM_LENGTH_M - 2 - town.radius_m
    return Actor(
        object_class=ObjectClass.CAR,
        size_m=(1.85, 4.4, 1.55),
        colour=(90, 90, 90),
        way=way,
        start_s_m=max(to_junction - gap, 5.0),
        wish_speed=speed,
    )


def _vehicle(rng: np.random.Generator, way: Way, start_s_m: float) -> Actor:
    kinds = [ObjectClass.CAR, ObjectClass.TRUCK, ObjectClass.BUS, ObjectClass.MOTORCYCLE, ObjectClass.BICYCLE]
    kind = kinds[int(rng.choice(5, p=[0.76, 0.09, 0.06, 0.05, 0.04]))]
    speed = {ObjectClass.BICYCLE: rng.uniform(3.8, 5.4), ObjectClass.BUS: rng.uniform(7, 10)}
    return Actor(
        object_class=kind,
        size_m=_size(rng, kind),
        colour=_paint(rng),
        way=way,
        start_s_m=start_s_m,
        wish_speed=float(speed.get(kind, rng.uniform(8.0, 13.0))),
    )


def _size(rng: np.random.Generator, kind: ObjectClass) -> tuple[float, float, float]:
    width, length, height = SIZES[kind]
    scale = rng.uniform(0.93, 1.08, size=3)
    return float(width * scale[0]), float(length * scale[1]), float(height * scale[2])


def _paint(rng: np.random.Generator) -> tuple[int, int, int]:
    return PAINTS[int(rng.integers(len(PAINTS)))]


def _inbound(rng: np.random.Generator, town: Town, ego: Actor, density: float) -> list[Actor]:
    """Traffic on its way to the junction, on every arm and lane."""
    assert ego.way is not None
    actors: list[Actor] = []
    length = ARM_LENGTH_M - 2 - town.radius_m
    for arm in range(len(town.arms)):
        for lane in range(town.num_lanes):
            s = length - (town.stop_m - town.radius_m) - rng.uniform(2, 30)
            while s > 12:
                others = [a for a in range(len(town.arms)) if a != arm]
                to_arm = _exit_of(rng, arm, lane, others, town.num_lanes)
                if arm == 0 and rng.random() < 0.5:
                    to_arm = ego.way.to_arm
                if arm != 0 or abs(s - ego.start_s_m) > 18 and s > ego.start_s_m - 60:
                    actors.append(_vehicle(rng, town.way(arm, to_arm, lane), s))
                s -= 14 + rng.exponential(46 / density)
    return actors


def _exit_of(rng: np.random.Generator, arm: int, lane: int, others: list[int], num_lanes: int) -> int:
    """Left turns start in the left lane and right turns in the right one."""
    straight, left, right = {0: (1, 2, 3), 1: (0, 3, 2), 2: (3, 1, 0), 3: (2, 0, 1)}[arm]
    odds = {straight: 0.6, left: 0.2 if lane == 0 else 0.0, right: 0.2 if lane == num_lanes - 1 else 0.0}
    weights = np.array([odds[other] for other in others])
    return int(others[int(rng.choice(len(others), p=weights / weights.sum()))])


def _outbound(rng: np.random.Generator, town: Town, ego: Actor, density: float) -> list[Actor]:
    """Traffic that has left the junction already."""
    actors: list[Actor] = []
    for arm in range(len(town.arms)):
        from_arm = {0: 1, 1: 0, 2: 3, 3: 2}[arm]
        if from_arm >= len(town.arms):
            continue
        for lane in range(town.num_lanes):
            way = town.way(from_arm, arm, lane)
            s = way.exit_s_m + rng.uniform(5, 40)
            while s < way.exit_s_m + 120:
                actors.append(_vehicle(rng, way, s))
                s += 18 + rng.exponential(36 / density)
    return actors


def _parked(rng: np.random.Generator, town: Town) -> list[Actor]:
    """Cars along the kerb."""
    actors: list[Actor] = []
    share = rng.uniform(0.2, 0.55)
    for arm in town.arms:
        for side in (-1, 1):
            for s in np.arange(town.radius_m + 14, 200, 6.6):
                if rng.random() > share:
                    continue
                offset = side * (town.half_m - 1.12)
                x, y = arm.at(float(s), offset)
                yaw = arm.yaw_at(float(s)) + (0.0 if side < 0 else np.pi)
                kind = ObjectClass.CAR if rng.random() < 0.93 else ObjectClass.TRUCK
                size = _size(rng, kind)
                size = (min(size[0], 2.1), min(size[1], 6.0), size[2] * (0.8 if kind is ObjectClass.TRUCK else 1.0))
                pose = (float(x), float(y), float(yaw))
                actors.append(Actor(object_class=kind, size_m=size, colour=_paint(rng), pose=pose))
    return actors


def _obstacle(rng: np.random.Generator, town: Town, ego: Actor) -> Actor:
    """A vehicle that stands in the ego car's lane and must be overtaken."""
    assert ego.way is not None
    if ego.start_s_m + 75 < ego.way.stop_s_m or (town.radius_m == 0 and rng.random() < 0.5):
        s = ego.start_s_m + rng.uniform(22, 34)
    else:
        s = ego.way.exit_s_m + rng.uniform(30, 70)
    index = int(s)
    x, y = ego.way.points_m[index]
    yaw = float(ego.way.yaw_rad[index])
    kind = ObjectClass.TRUCK if rng.random() < 0.5 else ObjectClass.CAR
    shift = -0.9
    pose = (float(x - np.sin(yaw) * shift), float(y + np.cos(yaw) * shift), yaw)
    return Actor(object_class=kind, size_m=_size(rng, kind), colour=_paint(rng), pose=pose)


def _walkers(rng: np.random.Generator, town: Town, ego: Actor, average: float) -> list[Actor]:
    """People on the pavements, some of whom cross the road."""
    actors: list[Actor] = []
    for _ in range(int(rng.poisson(average))):
        arm_index = int(rng.integers(len(town.arms)))
        arm = town.arms[arm_index]
        side = float(rng.choice([-1.0, 1.0]))
        offset = side * (town.half_m + rng.uniform(0.9, 2.4))
        s = rng.uniform(town.radius_m + 6, 110)
        away = np.arange(0, 60, 1.0)
        line = (
            arm.at(s + away, offset)
            if rng.random() < 0.5
            else arm.at(np.clip(s - away, town.radius_m + 5, None), offset)
        )
        start_s = 0.0
        if rng.random() < 0.25:
            crossing = np.linspace(offset, -offset, 12)
            at = s if town.radius_m == 0 or rng.random() < 0.3 else town.radius_m + 2.0
            line = np.concatenate([arm.at(np.full(12, at), crossing), arm.at(at + away[:30], -offset)])
            start_s = rng.uniform(0, 12)
        actors.append(
            Actor(
                object_class=ObjectClass.PEDESTRIAN,
                size_m=_size(rng, ObjectClass.PEDESTRIAN),
                colour=_paint(rng),
                walk=line,
                walk_speed=float(rng.uniform(0.9, 1.7)),
                walk_start_s=start_s,
            )
        )
    return actors


def is_left_turn(way: Way) -> bool:
    """Whether a way crosses oncoming traffic."""
    return {0: 2, 1: 3, 2: 1, 3: 0}[way.from_arm] == way.to_arm
