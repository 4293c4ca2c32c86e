"""Captions made of labels say what the world did, and pictures that are mirrored are described mirrored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drivesim.core.boxes import ObjectClass
from drivesim.core.seeds import numpy_generator
from drivesim.data import NuScenesConfig, make_source
from drivesim.data.batches import FrameDataset
from drivesim.data.captions import Captions, collate_texts, mirrored, text_bytes, texts_of
from drivesim.data.conditions import Conditions
from drivesim.data.frames import cache_frames
from drivesim.data.label_captions import Way, cars_in_sight, label_captions, phrase, ways
from drivesim.data.windows import CaptionWeight
from drivesim.toytown import TownConfig, Turn, TurnOdds, simulate, write_nuscenes

FPS = 4.0


def path_of(yaw_rate: float, speed: float, num_frames: int = 20) -> np.ndarray:
    yaw = yaw_rate * np.arange(num_frames) / FPS
    step = speed / FPS * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    place = np.concatenate([np.zeros((1, 2)), np.cumsum(step, axis=0)[:-1]])
    return np.concatenate([place, yaw[:, None]], axis=1)


@pytest.mark.parametrize(
    ("yaw_rate", "speed", "way"),
    [(0.3, 5.0, Way.LEFT), (-0.3, 5.0, Way.RIGHT), (0.02, 8.0, Way.STRAIGHT), (0.0, 0.1, Way.STANDING)],
)
def test_the_way_is_told_from_the_path_also_at_its_end_and_past_half_a_turn(yaw_rate, speed, way) -> None:
    assert ways(path_of(yaw_rate, speed, 60), FPS) == [way] * 60


def test_the_ego_cars_turn_of_toytown_is_what_captions_say() -> None:
    for odds, turn, way in (
        (TurnOdds(left=1, straight=0, right=0), Turn.LEFT, Way.LEFT),
        (TurnOdds(left=0, straight=0, right=1), Turn.RIGHT, Way.RIGHT),
    ):
        town = TownConfig(
            fps=FPS, key_fps=FPS, junction_share=1.0, turn_odds=odds, traffic_density=0.0, num_pedestrians=0
        )
        episode = simulate(town, 0)
        found = ways(episode.ego_path, FPS)
        yaw = np.unwrap(episode.ego_path[:, 2])
        sharpest = int(np.abs(yaw[8:] - yaw[:-8]).argmax())  # within the 2 s that a way is told from
        assert episode.turn is turn
        assert found[sharpest] is way


def conditions(heights: list[list[float]], is_night: int = 0) -> Conditions:
    flat = [height for row in heights for height in row]
    boxes = np.array([[0.1, 0.2, 0.3, 0.2 + height] for height in flat], dtype=np.float32).reshape(-1, 4)
    counts = [len(row) for row in heights]
    return Conditions(
        boxes_N4=boxes,
        classes_N=np.full(len(flat), ObjectClass.CAR.id),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        num_cars_T=np.array(counts),
        valid_T=np.ones(len(heights), dtype=bool),
        is_night=is_night,
        has_boxes=True,
    )


def test_cars_too_small_to_be_seen_are_not_counted() -> None:
    assert cars_in_sight(conditions([[0.3, 0.01], [], [0.1, 0.2, 0.5]])).tolist() == [1, 0, 3]


def test_no_phrasing_says_what_is_not_so() -> None:
    texts = {phrase(1, Way.LEFT, 2, numpy_generator(seed)) for seed in range(300)}
    assert len(texts) > 50, "several phrasings"
    words = {word.strip(",") for text in texts for word in text.split()}
    assert not words & {"day", "daylight", "right", "straight", "standing", "one", "three", "many", "no"}
    assert {"night", "dark", "left", "two", "cars"} <= words
    for fact in ("left", "two"):  # each is left out now and then
        assert 0.6 < np.mean([fact in text for text in texts]) < 0.98
    assert all(
        "car" not in text.replace("car ride", "")
        for text in {phrase(0, Way.LEFT, -1, numpy_generator(s)) for s in range(99)}
    )
    assert phrase(0, Way.LEFT, 1, numpy_generator(3)).count("one cars") == 0


def test_captions_of_a_drive_are_the_same_each_time_and_survive_the_cache(tmp_path) -> None:
    made = [label_captions("d", conditions([[0.3]] * 20), path_of(0.3, 5), FPS) for _ in range(2)]
    assert made[0].texts == made[1].texts
    kept = conditions([[0.3]] * 20)
    kept.captions = made[0]
    back = Conditions.from_arrays(kept.to_arrays()).captions
    assert back.texts == made[0].texts
    np.testing.assert_array_equal(back.choices_TP, made[0].choices_TP)
    assert Conditions.from_arrays(conditions([[0.3]]).to_arrays()).captions is None


def test_mirrored_text_swaps_sides_and_nothing_else() -> None:
    text = "A left turn, then right. Leftover rights"
    assert mirrored(text) == "A right turn, then left. Leftover rights"
    assert mirrored(mirrored(text)) == text


def test_text_survives_a_batch() -> None:
    texts = ["", "naß – 日本", "a much longer one than the others"]
    assert texts_of(collate_texts([text_bytes(text) for text in texts])) == texts
    assert texts_of(torch.zeros(2, 7, dtype=torch.uint8, device="meta")) == ["", ""]


def test_toytown_comes_with_captions_when_asked_and_flipped_pictures_are_described_flipped(tmp_path) -> None:
    town = TownConfig(
        num_scenes=1, duration_s=8.0, fps=4.0, key_fps=4.0, size_hw=(32, 64), junction_share=1.0, night_share=1.0,
        turn_odds=TurnOdds(left=1, straight=0, right=0),
    )  # fmt: skip
    write_nuscenes(town, tmp_path / "town")
    plain = NuScenesConfig(root=str(tmp_path / "town"), version="v1.0-toytown")
    captioned = NuScenesConfig(root=str(tmp_path / "town"), version="v1.0-toytown", captions=True)
    assert make_source(plain).fingerprint != make_source(captioned).fingerprint
    cache = cache_frames(make_source(captioned), "train", (32, 64), 4.0, tmp_path / "cache")
    data = FrameDataset(cache, seed=0, num_frames=2)
    captions = cache.conditions["toytown-0000"].captions
    seen = set()
    for number in range(60):
        _, frames, is_flipped = data.where(number)
        (text,) = texts_of(data[number]["caption_L"][None])
        assert "day" not in text
        allowed = {captions.texts[choice] for choice in captions.choices_TP[frames[0]]}
        assert text in ({mirrored(other) for other in allowed} if is_flipped else allowed)
        seen |= {(side, is_flipped) for side in ("left", "right") if side in text}
    assert len(seen) >= 2, "sides occur, flipped or not"
    side = next(side for side in ("left", "right") if any(side in text for text in captions.texts))
    FrameDataset(cache, seed=0, num_frames=2, caption_weights=[CaptionWeight(word=side, weight=2.0)], flip=False)
    with pytest.raises(ValueError, match="left and right come alike"):
        FrameDataset(cache, seed=0, num_frames=2, caption_weights=[CaptionWeight(word=side, weight=2.0)])
    assert "caption_L" not in FrameDataset(
        cache_frames(make_source(plain), "train", (32, 64), 4.0, tmp_path / "cache"), seed=0
    )[0]  # fmt: skip
    assert isinstance(cache.conditions["toytown-0000"].captions, Captions)
