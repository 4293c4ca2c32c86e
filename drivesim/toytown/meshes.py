"""Convex faces of vehicles and people, in their own axes (x forward, y left, z up from the road)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from drivesim.core.boxes import ObjectClass

Array = NDArray[np.float64]
Colour = tuple[float, float, float]

NUM_VERTICES = 8  # of every face; the last one is repeated where there are fewer
_ANGLES = np.arange(NUM_VERTICES) / NUM_VERTICES * 2 * np.pi

GLASS: Colour = (38, 46, 60)
TYRE: Colour = (22, 22, 24)
SKINS: tuple[Colour, ...] = ((236, 188, 150), (150, 100, 70))
TROUSERS: Colour = (44, 48, 70)


class Glow(IntEnum):
    """What a face does with light."""

    NONE = 0  # shaded by the sun
    HEAD = 1  # headlight
    TAIL = 2  # tail light, brighter on braking
    RED = 3  # signal lamps; only one of them is lit
    AMBER = 4
    GREEN = 5
    WINDOW = 6  # lit at night
    LAMP = 7  # street lamp


@dataclass(kw_only=True, slots=True)
class Faces:
    """F convex faces."""

    verts_m: Array  # (F, 8, 3)
    normal: Array  # (F, 3); zero = seen from both sides
    colour: Array  # (F, 3) RGB 0..255 in full light
    glow: NDArray[np.int64]  # (F,) Glow
    part_m: Array  # (F, 3) centre of the convex part it belongs to: parts are drawn far to near
    round_m: Array  # (F, 2) radii of a face that always turns to the camera; 0 = none
    owner: NDArray[np.int64]  # (F,) number of the object

    def __len__(self) -> int:
        return len(self.glow)

    def select(self, keep: NDArray[np.bool_]) -> Faces:
        """The faces of a mask."""
        return Faces(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    def placed(self, x_m: float, y_m: float, yaw_rad: float, owner: int) -> Faces:
        """The same faces as a numbered object at a place."""
        cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
        move = np.array([x_m, y_m, 0.0])
        return Faces(
            verts_m=self.verts_m @ turn + move,
            normal=self.normal @ turn,
            colour=self.colour,
            glow=self.glow,
            part_m=self.part_m @ turn + move,
            round_m=self.round_m,
            owner=np.full(len(self), owner),
        )


def join(parts: list[Faces]) -> Faces:
    """All faces of several objects, in order."""
    if not parts:
        return MeshBuilder().build()
    return Faces(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Faces)})


class MeshBuilder:
    """Collects faces. Order within a part is drawing order: decals come after what they lie on."""

    def __init__(self) -> None:
        self.part: Array = np.zeros(3)
        self._rows: list[tuple[Array, Array, Colour, int, Array, tuple[float, float]]] = []

    def face(
        self, verts: list[tuple[float, float, float]], normal: Colour, colour: Colour, glow: Glow = Glow.NONE
    ) -> None:
        """A flat convex face of at most eight corners."""
        points = np.array(verts + [verts[-1]] * (NUM_VERTICES - len(verts)), dtype=np.float64)
        self._rows.append((points, np.array(normal, dtype=np.float64), colour, int(glow), self.part.copy(), (0.0, 0.0)))

    def ball(
        self, centre: tuple[float, float, float], radii: tuple[float, float], colour: Colour, glow: Glow = Glow.NONE
    ) -> None:
        """A disc that always turns to the camera."""
        points = np.tile(np.array(centre, dtype=np.float64), (NUM_VERTICES, 1))
        self._rows.append((points, np.zeros(3), colour, int(glow), self.part.copy(), radii))

    def wheel(self, x: float, y: float, radius: float, colour: Colour = TYRE, both: bool = False) -> None:
        """A disc that faces sideways."""
        points = [(x + radius * np.cos(a), y, radius + radius * np.sin(a)) for a in _ANGLES]
        self.face(points, (0, 0 if both else np.sign(y), 0), colour)

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        *,
        inset: tuple[float, float, float] = (0, 0, 0),
        sides: Colour | None = None,
    ) -> None:
        """A box whose top is drawn in at the front, the rear and the sides by `inset`; `sides` colours the walls."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        front, rear, side = inset
        a0, a1, b0, b1 = x0 + rear, x1 - front, y0 + side, y1 - side
        wall, height = sides or colour, z1 - z0
        self.face([(x1, y0, z0), (x1, y1, z0), (a1, b1, z1), (a1, b0, z1)], _unit(height, 0, front), wall)
        self.face([(x0, y0, z0), (x0, y1, z0), (a0, b1, z1), (a0, b0, z1)], _unit(-height, 0, rear), wall)
        self.face([(x0, y1, z0), (x1, y1, z0), (a1, b1, z1), (a0, b1, z1)], _unit(0, height, side), wall)
        self.face([(x0, y0, z0), (x1, y0, z0), (a1, b0, z1), (a0, b0, z1)], _unit(0, -height, side), wall)
        self.face([(a0, b0, z1), (a1, b0, z1), (a1, b1, z1), (a0, b1, z1)], (0, 0, 1), colour)

    def patch(
        self, x: float, y: tuple[float, float], z: tuple[float, float], colour: Colour, glow: Glow = Glow.NONE
    ) -> None:
        """A decal on a front (x > 0) or rear (x < 0) wall."""
        direction = 1.0 if x > 0 else -1.0
        corners = [(x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])]
        self.face(corners, (direction, 0, 0), colour, glow)

    def side_patch(
        self, x: tuple[float, float], y: float, z: tuple[float, float], colour: Colour, glow: Glow = Glow.NONE
    ) -> None:
        """A decal on a left (y > 0) or right (y < 0) wall."""
        corners = [(x[0], y, z[0]), (x[1], y, z[0]), (x[1], y, z[1]), (x[0], y, z[1])]
        self.face(corners, (0, 1.0 if y > 0 else -1.0, 0), colour, glow)

    def lights(self, front: float, rear: float, half_width: float, z: tuple[float, float], width: float) -> None:
        """Head and tail lights at both sides, and a number plate."""
        for side in (-1.0, 1.0):
            edges = sorted((side * half_width, side * (half_width - width)))
            self.patch(front, (edges[0], edges[1]), z, (255, 250, 215), Glow.HEAD)
            self.patch(rear, (edges[0], edges[1]), z, (200, 16, 16), Glow.TAIL)
        self.patch(rear, (-0.28, 0.28), (z[0] - 0.2, z[0] - 0.04), (235, 235, 225))

    def build(self) -> Faces:
        """All faces so far, as object 0."""
        n = len(self._rows)
        columns: list[list[object]] = [[row[i] for row in self._rows] for i in range(6)]
        return Faces(
            verts_m=np.array(columns[0], dtype=np.float64).reshape(n, NUM_VERTICES, 3),
            normal=np.array(columns[1], dtype=np.float64).reshape(n, 3),
            colour=np.array(columns[2], dtype=np.float64).reshape(n, 3),
            glow=np.array(columns[3], dtype=np.int64),
            part_m=np.array(columns[4], dtype=np.float64).reshape(n, 3),
            round_m=np.array(columns[5], dtype=np.float64).reshape(n, 2),
            owner=np.zeros(n, dtype=np.int64),
        )


def _unit(x: float, y: float, z: float) -> Colour:
    length = float(np.sqrt(x * x + y * y + z * z)) or 1.0
    return (x / length, y / length, z / length)


def mesh_for(object_class: ObjectClass, size_m: tuple[float, float, float], colour: Colour) -> Faces:
    """Faces of one road user of a size (width, length, height)."""
    width, length, height = size_m
    builder = MeshBuilder()
    if object_class is ObjectClass.CAR:
        _car(builder, width / 2, length / 2, height, colour)
    elif object_class is ObjectClass.TRUCK:
        _truck(builder, width / 2, length / 2, height, colour)
    elif object_class is ObjectClass.BUS:
        _bus(builder, width / 2, length / 2, height, colour)
    elif object_class is ObjectClass.PEDESTRIAN:
        _person(builder, 0.0, (0.0, height), width / 2, colour)
    else:
        _two_wheeler(builder, length / 2, height, colour, heavy=object_class is ObjectClass.MOTORCYCLE)
    return builder.build()


def _car(b: MeshBuilder, w: float, nose: float, h: float, colour: Colour) -> None:
    belt = 0.56 * h
    b.part = np.array([0.0, 0.0, 0.4 * h])
    b.box((-nose, nose), (-w, w), (0.16 * h, belt), colour, inset=(0.04 * nose, 0.02 * nose, 0.03))
    for x in (-0.62 * nose, 0.62 * nose):
        for y in (-w - 0.01, w + 0.01):
            b.wheel(x, y, 0.23 * h)
    b.lights(nose + 0.01, -nose - 0.01, 0.95 * w, (0.34 * h, 0.49 * h), 0.42 * w)
    b.box(
        (-0.8 * nose, 0.45 * nose),
        (-0.93 * w, 0.93 * w),
        (belt, h),
        colour,
        inset=(0.26 * nose, 0.2 * nose, 0.17 * w),
        sides=GLASS,
    )


def _truck(b: MeshBuilder, w: float, nose: float, h: float, colour: Colour) -> None:
    split = 0.42 * nose
    b.part = np.array([(split - nose) / 2, 0.0, h / 2])
    b.box((-nose, split - 0.08 * nose), (-w, w), (0.2 * h, h), (236, 236, 230))
    b.side_patch((-0.9 * nose, split - 0.16 * nose), w + 0.01, (0.5 * h, 0.75 * h), colour)
    b.side_patch((-0.9 * nose, split - 0.16 * nose), -w - 0.01, (0.5 * h, 0.75 * h), colour)
    b.patch(-nose - 0.01, (-0.8 * w, 0.8 * w), (0.45 * h, 0.85 * h), colour)
    for y in (-w - 0.01, w + 0.01):
        b.wheel(-0.6 * nose, y, 0.5)
    for side in (-1.0, 1.0):
        edges = sorted((side * 0.95 * w, side * 0.6 * w))
        b.patch(-nose - 0.02, (edges[0], edges[1]), (0.22 * h, 0.33 * h), (200, 16, 16), Glow.TAIL)
    b.part = np.array([(split + nose) / 2, 0.0, 0.4 * h])
    b.box((split, nose), (-0.96 * w, 0.96 * w), (0.14 * h, 0.82 * h), colour)
    b.patch(nose + 0.01, (-0.85 * w, 0.85 * w), (0.47 * h, 0.74 * h), GLASS)
    for y in (-w - 0.01, w + 0.01):
        b.side_patch((split + 0.1 * nose, nose - 0.04 * nose), y, (0.47 * h, 0.74 * h), GLASS)
        b.wheel(0.68 * nose, y, 0.5)
    for side in (-1.0, 1.0):
        edges = sorted((side * 0.9 * w, side * 0.5 * w))
        b.patch(nose + 0.02, (edges[0], edges[1]), (0.22 * h, 0.32 * h), (255, 250, 215), Glow.HEAD)


def _bus(b: MeshBuilder, w: float, nose: float, h: float, colour: Colour) -> None:
    b.part = np.array([0.0, 0.0, h / 2])
    b.box((-nose, nose), (-w, w), (0.12 * h, h), colour)
    for y in (-w - 0.01, w + 0.01):
        b.side_patch((-0.95 * nose, 0.93 * nose), y, (0.5 * h, 0.82 * h), GLASS, Glow.WINDOW)
        for x in (-0.6 * nose, 0.62 * nose):
            b.wheel(x, y * 1.001, 0.5)
    b.patch(nose + 0.01, (-0.9 * w, 0.9 * w), (0.38 * h, 0.85 * h), GLASS)
    b.patch(-nose - 0.01, (-0.8 * w, 0.8 * w), (0.55 * h, 0.85 * h), GLASS)
    b.lights(nose + 0.02, -nose - 0.02, 0.94 * w, (0.18 * h, 0.28 * h), 0.32 * w)


def _person(b: MeshBuilder, x: float, z: tuple[float, float], w: float, colour: Colour) -> None:
    base, tall = z[0], z[1] - z[0]
    b.part = np.array([x, 0.0, base + tall / 2])
    for y in (-0.5 * w, 0.5 * w):
        b.box((x - 0.12, x + 0.12), (y - 0.13, y + 0.13), (base, base + 0.48 * tall), TROUSERS)
    b.box((x - 0.17, x + 0.17), (-w, w), (base + 0.46 * tall, base + 0.84 * tall), colour, inset=(0.03, 0.03, 0.05))
    b.ball((x, 0.0, base + 0.91 * tall), (0.16, 0.17), SKINS[int(sum(colour)) % 2])


def _two_wheeler(b: MeshBuilder, nose: float, h: float, colour: Colour, *, heavy: bool) -> None:
    radius = 0.34 if heavy else 0.36
    b.part = np.array([0.0, 0.0, 0.4])
    for x in (-nose + radius, nose - radius):
        for y in (-0.06, 0.06):
            b.wheel(x, y, radius, both=True)
    thick = 0.2 if heavy else 0.06
    b.box((-nose + radius, nose - radius), (-thick, thick), (0.45, 0.85 if heavy else 0.62), colour)
    b.patch(nose - 0.1, (-0.16, 0.16), (0.7, 0.95), (255, 250, 215), Glow.HEAD)
    b.patch(-nose + 0.1, (-0.16, 0.16), (0.6, 0.85), (200, 16, 16), Glow.TAIL)
    _person(b, -0.1 * nose, (0.5, h), 0.3, colour if not heavy else (60, 60, 66))
