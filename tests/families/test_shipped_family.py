"""The shipped toytown family on scenes that it was never trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from drivesim import MotionSegment, Scene, Simulator
from drivesim.core.boxes import Boxes2D
from drivesim.core.camera import Camera, project_boxes
from drivesim.core.picture import resize_area
from drivesim.core.scene import ego_boxes_to_camera
from drivesim.evaluate.boxes import BoxObedienceMeter
from drivesim.evaluate.controls import frozen_clip, shuffled_clip
from drivesim.evaluate.diversity import measure_diversity
from drivesim.evaluate.ego_motion import yaw_steps_deg
from drivesim.evaluate.extractors import ExtractorConfig, make_extractor
from drivesim.evaluate.frechet import FrechetStatistics, frechet_distance
from drivesim.evaluate.seams import SeamMeter
from drivesim.evaluate.videos import as_videos
from drivesim.families.folder import find_model
from drivesim.families.stages import StagesConfig, Upsampling
from drivesim.rollout.cascade import fill_in
from drivesim.toytown import Episode, TownConfig, Turn, render, simulate

SCORED_FPS = 4.0  # at which clips are compared
LARGEST_MB = 40
FIRST_HELD_OUT = 9000  # training scenes begin at 0
TOWN = TownConfig(fps=SCORED_FPS, key_fps=SCORED_FPS, duration_s=10.0, first_scene=FIRST_HELD_OUT)
NUM_FRAMES = 8  # of a scored clip
MIN_TURN_DEG = 15.0  # in the mean, of the 81 that are asked for
Frames = NDArray[np.uint8]


@pytest.fixture(scope="module")
def sim() -> Simulator:
    """All stages but the upsampler: pictures of 64 x 128, the size of the networks that score them."""
    return Simulator.from_pretrained("toytown", stages=StagesConfig(upsampling=Upsampling.NONE))


@pytest.fixture(scope="module")
def whole() -> Simulator:
    return Simulator.from_pretrained("toytown")


def at_scored_rate(frames_THWC: Frames, fps: float, num_frames: int) -> Frames:
    """The nearest frames to those at the scored rate."""
    return frames_THWC[np.round(np.arange(num_frames) * fps / SCORED_FPS).astype(int)]


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [simulate(TOWN, FIRST_HELD_OUT + index) for index in range(12)]


def pictures(episode: Episode, frames: range, size_hw: tuple[int, int]) -> Frames:
    camera = Camera.front(TOWN.size_hw)
    return resize_area(np.stack([render(episode, frame, camera) for frame in frames]), size_hw)


def seen_boxes(episode: Episode, frame: int, size_hw: tuple[int, int]) -> Boxes2D:
    camera = Camera.front(TOWN.size_hw)
    boxes, _ = project_boxes(ego_boxes_to_camera(episode.boxes[frame], camera), camera)
    return boxes.select(boxes.visibility >= 0.4).scaled(TOWN.size_hw, size_hw)


def test_it_loads_from_the_package_and_is_small() -> None:
    files = [path for path in find_model("toytown").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST_MB * 10**6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}


def test_futures_are_nearer_to_real_driving_than_a_frozen_frame_and_than_shuffled_frames(
    sim: Simulator, episodes: list[Episode]
) -> None:
    extractor = make_extractor(ExtractorConfig(name="toytown-clip"))
    sums = {name: FrechetStatistics.empty(extractor.feature_dim) for name in ("real", "model", "frozen", "shuffled")}
    for index, episode in enumerate(episodes):
        first, second = (pictures(episode, range(s, s + NUM_FRAMES + 1), sim.size_hw) for s in (0, 20))
        seconds = (NUM_FRAMES + 0.5) / SCORED_FPS
        video = np.concatenate(list(sim.rollout(first[0], seconds=seconds, name=f"held-out {index}")))
        made = at_scored_rate(video, sim.fps, NUM_FRAMES + 1)
        # The real side is another part of the drives: the controls must not be scored against their own frames.
        clips = {
            "real": second[1:],
            "model": made[1:],
            "frozen": frozen_clip(first[1:]),
            "shuffled": shuffled_clip(first[1:], index),
        }
        for name, clip in clips.items():
            sums[name].update(extractor(clip[None]).numpy())
    distance = {name: frechet_distance(sums[name], sums["real"]) for name in ("model", "frozen", "shuffled")}
    print(distance)
    assert distance["model"] < distance["frozen"]
    assert distance["model"] < distance["shuffled"]


def test_designed_frames_show_cars_where_the_boxes_are(sim: Simulator, episodes: list[Episode]) -> None:
    meter = BoxObedienceMeter()
    pairs = [(episode, frame) for episode in episodes for frame in (4, 24)]
    boxes = [seen_boxes(episode, frame, sim.size_hw) for episode, frame in pairs]
    used = [i for i, b in enumerate(boxes) if 0.02 < covered(b, sim.size_hw) < 0.8]
    assert len(used) >= 12
    for place, i in enumerate(used):
        episode, frame = pairs[i]
        other = boxes[used[(place + len(used) // 2) % len(used)]]
        designed = [
            sim.design(
                Scene(name="held-out", size_hw=sim.size_hw, boxes_2d=b, is_night=episode.is_night), seed=0, index=i
            )
            for b in (boxes[i], other)
        ]
        meter.update(
            designed_HWC=designed[0],
            from_shuffled_HWC=designed[1],
            reference_HWC=pictures(episode, range(frame, frame + 1), sim.size_hw)[0],
            boxes=boxes[i],
        )
    result = meter.compute()
    print(result)
    assert result.inside_gain > 2 * result.inside_gain_error
    assert result.inside_gain > result.outside_gain


def covered(boxes: Boxes2D, size_hw: tuple[int, int]) -> float:
    mask = np.zeros(size_hw, dtype=bool)
    for left, top, right, bottom in boxes.xyxy_px.astype(int):
        mask[top:bottom, left:right] = True
    return float(mask.mean())


def test_four_futures_part_from_one_another(sim: Simulator, episodes: list[Episode]) -> None:
    start = pictures(episodes[0], range(1), sim.size_hw)[0]
    key_frames = Simulator.from_pretrained(
        "toytown", stages=StagesConfig(interpolate=False, upsampling=Upsampling.NONE)
    )
    futures = [np.concatenate(list(key_frames.rollout(start, seconds=4.5, future=k))) for k in range(4)]
    diversity = measure_diversity("held-out", list(as_videos(futures)[1]), key_frames.fps)
    print(diversity)
    assert diversity.curve[0] == 0.0  # one start frame
    assert diversity.ratio > 1.0


def test_frames_between_real_key_frames_are_near_to_real_ones_and_change_as_much(sim: Simulator) -> None:
    """Both passes of interpolation, 24 frames between four key frames of six drives, seen through the video decoder."""
    model, gap = sim.model, sim.model.frames_per_gap
    town = replace(TOWN, fps=sim.fps, key_fps=sim.fps, duration_s=4.0)
    camera = Camera.front(town.size_hw)
    errors, of_nearest, changes = [], [], []
    for number in range(6):
        episode = simulate(town, FIRST_HELD_OUT + number)
        drawn = np.stack([render(episode, frame, camera) for frame in range(60, 60 + 3 * gap + 1)])
        real = resize_area(drawn, sim.size_hw)
        latents = model.encode(real)
        filled = fill_in(model, latents[::gap], None, ("filled in", number))
        nearest = latents[(np.arange(len(latents)) + gap // 2) // gap * gap]
        shown, held, made = (
            model.finish({}, part, key=("filled in", number), is_last=True)[1].astype(np.float32)
            for part in (latents, nearest, filled)
        )
        between = np.arange(len(real)) % gap != 0
        errors.append(np.abs(made - shown)[between].mean())
        of_nearest.append(np.abs(held - shown)[between].mean())
        changes.append([np.abs(np.diff(frames.astype(np.float32), axis=0)).mean() for frames in (made, shown, real)])
    made_change, shown_change, real_change = np.mean(changes, axis=0)
    print(
        f"{np.mean(errors):.2f} grey levels off, the nearest key frame {np.mean(of_nearest):.2f}; from frame to frame "
        f"they change by {made_change:.2f} grey levels, real ones by {real_change:.2f}, decoded by {shown_change:.2f}"
    )
    assert np.mean(errors) < 0.92 * np.mean(of_nearest)
    assert 0.75 * real_change < made_change < 1.1 * shown_change


def test_futures_turn_the_way_that_they_are_told() -> None:
    """At crossings that no training has seen: 1.2 s straight on, then 3.6 s of a quarter turn, 81 degrees."""
    key_frames = Simulator.from_pretrained(
        "toytown", stages=StagesConfig(interpolate=False, video_decoder=False, upsampling=Upsampling.NONE)
    )
    turned: dict[float, list[float]] = {22.5: [], 0.0: [], -22.5: []}
    for number in range(3):
        start = crossing_ahead(FIRST_HELD_OUT + 50 * number, key_frames.fps, key_frames.size_hw)
        for yaw_deg_per_s, found in turned.items():
            motion = [
                MotionSegment(seconds=1.2, speed_mps=6.0),
                MotionSegment(seconds=3.6, speed_mps=5.5, yaw_deg_per_s=yaw_deg_per_s),
            ]
            frames = np.concatenate(list(key_frames.rollout(start, seconds=4.8, motion=motion, name=f"{number}")))
            found.append(float(yaw_steps_deg(frames).sum()))
    print({yaw: (round(np.mean(found), 1), [round(f) for f in found]) for yaw, found in turned.items()})
    left, straight, right = (np.array(found) for found in turned.values())
    assert (left > straight).all() and (straight > right).all()
    assert left.mean() > MIN_TURN_DEG and right.mean() < -MIN_TURN_DEG
    assert abs(straight.mean()) < MIN_TURN_DEG / 2


def crossing_ahead(first_scene: int, fps: float, size_hw: tuple[int, int]) -> Frames:
    """A start frame by day, shortly before a real quarter turn of the first scene that has one."""
    town = replace(TOWN, fps=fps, key_fps=fps, duration_s=20.0, night_share=0.0)
    for scene in range(first_scene, first_scene + 50):
        episode = simulate(town, scene)
        turning = np.abs(np.diff(np.unwrap(episode.ego_path[:, 2]))) * fps > np.radians(12)
        if episode.turn in (Turn.LEFT, Turn.RIGHT) and turning.any() and (first := int(turning.argmax()) - 4) > 0:
            return resize_area(render(episode, first, Camera.front(TOWN.size_hw))[None], size_hw)[0]
    raise AssertionError("no scene turns")


def test_all_five_stages_make_30_large_frames_a_second_that_join_without_a_seam(
    whole: Simulator, sim: Simulator, episodes: list[Episode]
) -> None:
    assert (whole.fps, whole.size_hw, whole.model.num_passes) == (30.0, (256, 512), 2)
    assert sim.size_hw == (64, 128)
    assert whole.model.finishing.video_decoder is not None
    upsampling = whole.model.finishing.upsampling
    assert upsampling is not None and upsampling.networks.video_unet is not None
    camera = Camera.front(whole.size_hw)
    start = render(episodes[1], 0, camera)
    frames = np.concatenate(list(whole.rollout(start, seconds=3.2)))
    small = np.concatenate(list(sim.rollout(resize_area(start, sim.size_hw), seconds=3.2, name="start")))
    assert frames.shape == (96, 256, 512, 3)
    back = np.abs(resize_area(frames, sim.size_hw).astype(float) - small).mean()
    print(f"made small again, large frames differ from the small ones by {back:.2f} grey levels")
    assert back < 6.0
    changes_T = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    step = upsampling.portion - upsampling.overlap
    joins = [frame / whole.fps for frame in range(step, 96, step)]  # the first frame that the next portion shares in
    meter = SeamMeter()
    meter.update(np.concatenate([[0.0], changes_T]), whole.fps, joins)
    seams = meter.compute()
    print(seams)
    assert seams is not None and abs(seams.ratio - 1) < 0.05
