"""Scenes: the same every time, drivable, and with boxes that tell what is hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivesim.core.boxes import Boxes3D, ObjectClass
from drivesim.core.camera import Camera
from drivesim.toytown import Episode, TownConfig, Turn, TurnOdds, simulate
from drivesim.toytown.actors import Actor, make_actors
from drivesim.toytown.episode import SEEN_M, _visibility
from drivesim.toytown.roads import LANE_M, make_town
from drivesim.toytown.traffic import CYCLE_S, green_axis, run_traffic

ALONE = TownConfig(duration_s=20, traffic_density=0, num_pedestrians=0, parked_share=0, junction_share=1)


@pytest.fixture(scope="module")
def busy() -> Episode:
    return simulate(TownConfig(duration_s=6), 4)


def _same(first: Episode, second: Episode) -> bool:
    boxes = all(
        a.center_m.tobytes() == b.center_m.tobytes() and (a.track_ids == b.track_ids).all()
        for a, b in zip(first.boxes, second.boxes, strict=True)
    )
    return boxes and first.ego_path.tobytes() == second.ego_path.tobytes()


def test_a_scene_is_the_same_however_many_others_there_are() -> None:
    config = TownConfig(duration_s=2)
    alone = simulate(config, 3)
    assert _same(alone, simulate(replace(config, num_scenes=500, first_scene=2), 3))
    assert not np.array_equal(alone.ego_path, simulate(config, 2).ego_path)
    assert not np.array_equal(alone.ego_path, simulate(replace(config, seed=1), 3).ego_path)


@pytest.mark.parametrize(("turn", "angle_deg"), [(Turn.LEFT, 90), (Turn.STRAIGHT, 0), (Turn.RIGHT, -90)])
def test_the_ego_car_turns_as_the_odds_say(turn: Turn, angle_deg: float) -> None:
    odds = TurnOdds(left=0, straight=0, right=0)
    setattr(odds, turn.value, 1.0)
    for scene in range(40, 44):
        episode = simulate(replace(ALONE, turn_odds=odds), scene)
        assert episode.turn is turn
        way = episode.actors[0].way
        assert way is not None
        passed = np.linalg.norm(episode.ego_path[:, :2] - way.points_m[int(way.exit_s_m)], axis=1).argmin()
        into, out = way.yaw_rad[int(way.stop_s_m)], way.yaw_rad[int(way.exit_s_m)]
        assert np.degrees(out - into) == pytest.approx(angle_deg, abs=40)
        if passed < len(episode) - 1:  # a red light may take the scene's whole time
            assert episode.ego_path[passed, 2] == pytest.approx(out, abs=0.2)


def test_a_town_without_junctions_has_no_turns() -> None:
    assert simulate(replace(ALONE, duration_s=1, junction_share=0), 0).turn is Turn.NONE


def test_the_ego_car_moves_like_a_car(busy: Episode) -> None:
    step_m = np.linalg.norm(np.diff(busy.ego_path[:, :2], axis=0), axis=1)
    assert (step_m * busy.fps).max() < 16
    assert step_m.sum() > 10
    heading = np.arctan2(*np.diff(busy.ego_path[:, :2], axis=0).T[::-1])
    fast = step_m > 0.2
    error = np.angle(np.exp(1j * (heading - busy.ego_path[:-1, 2])))[fast]
    assert np.abs(error).max() < 0.2
    assert np.abs(np.diff(step_m)).max() * busy.fps**2 < 9.0  # m/s^2


def test_the_same_drive_at_another_frame_rate_is_as_long() -> None:
    config = replace(ALONE, duration_s=4, junction_share=0)
    slow, fast = simulate(config, 1), simulate(replace(config, fps=24.0), 1)
    assert len(fast) == 2 * len(slow)
    np.testing.assert_allclose(slow.ego_path[-1], fast.ego_path[2 * (len(slow) - 1)], atol=0.6)


def test_a_car_brakes_and_keeps_its_distance_from_a_slower_one() -> None:
    town = make_town(np.random.default_rng(0), junction=False, parking=False)
    town.num_lanes = 2
    way = town.way(0, 1, 0)
    size = (1.9, 4.5, 1.6)
    follower = Actor(object_class=ObjectClass.CAR, size_m=size, colour=(0, 0, 0), way=way, start_s_m=50, wish_speed=10)
    leader = Actor(object_class=ObjectClass.CAR, size_m=size, colour=(0, 0, 0), way=way, start_s_m=64, wish_speed=6.0)
    motion = run_traffic([follower, leader], town, 240, 12.0, 0.0)
    gap = np.linalg.norm(motion.pose[:, 0, :2] - motion.pose[:, 1, :2], axis=1) - size[1]
    assert gap.min() > 1.5
    assert motion.speed[-1, 0] < 7.5
    assert motion.braking[:, 0].any()


def test_a_parked_car_in_the_lane_is_overtaken() -> None:
    town = make_town(np.random.default_rng(3), junction=False, parking=False)
    way = town.way(0, 1, 0)
    size = (1.9, 4.5, 1.6)
    mover = Actor(object_class=ObjectClass.CAR, size_m=size, colour=(0, 0, 0), way=way, start_s_m=100, wish_speed=9)
    x, y = way.points_m[150]
    stands = Actor(object_class=ObjectClass.CAR, size_m=size, colour=(0, 0, 0), pose=(x, y, float(way.yaw_rad[150])))
    motion = run_traffic([mover, stands], town, 300, 12.0, 0.0)
    gap = np.linalg.norm(motion.pose[:, 0, :2] - motion.pose[:, 1, :2], axis=1)
    assert gap.min() > 1.95
    assert gap.min() < LANE_M + 0.5
    assert np.linalg.norm(motion.pose[-1, 0, :2] - way.points_m[100]) > 90
    off_lane = np.linalg.norm(way.points_m - motion.pose[-1, 0, :2], axis=1).min()
    assert off_lane < 0.8  # back in its lane


def test_lights_are_never_green_for_both_roads() -> None:
    axes = np.array([green_axis(t, 0.0) for t in np.arange(0, CYCLE_S, 0.5)])
    assert {-1, 0, 1} == set(axes)
    changes = np.flatnonzero(np.diff(axes))
    assert all(-1 in (axes[i], axes[i + 1]) for i in changes)


def test_nobody_starts_on_top_of_the_ego_car() -> None:
    for seed in range(6):
        town = make_town(np.random.default_rng(seed), junction=True, parking=True)
        actors = make_actors(np.random.default_rng(seed), town, Turn.STRAIGHT, TownConfig())
        pose = run_traffic(actors, town, 1, 12.0, 0.0).pose[0]
        vehicles = [i for i, a in enumerate(actors) if i and a.walk is None]
        # The lane beside may hold somebody at the same height.
        assert np.linalg.norm(pose[vehicles, :2] - pose[0, :2], axis=1).min() > 1.9


def test_boxes_are_near_in_ego_axes_and_complete(busy: Episode) -> None:
    for boxes in busy.boxes:
        boxes.validate()
        assert np.hypot(boxes.center_m[:, 0], boxes.center_m[:, 1]).max() < SEEN_M
        assert len(set(boxes.track_ids)) == len(boxes)
        assert boxes.visibility is not None and (np.abs(boxes.visibility - 0.5) <= 0.5).all()
    last = busy.boxes[-1]
    number = int(str(last.track_ids[0]).rsplit("-", 1)[1])
    x, y, yaw = busy.ego_path[-1]
    delta = busy.motion.pose[-1, number, :2] - [x, y]
    assert last.center_m[0, 0] == pytest.approx(delta[0] * np.cos(yaw) + delta[1] * np.sin(yaw))


def test_hidden_cars_have_low_visibility() -> None:
    boxes = Boxes3D(
        center_m=np.array([[10.0, 0, 0.8], [20.0, 0, 0.8], [20.0, 8, 0.8], [-9.0, 0, 0.8]]),
        size_m=np.tile([1.9, 4.5, 1.6], (4, 1)),
        rotation_wxyz=np.tile([1.0, 0, 0, 0], (4, 1)),
        class_ids=np.zeros(4, dtype=np.int64),
    )
    front, hidden, free, behind = _visibility(boxes, Camera.front((128, 256)))
    assert front == 1.0 and free == 1.0 and behind == 0.0
    assert hidden < 0.1


def test_lanes_follow_the_driving_direction(busy: Episode) -> None:
    way = busy.actors[0].way
    assert way is not None
    start = way.points_m[20]
    nearest = min(busy.lanes, key=lambda lane: float(np.linalg.norm(lane - start, axis=1).min()))
    index = int(np.linalg.norm(nearest - start, axis=1).argmin())
    direction = nearest[index + 1] - nearest[index]
    assert np.dot(direction, [np.cos(way.yaw_rad[20]), np.sin(way.yaw_rad[20])]) > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"night_share": 1.5}, "between 0 and 1"),
        ({"fps": 0}, "above 0"),
        ({"fps": 11.0}, "multiple"),
        ({"num_pedestrians": -1}, "negative"),
        ({"turn_odds": TurnOdds(left=0, straight=0, right=0)}, "turn_odds"),
    ],
)
def test_impossible_towns_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TownConfig(**wrong)  # type: ignore[arg-type]
