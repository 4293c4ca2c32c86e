"""How everybody moves: following (IDM), signals, giving way, overtaking, and walking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivesim.toytown.actors import Actor, is_left_turn
from drivesim.toytown.roads import LANE_M, Town

Array = NDArray[np.float64]

PATIENCE_S = 4.0  # after so long a left turn goes, and oncoming traffic brakes
LOOK_M = 45  # how far drivers look along their way
BACK_M = 9  # how far they look back before they change lanes
GREEN_S = (14.0, 6.0)  # of arms 0 and 1, of arms 2 and 3: the ego car's road is the main road
CLEAR_S = 2.0
CYCLE_S = sum(GREEN_S) + 2 * CLEAR_S
ACCELERATION, BRAKING, HEADWAY_S, STANDSTILL_M = 2.2, 2.4, 1.1, 3.6
CIRCLES = np.array([-0.36, 0.0, 0.36])  # a vehicle's outline as circles along its length


@dataclass(kw_only=True, slots=True)
class Motion:
    """Where everybody was. T frames, N actors."""

    pose: Array  # (T, N, 3) x_m, y_m, yaw_rad in the town
    speed: Array  # (T, N) m/s
    braking: NDArray[np.bool_]  # (T, N)
    green_axis: NDArray[np.int64]  # (T,) 0 = arms 0 and 1, 1 = arms 2 and 3, -1 = nobody


def green_axis(time_s: float, offset_s: float) -> int:
    """Which pair of arms has a green light."""
    phase = (time_s + offset_s) % CYCLE_S
    if phase < GREEN_S[0]:
        return 0
    return 1 if 0 <= phase - GREEN_S[0] - CLEAR_S < GREEN_S[1] else -1


def run_traffic(actors: list[Actor], town: Town, num_frames: int, fps: float, signal_offset_s: float) -> Motion:
    """Moves all actors through time; deterministic."""
    traffic = _Traffic(actors, town, signal_offset_s)
    steps = max(1, int(np.ceil(10.0 / fps)))
    pose = np.zeros((num_frames, len(actors), 3))
    speed = np.zeros((num_frames, len(actors)))
    braking = np.zeros((num_frames, len(actors)), dtype=bool)
    axis = np.zeros(num_frames, dtype=np.int64)
    for frame in range(num_frames):
        pose[frame], speed[frame], braking[frame] = traffic.poses(), traffic.speeds(), traffic.brake_lights()
        axis[frame] = green_axis(traffic.time_s, signal_offset_s)
        for _ in range(steps):
            traffic.step(1.0 / fps / steps)
    return Motion(pose=pose, speed=speed, braking=braking, green_axis=axis)


class _Traffic:
    """State of all actors at one time. D drivers among N actors."""

    def __init__(self, actors: list[Actor], town: Town, signal_offset_s: float) -> None:
        self.actors, self.town, self.signal_offset_s = actors, town, signal_offset_s
        self.time_s = 0.0
        self.drivers = np.array([i for i, a in enumerate(actors) if a.way is not None])
        self.ways = [a.way for a in actors if a.way is not None]
        longest = max(len(way.yaw_rad) for way in self.ways)
        self.points = np.stack([_padded(way.points_m, longest) for way in self.ways])  # (D, K, 2)
        self.yaws = np.stack([_padded(way.yaw_rad[:, None], longest)[:, 0] for way in self.ways])
        self.limits = np.stack([_padded(way.speed_limit[:, None], longest)[:, 0] for way in self.ways])
        self.ends = np.array([len(way.yaw_rad) - 2.0 for way in self.ways])
        self.stops = np.array([way.stop_s_m for way in self.ways])
        self.exits = np.array([way.exit_s_m for way in self.ways])
        self.from_arm = np.array([way.from_arm for way in self.ways])
        self.turns_left = np.array([town.radius_m > 0 and is_left_turn(way) for way in self.ways])
        size = np.array([a.size_m for a in actors])
        self.width, self.length = size[:, 0], size[:, 1]
        self.radius_m = self.width / 2 + np.array([0.7 if a.walk is not None else 0.0 for a in actors])
        self.walk_start_s = np.array([a.walk_start_s if a.walk is not None else np.inf for a in actors])
        self.walk_speed = np.array([a.walk_speed for a in actors])
        self.stands = np.array([i for i, a in enumerate(actors) if a.way is None])
        self.patient = np.array([a.wish_speed for a in actors])[self.drivers] > 5.5
        self.stand = np.array([a.pose for a in actors])
        self.walks = [(i, _Walk(a.walk)) for i, a in enumerate(actors) if a.walk is not None]
        self.s = np.array([a.start_s_m for a in actors])[self.drivers]
        self.wish = np.array([a.wish_speed for a in actors])[self.drivers]
        self.v = np.minimum(self.wish, self._at(self.limits, self.s)) * 0.9
        self.a = np.zeros(len(self.s))
        self.shift = np.zeros(len(self.s))  # to the left of the lane's centre
        self.wish_shift = np.zeros(len(self.s))
        self.slide = np.zeros(len(self.s))  # sideways speed
        self.walked = np.zeros(len(actors))
        self.waiting_s = np.zeros(len(self.s))

    def _at(self, table: Array, s: Array) -> Array:
        return np.asarray(table[np.arange(len(s)), np.clip(s, 0, self.ends).astype(int)])

    def poses(self) -> Array:
        """(N, 3) x, y, yaw of all actors."""
        pose = self.stand.copy()
        low = np.clip(np.floor(self.s), 0, self.ends - 1).astype(int)
        share = np.clip(self.s - low, 0, 1)
        rows = np.arange(len(low))
        yaw = self.yaws[rows, low] * (1 - share) + self.yaws[rows, low + 1] * share
        place = self.points[rows, low] * (1 - share)[:, None] + self.points[rows, low + 1] * share[:, None]
        pose[self.drivers, 0] = place[:, 0] - np.sin(yaw) * self.shift
        pose[self.drivers, 1] = place[:, 1] + np.cos(yaw) * self.shift
        pose[self.drivers, 2] = yaw + np.arctan2(self.slide, np.maximum(self.v, 2.0))
        for index, walk in self.walks:
            pose[index] = walk.pose(self.walked[index])
        return pose

    def speeds(self) -> Array:
        """(N,) m/s."""
        speed = np.where(self.time_s >= self.walk_start_s, self.walk_speed, 0.0)
        speed[self.drivers] = self.v
        return speed

    def brake_lights(self) -> NDArray[np.bool_]:
        """(N,) whose brake lights are on."""
        lights = np.zeros(len(self.actors), dtype=bool)
        lights[self.drivers] = (self.a < -0.7) | (self.v < 0.4)
        return lights

    def step(self, dt_s: float) -> None:
        """Moves everybody by one time step."""
        pose = self.poses()
        gap, leader_speed, leader = self._ahead(pose, self.wish_shift, LOOK_M, 0)
        stop_gap = self._stop_gap()
        self._change_lanes(pose, gap, leader_speed, leader)
        closer = stop_gap < gap
        gap, leader_speed = np.where(closer, stop_gap, gap), np.where(closer, 0.0, leader_speed)
        wish = np.minimum(self.wish, self._at(self.limits, self.s + 1.0))
        closing = self.v * (self.v - leader_speed) / (2 * np.sqrt(ACCELERATION * BRAKING))
        keep = STANDSTILL_M + np.maximum(0.0, self.v * HEADWAY_S + closing)
        self.a = ACCELERATION * (1 - (self.v / np.maximum(wish, 0.5)) ** 4 - (keep / np.maximum(gap, 0.3)) ** 2)
        self.a = np.clip(self.a, -7.5, ACCELERATION)
        before = self.v
        self.v = np.maximum(0.0, self.v + self.a * dt_s)
        self.s = np.minimum(self.s + (before + self.v) / 2 * dt_s, self.ends)
        self.waiting_s = np.where(self.v < 0.6, self.waiting_s + dt_s, self.waiting_s * (self.s <= self.stops))
        self._slide(dt_s)
        self.time_s += dt_s
        self.walked += np.where(self.time_s >= self.walk_start_s, self.walk_speed, 0.0) * dt_s

    def _slide(self, dt_s: float) -> None:
        """Sideways motion, smooth, and none while standing."""
        error = self.wish_shift - self.shift
        target = np.clip(error * 1.3, -1.5, 1.5) * np.clip(self.v / 4.0, 0, 1)
        self.slide += np.clip(target - self.slide, -4 * dt_s, 4 * dt_s)
        self.slide = np.where(self.v < 0.3, 0.0, self.slide)
        self.shift = self.shift + self.slide * dt_s

    def _ahead(self, pose: Array, shift: Array, look_m: int, back_m: int) -> tuple[Array, Array, NDArray[np.int64]]:
        """Gap (D,), speed (D,) and index (D,) of the first actor in a corridor along each way."""
        reach = np.arange(-back_m, look_m, 1.5)
        s = np.clip(self.s[:, None] + self.length[self.drivers][:, None] / 2 + reach, 0, self.ends[:, None])
        index = s.astype(int)
        rows = np.arange(len(self.s))[:, None]
        yaw = self.yaws[rows, index]
        # Shifts fade from where the car is to where it wants to be.
        fade = np.clip(reach / np.maximum(self.v * 1.6, 5.0)[:, None], 0, 1)
        side = self.shift[:, None] * (1 - fade) + shift[:, None] * fade if back_m == 0 else shift[:, None]
        x = self.points[rows, index, 0] - np.sin(yaw) * side
        y = self.points[rows, index, 1] + np.cos(yaw) * side
        first = self._first_hits(x, y, pose, back_m)
        first = np.where(self._mutual(first, len(reach)), len(reach), first)
        leader = first.argmin(axis=1)
        found = first[np.arange(len(leader)), leader]
        gap = np.where(found < len(reach), reach[np.minimum(found, len(reach) - 1)] + 0.1, 1e3)
        speed = self.speeds()[leader] * np.cos(pose[leader, 2] - pose[self.drivers, 2])
        return gap, np.where(gap < 1e3, np.maximum(speed, 0.0), 0.0), np.where(gap < 1e3, leader, -1)

    def _first_hits(self, x: Array, y: Array, pose: Array, back_m: int) -> NDArray[np.int64]:
        """(D, N) step of each driver's corridor (D, R) that an actor stands in first; R = none."""
        driver, actor = np.nonzero(self._may_meet(pose, back_m))
        offsets = CIRCLES * self.length[actor, None]
        circle_x = pose[actor, :1] + np.cos(pose[actor, 2:]) * offsets  # (P, 3) of P pairs
        circle_y = pose[actor, 1:2] + np.sin(pose[actor, 2:]) * offsets
        limit = (self.width[self.drivers] / 2 + 0.3)[driver] + self.radius_m[actor]
        square = (x[driver][:, :, None] - circle_x[:, None]) ** 2 + (y[driver][:, :, None] - circle_y[:, None]) ** 2
        hit = (square < (limit * limit)[:, None, None]).any(axis=2)
        first = np.full((len(x), len(pose)), x.shape[1])
        first[driver, actor] = np.where(hit.any(axis=1), hit.argmax(axis=1), x.shape[1])
        return first

    def _may_meet(self, pose: Array, back_m: int) -> NDArray[np.bool_]:
        """(D, N) pairs so near that one can stand in the other's corridor."""
        own = pose[self.drivers]
        delta_x, delta_y = pose[None, :, 0] - own[:, 0, None], pose[None, :, 1] - own[:, 1, None]
        size = self.length[self.drivers][:, None] / 2 + self.length[None] / 2
        reach = np.minimum(self.ends - self.s, LOOK_M) + 8.0
        near = delta_x**2 + delta_y**2 < (reach[:, None] + size) ** 2
        # Ways never turn back on themselves within sight: what is well behind is not ahead.
        ahead = delta_x * np.cos(own[:, 2, None]) + delta_y * np.sin(own[:, 2, None]) > -(size + 8.0 + back_m)
        near &= ahead
        near[np.arange(len(self.drivers)), self.drivers] = False
        return np.asarray(near)

    def _mutual(self, first: NDArray[np.int64], nothing: int) -> NDArray[np.bool_]:
        """(D, N) blocks to ignore: of two who wait for each other in the junction the first goes."""
        between = first[:, self.drivers]
        inside = (self.s > self.stops) & (self.s < self.exits)
        meets = between < nothing
        both = meets & meets.T & inside[:, None]
        ignore = both & (np.arange(len(self.s))[:, None] < np.arange(len(self.s))[None])
        result = np.zeros(first.shape, dtype=bool)
        result[:, self.drivers] = ignore
        return result

    def _stop_gap(self) -> Array:
        """(D,) metres to a stop line that must be kept; 1e3 = go."""
        front = self.s + self.length[self.drivers] / 2
        room = self.stops - front
        axis = green_axis(self.time_s, self.signal_offset_s)
        red = self.from_arm // 2 != axis
        can_stop = room > self.v**2 / (2 * 4.5)
        must = red & (room > -0.5) & can_stop
        yields = self.turns_left & (room > -0.5) & (room < 14) & ~must
        for driver in np.flatnonzero(yields):
            must[driver] = self.waiting_s[driver] < PATIENCE_S and self._oncoming(driver)
        return np.where(must, np.maximum(room + 1.2, 0.3), 1e3)

    def _oncoming(self, driver: int) -> bool:
        """Whether somebody from the opposite arm is about to cross a left turn."""
        opposite = {0: 1, 1: 0, 2: 3, 3: 2}[int(self.from_arm[driver])]
        time_to = (self.stops - self.s) / np.maximum(self.v, 1.0)
        coming = (self.from_arm == opposite) & ~self.turns_left & (self.s < self.exits - 4)
        return bool((coming & (time_to < 2.6) & (self.v > 0.8)).any())

    def _change_lanes(self, pose: Array, gap: Array, leader_speed: Array, leader: NDArray[np.int64]) -> None:
        """Overtakes what is slow or stands, and goes back when the lane is free again."""
        room = np.where(self.s < self.exits, self.stops - self.s, 1e3)
        bend = np.abs(self._at(self.yaws, self.s + 25) - self._at(self.yaws, self.s))
        slow = (leader >= 0) & (leader_speed < 0.55 * self.wish) & (gap < 26) & (self.wish_shift == 0)
        walkers = np.isfinite(self.walk_start_s)
        waits = self._waits_in_line(leader)
        wants = slow & ~walkers[leader] & ~waits & self._room_to_pass(leader, room) & (bend < 0.5)
        back = self.wish_shift != 0
        if wants.any():
            other = np.where(np.isin(leader, self._small()), 1.7, LANE_M - 0.4)
            free, speed, _ = self._ahead(pose, other, LOOK_M, BACK_M)
            oncoming = self._faces(pose, other)
            go = wants & ((free > 40) | (speed > self.v)) & ~oncoming
            self.wish_shift = np.where(go, other, self.wish_shift)
        if back.any():
            free, _, _ = self._ahead(pose, np.zeros(len(gap)), 14, BACK_M)
            self.wish_shift = np.where(back & (free > 9), 0.0, self.wish_shift)

    def _room_to_pass(self, leader: NDArray[np.int64], room: Array) -> NDArray[np.bool_]:
        """(D,) no overtaking shortly before a junction, but for what never moves on."""
        stands = np.isin(leader, self.stands)
        return np.asarray((room > np.where(stands, 22.0, 45.0)) | (room < -self.town.radius_m))

    def _waits_in_line(self, leader: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(D,) whose leader may stand before a red light; who does is followed, not overtaken."""
        waits = np.zeros(len(self.actors), dtype=bool)
        waits[self.drivers] = self.patient & (self.s < self.exits + 10)
        return np.asarray(waits[leader] & (leader >= 0))

    def _small(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.width < 1.0)

    def _faces(self, pose: Array, shift: Array) -> NDArray[np.bool_]:
        """(D,) whether somebody drives towards each driver on the side it would move to."""
        own = pose[self.drivers]
        delta = pose[None, :, :2] - own[:, None, :2]
        forward = delta[..., 0] * np.cos(own[:, None, 2]) + delta[..., 1] * np.sin(own[:, None, 2])
        left = -delta[..., 0] * np.sin(own[:, None, 2]) + delta[..., 1] * np.cos(own[:, None, 2])
        against = np.cos(pose[None, :, 2] - own[:, None, 2]) < -0.3
        moving = self.speeds()[None] > 0.3
        near = (forward > 0) & (forward < 75) & (np.abs(left - shift[:, None]) < 0.05 * forward + 1.6)
        return np.asarray((near & against & moving).any(axis=1))


def _padded(values: Array, length: int) -> Array:
    return np.pad(values, ((0, length - len(values)), (0, 0)), mode="edge")


class _Walk:
    """A line that a person walks along."""

    def __init__(self, line: Array) -> None:
        self.x, self.y = np.ascontiguousarray(line[:, 0]), np.ascontiguousarray(line[:, 1])
        self.s = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])

    def pose(self, walked_m: float) -> tuple[float, float, float]:
        """Place and direction after a walk."""
        ends = [min(walked_m, self.s[-1] - 0.4), min(walked_m + 0.4, self.s[-1])]
        x, y = np.interp(ends, self.s, self.x), np.interp(ends, self.s, self.y)
        return x[0], y[0], np.arctan2(y[1] - y[0], x[1] - x[0])
