"""One scene from its number: roads, motion, looks, and exact boxes of every frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import COUNTED_AS_CARS, Boxes3D
from drivesim.core.camera import Camera, corners_m
from drivesim.core.seeds import numpy_generator
from drivesim.toytown.actors import Actor, make_actors
from drivesim.toytown.config import TownConfig, Turn, TurnOdds
from drivesim.toytown.meshes import Array, Faces, join, mesh_for
from drivesim.toytown.roads import Town, make_town
from drivesim.toytown.scenery import Ground, make_ground, make_scenery
from drivesim.toytown.traffic import CYCLE_S, Motion, run_traffic

SEEN_M = 85.0  # nothing farther away is drawn or annotated
_ID_SIZE_HW = (128, 256)  # picture in which visibility is counted


@dataclass(kw_only=True, slots=True)
class Look:
    """Colours (RGB 0..255) and light of a scene."""

    sky_top: Array  # (3,)
    sky_low: Array  # (3,) at the horizon; far things fade into it
    grass: Array  # (3,)
    sun: Array  # (3,) direction towards the sun, in the town
    ambient: float  # light in the shade, 0..1


@dataclass(kw_only=True, slots=True)
class Episode:
    """A simulated drive with T frames. Actor 0 is the ego car."""

    name: str
    scene_index: int
    fps: float
    times_s: Array  # (T,)
    ego_path: Array  # (T, 3) x_m, y_m, yaw_rad in the town
    boxes: tuple[Boxes3D, ...]  # T; ego axes; visibility in Camera.front
    lanes: list[Array]  # (K, 2) centre lines in the town, in driving direction
    is_night: bool
    turn: Turn
    town: Town
    actors: list[Actor]
    motion: Motion
    look: Look
    ground: Ground
    scenery: Faces
    bodies: Faces  # of all actors but the ego car, each in its own axes

    def __len__(self) -> int:
        return len(self.times_s)

    def num_cars(self, frame: int) -> int:
        """Cars, trucks and buses of which something is seen in a frame."""
        boxes = self.boxes[frame]
        assert boxes.visibility is not None
        counted = np.isin(boxes.class_ids, [c.id for c in COUNTED_AS_CARS])
        return int((counted & (boxes.visibility > 0.1)).sum())

    def description(self) -> str:
        """One line for people, such as "night, left turn, 3 cars"."""
        light = "night" if self.is_night else "day"
        way = {Turn.NONE: "no junction", Turn.STRAIGHT: "straight on"}.get(self.turn, f"{self.turn.value} turn")
        cars = max(self.num_cars(frame) for frame in range(len(self)))
        return f"{light}, {way}, {cars} {'car' if cars == 1 else 'cars'}"


def simulate(config: TownConfig, scene_index: int) -> Episode:
    """Scene number `scene_index` of a town; the same for every order, process and number of scenes."""

    def random(purpose: str) -> np.random.Generator:
        return numpy_generator(config.seed, "toytown", scene_index, purpose)

    plan = random("plan")
    is_night = bool(plan.random() < config.night_share)
    turn = _choose_turn(plan, config)
    parking = bool(plan.random() < config.parked_share)
    town = make_town(random("roads"), junction=turn is not Turn.NONE, parking=parking)
    actors = make_actors(random("actors"), town, turn, config)
    offset_s = _signal_offset(random("signals"), actors[0], town)
    motion = run_traffic(actors, town, config.num_frames, config.fps, offset_s)
    scenery = make_scenery(random("scenery"), town)
    bodies = join([mesh_for(a.object_class, a.size_m, a.colour).placed(0, 0, 0, i) for i, a in enumerate(actors) if i])
    episode = Episode(
        name=config.scene_name(scene_index),
        scene_index=scene_index,
        fps=config.fps,
        times_s=np.arange(config.num_frames) / config.fps,
        ego_path=motion.pose[:, 0].copy(),
        boxes=(),
        lanes=town.lanes(),
        is_night=is_night,
        turn=turn,
        town=town,
        actors=actors,
        motion=motion,
        look=_make_look(random("look"), is_night),
        ground=make_ground(random("ground"), town),
        scenery=scenery,
        bodies=bodies,
    )
    episode.boxes = _annotate(episode)
    return episode


def _choose_turn(rng: np.random.Generator, config: TownConfig) -> Turn:
    odds = config.turn_odds or TurnOdds()
    weights = np.array([odds.left, odds.straight, odds.right])
    choice = (Turn.LEFT, Turn.STRAIGHT, Turn.RIGHT)[int(rng.choice(3, p=weights / weights.sum()))]
    return choice if rng.random() < config.junction_share else Turn.NONE


def _signal_offset(rng: np.random.Generator, ego: Actor, town: Town) -> float:
    """Mostly green when the ego car arrives, so that most scenes show the turn."""
    if rng.random() < 0.15 or ego.way is None or town.radius_m == 0:
        return float(rng.uniform(0, CYCLE_S))
    arrival = (ego.way.stop_s_m - ego.start_s_m) / (0.75 * ego.wish_speed)
    return float((rng.uniform(1, 5) - arrival) % CYCLE_S)


def _make_look(rng: np.random.Generator, is_night: bool) -> Look:
    height, around = rng.uniform(0.5, 0.9), rng.uniform(0, 2 * np.pi)
    flat = np.sqrt(1 - height**2)
    sun = np.array([np.cos(around) * flat, np.sin(around) * flat, height])
    if is_night:
        return Look(
            sky_top=np.array([8.0, 10, 26]),
            sky_low=np.array([30.0, 34, 58]),
            grass=np.array([100.0, 140, 84]),
            sun=sun,
            ambient=0.75,
        )
    warm = rng.uniform(0, 1)
    return Look(
        sky_top=np.array([70.0, 140, 226]) + warm * np.array([50, 20, -30]),
        sky_low=np.array([198.0, 220, 240]) + warm * np.array([20, -4, -20]),
        grass=np.array([104.0, 148, 78]),
        sun=sun,
        ambient=0.6,
    )


def _annotate(episode: Episode) -> tuple[Boxes3D, ...]:
    """Boxes of every frame in ego axes, with visibility."""
    actors, pose = episode.actors, episode.motion.pose
    size = np.array([a.size_m for a in actors])
    class_ids = np.array([a.object_class.id for a in actors])
    names = np.array([f"{episode.name}-{i:03d}" for i in range(len(actors))])
    camera = Camera.front(_ID_SIZE_HW)
    frames = []
    for frame in range(len(pose)):
        place = to_ego(pose[frame, :, :2], episode.ego_path[frame])
        near = np.hypot(place[:, 0], place[:, 1]) < SEEN_M
        near[0] = False
        yaw = pose[frame, near, 2] - episode.ego_path[frame, 2]
        zero = np.zeros_like(yaw)
        boxes = Boxes3D(
            center_m=np.concatenate([place[near], size[near, 2:] / 2], axis=1),
            size_m=size[near],
            rotation_wxyz=np.stack([np.cos(yaw / 2), zero, zero, np.sin(yaw / 2)], axis=-1),
            class_ids=class_ids[near],
            track_ids=names[near],
        )
        boxes.visibility = _visibility(boxes, camera)
        frames.append(boxes)
    return tuple(frames)


def to_ego(points_m: Array, ego: Array) -> Array:
    """Points (..., 2) from the town to the axes of an ego pose (x, y, yaw)."""
    delta = points_m - ego[:2]
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    return np.stack([delta[..., 0] * cos + delta[..., 1] * sin, -delta[..., 0] * sin + delta[..., 1] * cos], axis=-1)


def _visibility(boxes: Boxes3D, camera: Camera) -> Array:
    """(N,) share of each box's pixels in the picture that no nearer box covers; 0 outside it."""
    shares = np.zeros(len(boxes))
    corners = camera.ego_to_camera(corners_m(boxes))
    corners[..., 2] = np.maximum(corners[..., 2], 0.2)
    seen = np.flatnonzero((camera.ego_to_camera(boxes.center_m)[:, 2] > -2) & (corners[..., 2].max(axis=1) > 0.3))
    pixels = np.round(np.clip(camera.project(corners), -4000, 4000)).astype(np.int32)
    order = seen[np.argsort(-np.linalg.norm(boxes.center_m[seen], axis=1))]
    picture: NDArray[np.int32] = np.full(camera.size_hw, -1, dtype=np.int32)
    alone: NDArray[np.uint8] = np.zeros(camera.size_hw, dtype=np.uint8)
    total = np.zeros(len(boxes))
    for index in order:
        hull = cv2.convexHull(pixels[index])
        alone[:] = 0
        cv2.fillConvexPoly(alone, hull, 1)
        total[index] = cv2.countNonZero(alone)
        cv2.fillConvexPoly(picture, hull, int(index))
    left = np.bincount(picture[picture >= 0].ravel(), minlength=len(boxes))
    shares[order] = left[order] / np.maximum(total[order], 1)
    return shares
