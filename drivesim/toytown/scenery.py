"""What never moves: ground, markings, houses, trees, lamps and signals of a town."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPoint

from drivesim.toytown.meshes import GLASS, NUM_VERTICES, Array, Colour, Faces, Glow, MeshBuilder, join
from drivesim.toytown.roads import LANE_M, SIDEWALK_M, Arm, Town

ASPHALT: Colour = (92, 94, 100)
STRIP: Colour = (110, 110, 112)
PAVEMENT: Colour = (178, 172, 162)
KERB: Colour = (214, 212, 206)
WHITE: Colour = (244, 244, 240)
YELLOW: Colour = (244, 200, 60)
WALLS: tuple[Colour, ...] = (
    (206, 120, 92),
    (226, 200, 150),
    (150, 168, 186),
    (222, 214, 204),
    (176, 142, 112),
    (198, 156, 164),
)
ROOFS: tuple[Colour, ...] = ((134, 62, 50), (90, 84, 88), (112, 82, 60))
LEAVES: tuple[Colour, ...] = ((52, 122, 52), (78, 140, 50), (40, 104, 66), (126, 142, 48))
SEGMENT_M = 4.0


@dataclass(kw_only=True, slots=True)
class Ground:
    """G flat faces on the road's level, drawn in this order."""

    verts_m: Array  # (G, 8, 2)
    colour: Array  # (G, 3)
    centre_m: Array  # (G, 2)


class _Painter:
    """Collects flat faces by layer."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Array, Colour]] = []

    def add(self, layer: int, points: Array, colour: Colour) -> None:
        """A flat convex face of at most eight corners (K, 2)."""
        padded = np.concatenate([points, np.repeat(points[-1:], NUM_VERTICES - len(points), axis=0)])
        self.rows.append((layer, padded, colour))

    def ribbon(self, layer: int, arm: Arm, s: tuple[float, float], offset: tuple[float, float], colour: Colour) -> None:
        """A piece of an arm between two distances and two offsets."""
        corners = arm.at(np.array([s[0], s[1], s[1], s[0]]), np.array([offset[0], offset[0], offset[1], offset[1]]))
        self.add(layer, corners, colour)

    def build(self) -> Ground:
        """All faces, lowest layer first."""
        rows = sorted(self.rows, key=lambda row: row[0])
        verts = np.array([row[1] for row in rows])
        return Ground(verts_m=verts, colour=np.array([row[2] for row in rows]), centre_m=verts.mean(axis=1))


def make_ground(rng: np.random.Generator, town: Town) -> Ground:
    """Grass, pavements, asphalt and everything painted on it."""
    painter = _Painter()
    _meadows(rng, town, painter)
    wide = [town.half_m + SIDEWALK_M, town.half_m + 0.3, town.half_m, town.lanes_half_m]
    for arm in town.arms:
        for s in np.arange(max(town.radius_m - 1, 0), 315, SEGMENT_M):
            piece = (float(s), float(s + SEGMENT_M))
            shade = float(rng.uniform(-3, 3))
            painter.ribbon(1, arm, piece, (-wide[0], wide[0]), _shaded(PAVEMENT, shade * 2))
            painter.ribbon(2, arm, piece, (-wide[1], wide[1]), KERB)
            painter.ribbon(3, arm, piece, (-wide[2], wide[2]), _shaded(STRIP if town.parking_m else ASPHALT, shade))
            if town.parking_m:
                painter.ribbon(4, arm, piece, (-wide[3], wide[3]), _shaded(ASPHALT, shade))
        _markings(painter, arm, town)
    if town.radius_m > 0:
        for layer, half, colour in ((1, wide[0], PAVEMENT), (2, wide[1], KERB), (4, wide[2], ASPHALT)):
            corners = [arm.at(town.radius_m, side * half) for arm in town.arms for side in (-1, 1)]
            hull = np.array(MultiPoint(corners).convex_hull.exterior.coords)[:-1]
            painter.add(layer, hull, colour)
    return painter.build()


def _shaded(colour: Colour, amount: float) -> Colour:
    return (colour[0] + amount, colour[1] + amount, colour[2] + amount)


def _meadows(rng: np.random.Generator, town: Town, painter: _Painter) -> None:
    """Patches of lighter and darker grass."""
    angles = np.arange(NUM_VERTICES) / NUM_VERTICES * 2 * np.pi
    for arm in town.arms:
        for s in np.arange(4, 310, 9.0):
            for side in (-1, 1):
                centre = arm.at(float(s + rng.uniform(0, 8)), side * (town.half_m + rng.uniform(6, 34)))
                radii = rng.uniform(2.5, 6.5) * rng.uniform(0.75, 1.0, size=NUM_VERTICES)
                points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radii[:, None]
                light = float(rng.uniform(-18, 16))
                painter.add(0, points, (104 + light, 148 + light, 78 + light * 0.6))


def _markings(painter: _Painter, arm: Arm, town: Town) -> None:
    """Lane lines, edge lines, stop line and crosswalk of one arm."""
    start = town.stop_m if town.radius_m else 0.0
    edge = town.lanes_half_m
    for s in np.arange(start, 310, SEGMENT_M):
        piece = (float(s), float(s + SEGMENT_M))
        for side in (-1.0, 1.0):
            painter.ribbon(5, arm, piece, (side * edge - 0.11, side * edge + 0.11), WHITE)
            if town.num_lanes > 1:
                painter.ribbon(5, arm, piece, (side * 0.22 - 0.1, side * 0.22 + 0.1), YELLOW)
    for s in np.arange(start, 310, 8.0):
        piece = (float(s), float(s + 3.6))
        dashed = (
            [0.0]
            if town.num_lanes == 1
            else [side * LANE_M * lane for side in (-1, 1) for lane in range(1, town.num_lanes)]
        )
        for offset in dashed:
            painter.ribbon(5, arm, piece, (offset - 0.14, offset + 0.14), WHITE)
    if town.radius_m:
        painter.ribbon(5, arm, (town.stop_m - 0.35, town.stop_m + 0.35), (0.1, edge), WHITE)
        for offset in np.arange(-town.half_m + 0.4, town.half_m - 0.5, 1.3):
            stripe = (town.radius_m + 0.4, town.radius_m + 3.4)
            painter.ribbon(5, arm, stripe, (float(offset), float(offset + 0.65)), WHITE)


def make_scenery(rng: np.random.Generator, town: Town) -> Faces:
    """Houses, trees, lamps and signals."""
    parts: list[Faces] = []
    taken: list[tuple[float, float, float]] = []
    for arm_index, arm in enumerate(town.arms):
        for side in (-1, 1):
            _row_of_houses(rng, town, arm, side, parts=parts, taken=taken)
            _row_of_trees(rng, town, arm, side, parts=parts, taken=taken)
        first = town.radius_m + 12 + arm_index * 3
        for number, s in enumerate(np.arange(first, 260, 27.0)):
            side = 1 if number % 2 else -1
            x, y = arm.at(float(s), side * (town.half_m + 0.7))
            toward = arm.yaw_at(float(s)) - side * np.pi / 2
            parts.append(_lamp().placed(float(x), float(y), toward, len(parts)))
        if town.radius_m:
            _signals(town, arm, arm_index, parts)
    return join(parts)


def _clear(town: Town, place: Array, margin_m: float, taken: list[tuple[float, float, float]]) -> bool:
    if float(town.distance_to_road_m(place[None])[0]) < town.half_m + SIDEWALK_M + margin_m:
        return False
    if town.radius_m and float(np.linalg.norm(place)) < town.radius_m + margin_m + 4:
        return False
    return all((place[0] - x) ** 2 + (place[1] - y) ** 2 > (margin_m + r) ** 2 for x, y, r in taken)


def _row_of_houses(
    rng: np.random.Generator,
    town: Town,
    arm: Arm,
    side: int,
    *,
    parts: list[Faces],
    taken: list[tuple[float, float, float]],
) -> None:
    s = town.radius_m + rng.uniform(14, 24)
    while s < 270:
        depth, width = rng.uniform(8, 11), rng.uniform(8, 13)
        place = arm.at(float(s), side * (town.half_m + SIDEWALK_M + depth / 2 + rng.uniform(3, 7)))
        if rng.random() < 0.75 and _clear(town, place, max(depth, width) / 2, taken):
            yaw = arm.yaw_at(float(s)) - side * np.pi / 2
            house = _house(rng, float(depth), float(width))
            parts.append(house.placed(float(place[0]), float(place[1]), yaw, len(parts)))
            taken.append((float(place[0]), float(place[1]), float(max(depth, width) / 2)))
        s += width + rng.uniform(6, 22)


def _row_of_trees(
    rng: np.random.Generator,
    town: Town,
    arm: Arm,
    side: int,
    *,
    parts: list[Faces],
    taken: list[tuple[float, float, float]],
) -> None:
    s = town.radius_m + rng.uniform(8, 14)
    while s < 270:
        place = arm.at(float(s), side * (town.half_m + SIDEWALK_M + rng.uniform(1.5, 4)))
        if _clear(town, place, 1.2, taken):
            tree = _tree(rng)
            parts.append(tree.placed(float(place[0]), float(place[1]), 0.0, len(parts)))
        s += rng.uniform(9, 24)


def _house(rng: np.random.Generator, depth: float, width: float) -> Faces:
    """A house with its door at x > 0."""
    b = MeshBuilder()
    storeys = int(rng.integers(1, 4))
    wall, roof = WALLS[int(rng.integers(len(WALLS)))], ROOFS[int(rng.integers(len(ROOFS)))]
    x, y, top = depth / 2, width / 2, 3.0 * storeys
    b.part = np.array([0.0, 0.0, top / 2])
    b.box((-x, x), (-y, y), (0, top), wall)
    for storey in range(storeys):
        z = (3.0 * storey + 0.9, 3.0 * storey + 2.3)
        for place in np.linspace(-y + 1.6, y - 1.6, 3):
            glow = Glow.WINDOW if rng.random() < 0.45 else Glow.NONE
            b.patch(x + 0.02, (place - 0.6, place + 0.6), z, GLASS, glow)
        for place in (-0.25 * depth, 0.25 * depth):
            for wall_y in (-y - 0.02, y + 0.02):
                glow = Glow.WINDOW if rng.random() < 0.4 else Glow.NONE
                b.side_patch((place - 0.6, place + 0.6), wall_y, z, GLASS, glow)
    rise = 2.4
    ridge = [(0.0, -y, top + rise), (0.0, y, top + rise)]
    slope = float(np.hypot(x, rise))
    b.face([(0.0, -y, top + rise), (-x, -y, top), (x, -y, top)], (0, -1, 0), wall)
    b.face([(0.0, y, top + rise), (-x, y, top), (x, y, top)], (0, 1, 0), wall)
    b.face([(x + 0.3, -y, top - 0.1), (x + 0.3, y, top - 0.1), ridge[1], ridge[0]], (rise / slope, 0, x / slope), roof)
    b.face(
        [(-x - 0.3, -y, top - 0.1), (-x - 0.3, y, top - 0.1), ridge[1], ridge[0]], (-rise / slope, 0, x / slope), roof
    )
    return b.build()


def _tree(rng: np.random.Generator) -> Faces:
    b = MeshBuilder()
    trunk, radius = rng.uniform(1.6, 2.4), rng.uniform(1.3, 2.1)
    green = LEAVES[int(rng.integers(len(LEAVES)))]
    b.part = np.array([0.0, 0.0, trunk])
    b.box((-0.16, 0.16), (-0.16, 0.16), (0, trunk + 0.5), (100, 72, 50))
    tall = radius * rng.uniform(1.0, 1.4)
    b.ball((0, 0, trunk + tall * 0.9), (radius, tall), _shaded(green, -16))
    b.ball((0, 0, trunk + tall * 1.12), (radius * 0.72, tall * 0.7), _shaded(green, 10))
    return b.build()


def _lamp() -> Faces:
    """A street lamp whose arm reaches to x > 0."""
    b = MeshBuilder()
    b.part = np.array([0.0, 0.0, 3.0])
    b.box((-0.09, 0.09), (-0.09, 0.09), (0, 6.0), (96, 100, 106))
    b.box((0.0, 1.5), (-0.07, 0.07), (5.9, 6.05), (96, 100, 106))
    b.ball((1.5, 0, 5.85), (0.26, 0.16), (226, 226, 216), Glow.LAMP)
    return b.build()


def _signals(town: Town, arm: Arm, arm_index: int, parts: list[Faces]) -> None:
    """A signal beside the stop line, facing those who come along the arm."""
    b = MeshBuilder()
    b.part = np.array([0.0, 0.0, 2.5])
    b.box((-0.1, 0.1), (-0.1, 0.1), (0, 2.6), (70, 72, 76))
    b.box((-0.22, 0.22), (-0.36, 0.36), (2.4, 4.3), (34, 36, 40))
    axis = arm_index // 2
    for z, colour, glow in (
        (3.95, (255, 46, 40), Glow.RED),
        (3.35, (255, 190, 40), Glow.AMBER),
        (2.75, (60, 240, 110), Glow.GREEN),
    ):
        points = [(0.24, 0.26 * np.cos(a), z + 0.26 * np.sin(a)) for a in np.arange(8) / 8 * 2 * np.pi]
        b.face(points, (1, 0, 0), colour, glow)
    s = town.stop_m + 0.3
    x, y = arm.at(s, town.half_m + 0.7)
    faces = b.build().placed(float(x), float(y), arm.yaw_at(s), len(parts))
    faces.owner = np.full(len(faces), -1 - axis, dtype=np.int64)  # the axis whose light it shows
    parts.append(faces)


def visible_arms(owner: NDArray[np.int64], green_axis: int) -> NDArray[np.bool_]:
    """(F,) which signal faces belong to the axis that has a green light."""
    return np.asarray((owner < 0) & (-1 - owner == green_axis))
