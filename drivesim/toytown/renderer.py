"""Pictures of an episode: flat ground, then convex faces from far to near (painter's algorithm)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from drivesim.core.camera import Camera, rotation_matrix
from drivesim.toytown.episode import SEEN_M, Episode, Look
from drivesim.toytown.meshes import NUM_VERTICES, Array, Faces, Glow, join
from drivesim.toytown.scenery import visible_arms

NEAR_M = 0.25
NIGHT_LIGHT = 0.3  # of things that no headlight reaches
FOG_M = 75.0  # scale of fading into the horizon
_SHIFT = 3  # fractional bits of pixel coordinates
_ANGLES = np.arange(NUM_VERTICES) / NUM_VERTICES * 2 * np.pi
_TURN_ROUND = np.stack([np.cos(_ANGLES + np.pi / 8), np.sin(_ANGLES + np.pi / 8)], axis=-1)
SHADOW = np.array([40.0, 41, 46])


@dataclass(kw_only=True, slots=True)
class _View:
    """A camera in the town at one moment."""

    rotation: Array  # (3, 3) town axes -> camera axes
    origin: Array  # (3,) camera in the town
    ego: Array  # (3,) x, y, yaw
    intrinsic: Array  # (3, 3)
    size_hw: tuple[int, int]

    def see(self, points_m: Array) -> Array:
        """Points (..., 3) of the town in camera axes."""
        return np.asarray((points_m - self.origin) @ self.rotation.T)


def render(episode: Episode, frame: int, camera: Camera) -> NDArray[np.uint8]:
    """The picture (H, W, 3), RGB, that a camera on the ego car takes at a frame of an episode.

    Raises:
        ValueError: the frame is not one of the episode's.
    """
    if not 0 <= frame < len(episode):
        raise ValueError(f"frame {frame} of {episode.name}: it has frames 0 to {len(episode) - 1}")
    height, width = camera.size_hw
    fine = camera.resized((2 * height, 2 * width)) if width <= 1024 else camera
    view = _make_view(episode.ego_path[frame], fine)
    canvas, light = _backdrop(_camera_key(fine), _look_key(episode.look), episode.is_night)
    canvas = canvas.copy()
    _draw_ground(canvas, episode, frame, view)
    if episode.is_night:
        canvas = cv2.multiply(canvas, light, dtype=cv2.CV_8U)
    faces = _faces_in_sight(episode, frame, view)
    glows = _draw_faces(canvas, faces, episode, frame, view)
    if episode.is_night:
        _add_glows(canvas, glows)
    if fine is not camera:
        canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(canvas, dtype=np.uint8)


def _make_view(ego: Array, camera: Camera) -> _View:
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    to_town = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    origin = to_town @ camera.translation_m + np.array([ego[0], ego[1], 0.0])
    rotation = rotation_matrix(camera.rotation_wxyz).T @ to_town.T
    return _View(rotation=rotation, origin=origin, ego=ego, intrinsic=camera.intrinsic, size_hw=camera.size_hw)


_Key = tuple[float, ...]


def _camera_key(camera: Camera) -> _Key:
    numbers = np.concatenate([camera.intrinsic.ravel(), camera.translation_m, camera.rotation_wxyz])
    return (float(camera.size_hw[0]), float(camera.size_hw[1]), *numbers.tolist())


def _look_key(look: Look) -> _Key:
    return tuple(float(value) for part in (look.sky_top, look.sky_low, look.grass) for value in part)


@lru_cache(maxsize=8)
def _backdrop(camera: _Key, look: _Key, is_night: bool) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Sky and grass (H, W, 3), and the light (H, W, 3) that falls on the ground; fixed to the camera."""
    height, width = int(camera[0]), int(camera[1])
    intrinsic, origin = np.array(camera[2:11]).reshape(3, 3), np.array(camera[11:14])
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(intrinsic).T
    rays = rays @ rotation_matrix(np.array(camera[14:18])).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    sky_top, sky_low, grass = (np.array(look[i : i + 3]) for i in (0, 3, 6))
    up = np.clip(rays[..., 2:] / 0.4, 0, 1) ** 0.8
    sky = sky_low * (1 - up) + sky_top * up
    range_m = origin[2] / np.maximum(-rays[..., 2], 1e-4)
    clear = np.exp(-np.square(range_m / FOG_M))[..., None]
    picture = np.where(rays[..., 2:] > 0, sky, grass * clear + sky_low * (1 - clear))
    light = _headlight(origin[0] + rays[..., 0] * range_m, origin[1] + rays[..., 1] * range_m)
    if is_night:
        # Far ground already has the colour of the night's horizon; the light leaves that as it is.
        light = light * clear[..., 0] + (1 - clear[..., 0])
    light = np.where(rays[..., 2] > 0, 1.0, light)
    return picture.astype(np.uint8), np.repeat(light[..., None], 3, axis=-1).astype(np.float32)


def _headlight(forward_m: Array, left_m: Array) -> Array:
    """Light 0..1 at places in ego axes, at night."""
    ahead = np.clip(forward_m, 0, 200)
    cone = np.exp(-np.square(left_m / (1.6 + 0.2 * ahead))) * np.exp(-ahead / 30) * (forward_m > 0)
    return NIGHT_LIGHT + (1.05 - NIGHT_LIGHT) * np.minimum(1.15 * cone, 1.0)


def _draw_ground(canvas: NDArray[np.uint8], episode: Episode, frame: int, view: _View) -> None:
    """Flat faces in layer order, then shadows."""
    ground = episode.ground
    delta = ground.centre_m - view.origin[:2]
    ahead = delta @ np.array([np.cos(view.ego[2]), np.sin(view.ego[2])])
    # A face of an 11 m wide half road may reach into the picture from beside the camera.
    near = (ahead > -16) & (np.hypot(delta[:, 0], delta[:, 1]) < SEEN_M + 15)
    verts, colour = ground.verts_m[near], ground.colour[near]
    shadows = _shadows(episode, frame, view)
    verts = np.concatenate([verts, shadows])
    colour = np.concatenate([colour, np.tile(SHADOW, (len(shadows), 1))])
    points = view.see(np.concatenate([verts, np.zeros((*verts.shape[:2], 1))], axis=-1))
    colour = _fogged(colour, points.mean(axis=1), episode.look)
    _paint(canvas, points, colour, np.arange(len(points)), view)


def _shadows(episode: Episode, frame: int, view: _View) -> Array:
    """(N, 8, 2) dark ground below vehicles and people."""
    pose = episode.motion.pose[frame, 1:]
    size = np.array([a.size_m for a in episode.actors])[1:].reshape(-1, 3)
    near = np.hypot(pose[:, 0] - view.origin[0], pose[:, 1] - view.origin[1]) < 60
    pose, size = pose[near], size[near]
    corners = np.array([[1, 0.7], [1, -0.7], [0.8, -1], [-0.8, -1], [-1, -0.7], [-1, 0.7], [-0.8, 1], [0.8, 1]])
    x = corners[None, :, 0] * (size[:, 1, None] / 2 + 0.15)
    y = corners[None, :, 1] * (size[:, 0, None] / 2 + 0.15)
    cos, sin = np.cos(pose[:, 2:]), np.sin(pose[:, 2:])
    return np.stack([pose[:, :1] + cos * x - sin * y, pose[:, 1:2] + sin * x + cos * y], axis=-1)


def _faces_in_sight(episode: Episode, frame: int, view: _View) -> Faces:
    """Faces that are near, ahead and turned to the camera, in the town."""
    scenery = episode.scenery
    delta = scenery.part_m[:, :2] - view.origin[:2]
    ahead = delta @ np.array([np.cos(view.ego[2]), np.sin(view.ego[2])])
    scenery = scenery.select(
        (ahead > -8) & (ahead * 1.0 + 12 > 0.55 * np.linalg.norm(delta, axis=1)) & (np.hypot(*delta.T) < SEEN_M)
    )
    faces = join([scenery, _bodies_in_sight(episode, frame, view)])
    centre = faces.verts_m.mean(axis=1)
    towards = ((view.origin - centre) * faces.normal).sum(axis=1)
    return faces.select((towards > 0) | ~faces.normal.any(axis=1))


def _bodies_in_sight(episode: Episode, frame: int, view: _View) -> Faces:
    """Faces of the actors that are near and ahead, in the town."""
    pose = episode.motion.pose[frame]
    delta = pose[:, :2] - view.origin[:2]
    ahead = delta @ np.array([np.cos(view.ego[2]), np.sin(view.ego[2])])
    near = (ahead > -6) & (np.hypot(delta[:, 0], delta[:, 1]) < SEEN_M)
    faces = episode.bodies.select(near[episode.bodies.owner])
    yaw = pose[faces.owner, 2]
    cos, sin, zero = np.cos(yaw), np.sin(yaw), np.zeros(len(yaw))
    turn = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, zero + 1], axis=-1).reshape(-1, 3, 3)
    move = np.concatenate([pose[faces.owner, :2], zero[:, None]], axis=1)
    faces.verts_m = faces.verts_m @ turn + move[:, None]
    faces.normal = (faces.normal[:, None] @ turn)[:, 0]
    faces.part_m = (faces.part_m[:, None] @ turn)[:, 0] + move
    return faces


def _draw_faces(canvas: NDArray[np.uint8], faces: Faces, episode: Episode, frame: int, view: _View) -> list[Array]:
    """Draws from far to near. Returns lamps (x_px, y_px, radius_px, r, g, b) that glow at night."""
    points = view.see(faces.verts_m)
    is_round = faces.round_m[:, 0] > 0
    points[is_round, :, :2] += _TURN_ROUND * faces.round_m[is_round][:, None]
    distance = np.linalg.norm(faces.part_m - view.origin, axis=1)
    order = np.lexsort((np.arange(len(faces)), -distance))
    middle = points.mean(axis=1)
    colour, glowing = _lit(faces, middle, episode, frame, view)
    colour = _fogged(colour, middle, episode.look)
    _paint(canvas, points, colour, order, view)
    lamps = []
    for index in np.flatnonzero(glowing & (middle[:, 2] > 1.0)):
        pixel = view.intrinsic @ middle[index]
        if not _shows(canvas, pixel[:2] / pixel[2], colour[index]):
            continue
        radius = view.intrinsic[0, 0] * 0.32 / middle[index, 2]
        lamps.append(np.array([*pixel[:2] / pixel[2], radius, *colour[index]]))
    return lamps


def _shows(canvas: NDArray[np.uint8], pixel: Array, colour: Array) -> bool:
    """Whether a lamp was not painted over: its own colour is still there (or it is beside the picture)."""
    x, y = int(pixel[0]), int(pixel[1])
    if not (0 <= x < canvas.shape[1] and 0 <= y < canvas.shape[0]):
        return True
    return bool(np.abs(canvas[y, x] - np.round(colour)).max() <= 1)


def _lit(faces: Faces, middle: Array, episode: Episode, frame: int, view: _View) -> tuple[Array, NDArray[np.bool_]]:
    """(F, 3) colours under the scene's light, and (F,) which faces shine themselves."""
    look, glow, night = episode.look, faces.glow, episode.is_night
    sunny = look.ambient + (1.06 - look.ambient) * np.maximum(faces.normal @ look.sun, 0)
    sunny = np.where(faces.normal.any(axis=1), sunny, 0.95)
    if night:
        delta = faces.verts_m.mean(axis=1)[:, :2] - view.ego[:2]
        cos, sin = np.cos(view.ego[2]), np.sin(view.ego[2])
        forward, left = delta[:, 0] * cos + delta[:, 1] * sin, delta[:, 1] * cos - delta[:, 0] * sin
        sunny = sunny * (_headlight(forward, left) + 0.06)
    colour = faces.colour * sunny[:, None]
    glowing = np.zeros(len(faces), dtype=bool)
    body = faces.owner >= 0
    braking = np.zeros(len(faces), dtype=bool)
    tail = glow == Glow.TAIL
    braking[tail] = episode.motion.braking[frame][faces.owner[tail]]
    colour[tail & braking] = (255, 40, 30)
    moving = np.zeros(len(faces), dtype=bool)
    car = body & ((glow == Glow.HEAD) | tail)
    moving[car] = np.array([a.way is not None for a in episode.actors])[faces.owner[car]]
    if night:
        colour[tail & ~braking & moving] = (214, 14, 18)
        colour[(glow == Glow.HEAD) & moving] = (255, 250, 226)
        colour[glow == Glow.WINDOW] = (255, 214, 120)
        colour[glow == Glow.LAMP] = (255, 226, 160)
        glowing = ((glow == Glow.HEAD) | tail) & moving | (glow == Glow.LAMP)
    green = visible_arms(faces.owner, int(episode.motion.green_axis[frame]))
    clearing = int(episode.motion.green_axis[frame]) < 0
    for lamp, on in ((Glow.RED, ~green), (Glow.GREEN, green), (Glow.AMBER, np.full(len(faces), clearing))):
        chosen = glow == lamp
        colour[chosen & ~on] = (52, 46, 44)
        colour[chosen & on] = faces.colour[chosen & on]
    return colour, glowing


def _fogged(colour: Array, middle: Array, look: Look) -> Array:
    """Colours that fade into the horizon with distance."""
    clear = np.exp(-np.square(np.linalg.norm(middle, axis=-1) / FOG_M))[:, None]
    return np.clip(colour * clear + look.sky_low * (1 - clear), 0, 255)


def _paint(canvas: NDArray[np.uint8], points: Array, colour: Array, order: NDArray[np.int64], view: _View) -> None:
    """Fills faces (F, 8, 3) in camera axes, in that order, cut at the near plane and left out beside the picture."""
    height, width = view.size_hw
    whole = points[..., 2].min(axis=1) >= NEAR_M
    plane = points @ view.intrinsic.T  # pixels times depth
    pixels = plane[..., :2] / np.maximum(points[..., 2], NEAR_M)[..., None]
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    inside = (high > 0).all(axis=1) & (low[:, 0] < width) & (low[:, 1] < height)
    cut = np.flatnonzero(~whole & (points[..., 2].max(axis=1) > NEAR_M))
    inside[~whole] = False
    inside[cut] = _may_show(plane[cut], width, height)
    # Pixel centres are at half: cv2 puts them at whole numbers.
    fixed = np.round((pixels - 0.5) * (1 << _SHIFT)).astype(np.int32)
    colours = np.round(colour).astype(int).tolist()
    for index in order[inside[order]].tolist():
        if whole[index]:
            cv2.fillConvexPoly(canvas, fixed[index], colours[index], cv2.LINE_8, _SHIFT)
        else:
            corners = _cut(points[index], view.intrinsic)
            cv2.fillConvexPoly(canvas, corners, colours[index], cv2.LINE_8, _SHIFT)


def _may_show(plane: Array, width: int, height: int) -> NDArray[np.bool_]:
    """(F,) faces not wholly beyond one side of the picture (pixels times depth, some behind the camera)."""
    x, y, depth = plane[..., 0], plane[..., 1], plane[..., 2]
    left, right = x < -2 * depth, x > (width + 2) * depth
    above, below = y < -2 * depth, y > (height + 2) * depth
    return ~np.asarray(left.all(axis=1) | right.all(axis=1) | above.all(axis=1) | below.all(axis=1))


def _cut(points: Array, intrinsic: Array) -> NDArray[np.int32]:
    """Fixed-point pixels (K, 2) of the part of one face in front of the near plane."""
    following = np.roll(points, -1, axis=0)
    kept = []
    for here, there in zip(points, following, strict=True):
        if here[2] >= NEAR_M:
            kept.append(here)
        if (here[2] >= NEAR_M) != (there[2] >= NEAR_M):
            share = (NEAR_M - here[2]) / (there[2] - here[2])
            kept.append(here + share * (there - here))
    cut = np.array(kept)
    pixels = (cut @ intrinsic.T)[:, :2] / np.maximum(cut[:, 2:], NEAR_M) - 0.5
    return np.asarray(np.round(pixels * (1 << _SHIFT)).astype(np.int32))


def _add_glows(canvas: NDArray[np.uint8], lamps: list[Array]) -> None:
    """Soft light around lamps."""
    height, width = canvas.shape[:2]
    small = np.zeros((height // 4, width // 4, 3), dtype=np.uint8)
    for lamp in lamps:
        x, y, radius = lamp[:3] / 4
        if -20 < x < width and -20 < y < height:
            cv2.circle(
                small,
                (int(x * 8), int(y * 8)),
                int(max(radius, 0.6) * 8),
                (lamp[3:] * 0.6).tolist(),
                -1,
                cv2.LINE_AA,
                3,
            )
    small = cv2.GaussianBlur(small, (0, 0), max(width / 256, 0.8))
    cv2.add(canvas, cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dst=canvas)
