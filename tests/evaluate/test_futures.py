"""Spread of futures in feature space, copies of real clips, and the way the ego car drives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.files import append_row, read_rows
from drivesim.core.video_writing import VideoWriter
from drivesim.evaluate import futures
from drivesim.evaluate.copying import nearest_real
from drivesim.evaluate.ego_motion import EgoMotionConfig, EgoTurn, ego_turn, yaw_steps_deg
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.feature_diversity import feature_spread, measure_feature_diversity
from drivesim.evaluate.futures import futures_section, measure_futures
from drivesim.evaluate.protocol import ClipChoice, ProtocolConfig
from drivesim.evaluate.videos import Video, find_videos
from drivesim.toytown import TownConfig, Turn, TurnOdds, render, simulate
from tests.evaluate.town_videos import CAMERA, FIRST_HELD_OUT, FPS

Frames = NDArray[np.uint8]
PROTOCOL = ProtocolConfig(num_frames=4, context_frames=1, fps=FPS)


class MeanColour:
    """The clip's mean colour."""

    name = "mean-colour"
    kind = FeatureKind.CLIP
    feature_dim = 3
    min_frames = 1
    fingerprint = "none"
    is_standard = False
    metric_name = "Fréchet clip distance (mean-colour)"

    def __call__(self, frames_BTHWC: Frames) -> torch.Tensor:
        return torch.from_numpy(frames_BTHWC.astype(np.float32)).mean(dim=(1, 2, 3))


def test_spread_of_known_features() -> None:
    futures = [np.array([[0.0, 0], [0, 0], [9, 9]]), np.array([[3.0, 4], [0, 0]]), np.array([[0.0, 0], [6, 8]])]
    np.testing.assert_allclose(feature_spread(futures), [(5 + 0 + 5) / 3, (0 + 10 + 10) / 3])
    with pytest.raises(ValueError, match="a spread needs"):
        feature_spread(futures[:1])


def plain_videos(colours: list[float], num_frames: int = 9) -> list[Video]:
    """One grey from the start; from the second frame on each its own."""
    return [
        Video(
            name=str(colour),
            frames=np.concatenate(
                [np.full((1, 16, 32, 3), 100, np.uint8), np.full((num_frames - 1, 16, 32, 3), colour, np.uint8)]
            ),
        )
        for colour in colours
    ]


def test_futures_that_part_are_wider_apart_than_reencodings() -> None:
    found = measure_feature_diversity("start", plain_videos([90, 100, 120]), MeanColour(), PROTOCOL, (16, 32))
    assert found.curve == pytest.approx([20 * np.sqrt(3)] * 2)  # mean of 10, 20, 30 in each of three channels
    assert found.ratio > 5
    same = measure_feature_diversity("start", plain_videos([90, 90]), MeanColour(), PROTOCOL, (16, 32))
    assert same.futures == 0


def test_futures_are_compared_at_the_same_moments_where_a_protocol_takes_random_clips() -> None:
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8), 16 * 32 * 3).reshape(-1, 16, 32, 3)
    alike = [Video(name=f"future_{number}", frames=ramp) for number in range(4)]
    protocol = replace(PROTOCOL, clip_choice=ClipChoice.RANDOM)
    found = measure_feature_diversity("start", alike, MeanColour(), protocol, (16, 32))
    assert found.futures == 0
    assert found.reencodings < 5, "re-encodings of the same moments"


def town_clips(drives: range, rng: np.random.Generator) -> NDArray[np.float64]:
    """Features of 3 clips a drive: clips of one drive are near each other."""
    return np.concatenate([rng.normal(size=(1, 16)) + 0.1 * rng.normal(size=(3, 16)) for _ in drives])


def test_a_copied_clip_is_flagged_and_a_held_out_one_is_not() -> None:
    rng = np.random.default_rng(0)
    real, held_out = town_clips(range(40), rng), town_clips(range(20), rng)
    drives = [str(index // 3) for index in range(len(real))]
    copies = real[[5, 60]] + 0.02 * rng.normal(size=(2, 16))  # as a codec leaves them
    found = nearest_real(np.concatenate([copies, held_out]), real, drives)
    assert found.is_copy.tolist() == [True, True] + [False] * len(held_out)
    assert found.index[:2].tolist() == [5, 60]
    assert found.ratio == pytest.approx(1.0, abs=0.3)
    assert nearest_real(real, real, drives).ratio == 0
    # Against an independent computation over all pairs.
    pairs = np.linalg.norm(real[:, None] - real[None], axis=-1)
    pairs[np.array(drives)[:, None] == np.array(drives)[None]] = np.inf
    np.testing.assert_allclose(found.real_distance, pairs.min(axis=1))


def test_neighbours_need_two_drives_and_features_of_one_size() -> None:
    clips = np.zeros((3, 4))
    with pytest.raises(ValueError, match="one drive"):
        nearest_real(clips, clips, ["a"] * 3)
    with pytest.raises(ValueError, match=r"expected \(N, D\)"):
        nearest_real(clips, clips[:, :2], ["a", "b", "c"])
    with pytest.raises(ValueError, match="2 drives for 3"):
        nearest_real(clips, clips, ["a", "b"])


def turned(step_deg: float, num_frames: int = 8) -> Frames:
    """What a camera that turns on the spot sees of a far wall: columns of the wall by their angles."""
    config = EgoMotionConfig()
    focal_px = 64 / np.tan(np.radians(config.horizontal_fov_deg) / 2)
    wall = np.random.default_rng(0).integers(30, 220, size=90)  # a grey level every 4 degrees
    right_deg = np.degrees(np.arctan((np.arange(128) + 0.5 - 64) / focal_px))
    rows = [wall[np.floor((right_deg - step_deg * frame) / 4).astype(int) % 90] for frame in range(num_frames)]
    return np.repeat(np.repeat(np.array(rows, dtype=np.uint8)[:, None, :, None], 64, axis=1), 3, axis=3)


@pytest.mark.parametrize("step_deg", [0.0, 2.0, -5.0, 9.0])
def test_the_yaw_of_a_turn_on_the_spot_is_measured(step_deg: float) -> None:
    np.testing.assert_allclose(yaw_steps_deg(turned(step_deg), EgoMotionConfig(scale=1.0)), step_deg, atol=1.0)


def test_pictures_without_edges_do_not_turn() -> None:
    grey = np.full((5, 64, 128, 3), 90, dtype=np.uint8)
    assert yaw_steps_deg(grey).tolist() == [0.0] * 4
    assert ego_turn(yaw_steps_deg(grey)) is EgoTurn.STRAIGHT
    with pytest.raises(ValueError, match="half the field of view"):
        EgoMotionConfig(max_turn_deg=40.0)


@pytest.mark.parametrize("turn", [Turn.LEFT, Turn.STRAIGHT, Turn.RIGHT])
def test_the_way_through_a_toytown_junction_is_found(turn: Turn) -> None:
    odds = TurnOdds(left=0, straight=0, right=0)
    setattr(odds, turn.value, 1.0)
    town = TownConfig(
        fps=FPS, key_fps=FPS, duration_s=12, traffic_density=0, num_pedestrians=0, junction_share=1, turn_odds=odds
    )
    for scene in range(2):
        episode = simulate(town, FIRST_HELD_OUT + 400 + scene)
        yaw_deg = np.degrees(np.unwrap(episode.ego_path[:, 2]))
        true_deg = yaw_deg[-1] - yaw_deg[0]
        steps_deg = yaw_steps_deg(render(episode, frame, CAMERA) for frame in range(len(episode)))
        assert steps_deg.sum() == pytest.approx(true_deg, abs=25)
        if abs(true_deg) > 65:
            assert ego_turn(steps_deg) is (EgoTurn.LEFT if true_deg > 0 else EgoTurn.RIGHT)
        if abs(true_deg) < 15:
            assert ego_turn(steps_deg) is EgoTurn.STRAIGHT


def test_futures_of_a_start_are_counted_by_the_way_they_drive(tmp_path: Path) -> None:
    for index, step_deg in enumerate((6.0, 7.0, -6.0, 0.0)):
        with VideoWriter(tmp_path / f"future_{index}.mp4", FPS, crf=12) as writer:
            for frame in turned(step_deg, 12):
                writer.write(frame)
    starts = {"future_0.mp4": find_videos(tmp_path), "broken": plain_videos([90, 100], num_frames=2)}
    (found,) = measure_futures(starts, [MeanColour()], PROTOCOL, (64, 128), tmp_path / "rows.jsonl")
    assert [(turn.mode, turn.count) for turn in found.turns] == [("left", 2), ("straight", 1), ("right", 1)]
    assert found.features is not None
    assert found.yaw_deg[1] == pytest.approx(0.85 * 77, abs=10)
    assert [row["name"] for row in read_rows(tmp_path / "rows.jsonl")] == ["broken"]
    assert "left 2 (" in futures_section([found])


def test_the_way_is_read_from_4_frames_a_second_or_from_all_of_a_slower_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate at which the measure was tried: nearer frames damp it."""
    for index, fps in enumerate((30.0, 2.0)):
        with VideoWriter(tmp_path / f"future_{index}.mp4", fps) as writer:
            for frame in turned(1.0, round(2 * fps) + 1):
                writer.write(frame)

    def count(frames: Iterator[Frames], config: EgoMotionConfig) -> NDArray[np.float64]:
        return np.array([len(list(frames))], dtype=np.float64)

    monkeypatch.setattr(futures, "yaw_steps_deg", count)
    starts = {"future_0.mp4": find_videos(tmp_path)}
    (found,) = measure_futures(starts, [], PROTOCOL, (64, 128), tmp_path / "rows.jsonl")
    assert found.yaw_deg == [9.0, 5.0]


def test_what_a_rollout_was_told_to_drive_stands_beside_what_its_futures_do(tmp_path: Path) -> None:
    for index, step_deg in enumerate((6.0, -3.0)):
        with VideoWriter(tmp_path / f"future_{index}.mp4", 4.0) as writer:
            for frame in turned(step_deg, 13):
                writer.write(frame)
    told = [{"seconds": 1.0, "speed_mps": 5.0}, {"seconds": 1.0, "speed_mps": 5.0, "yaw_deg_per_s": 24.0}]
    starts = {"future_0.mp4": find_videos(tmp_path)}

    def measured(motion: list[dict[str, float]]) -> futures.Futures:
        (tmp_path / "run.json").write_text(json.dumps({"seed": 0, "motion": motion}))
        (found,) = measure_futures(starts, [], PROTOCOL, (64, 128), tmp_path / "rows.jsonl")
        return found

    found = measured(told)
    (of_both,) = found.told
    assert (of_both.seconds, of_both.asked_deg) == (2.0, 24.0)
    assert of_both.driven_deg == pytest.approx([0.85 * 48, -0.85 * 24], abs=5)  # in the first two of three seconds
    assert "2 futures told to turn 24 degrees to the left in 2 s: " in futures_section([found])
    longer = measured([{"seconds": 9.0, "speed_mps": 5.0, "yaw_deg_per_s": -10.0}])
    assert longer.told == [futures.Told(seconds=3.0, asked_deg=-30.0, driven_deg=longer.yaw_deg)]
    unsaid = measured([])
    assert unsaid.told == [] and "told" not in futures_section([unsaid])


def test_futures_that_were_told_in_turn_stand_beside_what_each_was_told(tmp_path: Path) -> None:
    steps_deg = {0: 6.0, 1: 0.0, 2: -3.0, 3: 5.0}
    for number, step_deg in steps_deg.items():
        with VideoWriter(tmp_path / f"future_{number}.mp4", 4.0) as writer:
            for frame in turned(step_deg, 13):
                writer.write(frame)
        append_row(tmp_path / "rows.jsonl", {"future": number, "ok": True, "video": f"future_{number}.mp4"})
    left, right = ([{"seconds": 2.0, "speed_mps": 5.0, "yaw_deg_per_s": rate}] for rate in (24.0, -12.0))
    in_turn = [{"motion": left}, {"is_night": None}, {"motion": right}]
    (tmp_path / "run.json").write_text(json.dumps({"seed": 0, "in_turn": in_turn}))
    starts = {"future_0.mp4": find_videos(tmp_path)}
    (found,) = measure_futures(starts, [], PROTOCOL, (64, 128), tmp_path / "scores.jsonl")
    to_left, to_right = found.told
    assert (to_left.asked_deg, to_right.asked_deg) == (48.0, -24.0)
    assert to_left.driven_deg == pytest.approx([0.85 * 48, 0.85 * 40], abs=6)
    assert to_right.driven_deg == pytest.approx([-0.85 * 24], abs=6)
    assert "1 future told to turn -24 degrees to the left in 2 s: " in futures_section([found])
