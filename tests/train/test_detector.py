"""Training of the detector: labels follow the crops, targets mark the boxes, and a killed training goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drivesim.core.boxes import Boxes2D, ObjectClass
from drivesim.evaluate.detector import Detector
from drivesim.evaluate.detector_network import DetectorNetwork, DetectorNetworkConfig
from drivesim.toytown import TownConfig
from drivesim.train.detector import DetectorTraining, focal_loss, redraw_by, train_detector
from drivesim.train.detector_pictures import (
    DetectorPicture,
    DetectorScenes,
    DetectorVariation,
    draw_pictures,
    draw_sample,
)
from drivesim.train.detector_targets import targets_of

SIZE_HW = (128, 256)
PLAIN = DetectorVariation(blur_px=0.31, light=0.0, noise=0.0)


def bright_box(seed: int, *, visibility: float = 1.0) -> DetectorPicture:
    """A bright car on dark ground."""
    rng = np.random.default_rng(seed)
    left, top = int(rng.integers(80, 120)), int(rng.integers(30, 50))  # in every crop
    width, height = int(rng.integers(30, 70)), int(rng.integers(20, 50))
    picture = rng.integers(0, 50, size=(*SIZE_HW, 3), dtype=np.uint8)
    picture[top : top + height, left : left + width] = 240
    boxes = Boxes2D(
        xyxy_px=np.array([[left, top, left + width, top + height]], dtype=np.float64),
        class_ids=np.array([ObjectClass.CAR.id]),
        depth_m=np.array([12.0]),
        visibility=np.array([visibility]),
    )
    return DetectorPicture(picture_HWC=picture, redrawn_HWC=None, boxes=boxes, is_night=seed % 2 == 0)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_crop_and_mirror(seed: int) -> None:
    sample = draw_sample([bright_box(3)], SIZE_HW, np.random.default_rng(seed), PLAIN)
    assert sample.picture_CHW.shape == (3, *SIZE_HW)
    rows, columns = np.nonzero(sample.picture_CHW.mean(axis=0) > 0)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(sample.boxes.xyxy_px[0], found, atol=2.5)
    assert sample.is_night is False


def test_pictures_are_redrawn_where_the_autoencoder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = SimpleNamespace(autoencoder=None, small_hw=(8, 16))
    asked: list[torch.Tensor] = []

    def encode_there(autoencoder: None, frames: NDArray[np.uint8]) -> torch.Tensor:
        return torch.zeros(len(frames), 4, 1, 2, device="meta", dtype=torch.bfloat16)

    def decode_there(autoencoder: None, latents: torch.Tensor) -> NDArray[np.uint8]:
        asked.append(latents)
        return np.zeros((len(latents), 8, 16, 3), dtype=np.uint8)

    monkeypatch.setattr("drivesim.train.detector.encode", encode_there)
    monkeypatch.setattr("drivesim.train.detector.decode", decode_there)
    redraw_by(model)(np.zeros((2, 16, 32, 3), dtype=np.uint8), np.random.default_rng(0))
    assert [(latents.device.type, latents.dtype) for latents in asked] == [("meta", torch.bfloat16)]


def test_a_redrawn_copy_takes_the_place_of_the_picture() -> None:
    source = bright_box(1)
    source.redrawn_HWC = np.full((64, 128, 3), 255, dtype=np.uint8)
    variation = DetectorVariation(redrawn=1.0, light=0.0, noise=0.0)
    sample = draw_sample([source], SIZE_HW, np.random.default_rng(0), variation)
    assert sample.picture_CHW.min() > 0.99


def test_targets_peak_in_the_middle_and_hold_the_borders() -> None:
    boxes = bright_box(2).boxes
    objects, counts, borders, depth, weight = targets_of(boxes, (32, 64), 4)
    left, top, right, bottom = boxes.xyxy_px[0]
    row, column = int((top + bottom) / 8), int((left + right) / 8)
    assert objects[ObjectClass.CAR.id, row, column] == 1
    assert (objects == 1).sum() == 1
    assert counts.all()
    assert weight.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(borders[:, weight > 0], np.tile(boxes.xyxy_px[0][:, None], (weight > 0).sum()))
    assert set(depth[weight > 0]) == {12.0}


def test_hidden_objects_may_be_found_or_not() -> None:
    boxes = bright_box(2, visibility=0.1).boxes
    objects, counts, _, _, weight = targets_of(boxes, (32, 64), 4)
    assert objects.max() == weight.max() == 0
    assert 0 < (counts[ObjectClass.CAR.id] == 0).sum() < 32 * 64
    assert counts[ObjectClass.BUS.id].all()
    logits = torch.full(objects.shape, 5.0)
    everywhere = focal_loss(logits, torch.from_numpy(objects), torch.ones(objects.shape))
    assert focal_loss(logits, torch.from_numpy(objects), torch.from_numpy(counts)) < everywhere


def test_the_focal_loss_by_hand() -> None:
    logits, targets = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.0])
    share = 1 / (1 + np.exp(-2))
    expected = -(0.25 * np.log(0.5) + 0.25 * 0.5**4 * np.log(0.5) + share**2 * np.log(1 - share))
    assert focal_loss(logits, targets, torch.ones(3)).item() == pytest.approx(expected, rel=1e-5)


def small_network() -> DetectorNetwork:
    return DetectorNetwork(DetectorNetworkConfig(stem_channels=8, channels=(8, 12, 16, 16), head_channels=12))


def test_it_learns_to_find_a_bright_box() -> None:
    pictures = [bright_box(seed) for seed in range(30)]
    config = DetectorTraining(num_steps=120, batch_size=4, warmup_steps=5, learning_rate=1e-2, variation=PLAIN)
    network, _ = train_detector(config, small_network, pictures)
    detector = Detector(network=network, fingerprint="none")
    hits = []
    for seed in range(100, 110):
        picture = bright_box(seed)
        (found,) = detector(picture.picture_HWC[None])
        if not len(found.boxes.xyxy_px):
            continue
        left, top, right, bottom = picture.boxes.xyxy_px[0]
        x, y = (found.boxes.xyxy_px[0, :2] + found.boxes.xyxy_px[0, 2:]) / 2
        hits.append(left < x < right and top < y < bottom and found.boxes.class_ids[0] == ObjectClass.CAR.id)
    assert sum(hits) >= 8


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    pictures = [bright_box(seed) for seed in range(4)]
    config = DetectorTraining(num_steps=4, batch_size=2, warmup_steps=2, checkpoint_steps=2)
    whole, losses = train_detector(config, small_network, pictures)
    with pytest.raises(RuntimeError, match="killed"):
        train_detector(config, small_network, Broken(pictures, after=6), tmp_path / "checkpoint.pt")
    assert (tmp_path / "checkpoint.pt").exists()
    resumed, again = train_detector(config, small_network, pictures, tmp_path / "checkpoint.pt")
    assert again == losses
    for first, second in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)


class Broken(list[DetectorPicture]):
    """Raises after so many pictures were taken."""

    def __init__(self, pictures: list[DetectorPicture], after: int) -> None:
        super().__init__(pictures)
        self.left = after

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("killed")
        return super().__getitem__(index)


def test_toytown_pictures_carry_boxes_and_copies() -> None:
    town = TownConfig(duration_s=2.0, fps=2.0, key_fps=2.0, seed=3)
    config = DetectorScenes(num_scenes=1, size_hw=(64, 128), town=town)
    pictures = draw_pictures(config, lambda frames, rng: frames[:, ::2, ::2])
    assert [picture.redrawn_HWC is not None for picture in pictures] == [True, False, True, False]
    np.testing.assert_array_equal(pictures[2].redrawn_HWC, pictures[2].picture_HWC[::2, ::2])
    assert all((picture.boxes.visibility >= config.min_visibility).all() for picture in pictures)
    assert max(len(picture.boxes) for picture in pictures) > 0


def test_held_out_scenes_are_kept_out() -> None:
    with pytest.raises(ValueError, match="held out"):
        DetectorScenes(first_scene=8900, num_scenes=200)
    with pytest.raises(ValueError, match="pictures to train on"):
        train_detector(DetectorTraining(), small_network, [])
