"""Training of the evaluators' clip network: labels follow the crops, the same seed gives the same weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.core.boxes import Boxes2D
from drivesim.core.clip import Clip
from drivesim.evaluate.clip_network import PLAYBACKS, ClipNetwork
from drivesim.toytown import TownConfig
from drivesim.train.clip_network import ClipNetworkTraining, batch_losses, draw_batch, train_clip_network
from drivesim.train.clip_network_drives import ToytownDrives, render_drives
from drivesim.train.clip_network_samples import EGO_SCALE, ClipSampling, draw_sample, play_order

SHAPE = ((64, 128), (4, 8))


def drive(seed: int, labelled: bool = True) -> Clip:
    """A bright box that grows on a dark noisy ground, with the ego car bending left."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, size=(40, 72, 144, 3), dtype=np.uint8)
    boxes = []
    for t in range(40):
        box = np.array([[90.0 - t / 2, 30.0 - t / 4, 110.0 + t / 2, 46.0 + t / 4]])
        left, top, right, bottom = box[0].astype(int)
        frames[t, top:bottom, left:right] = 240
        boxes.append(
            Boxes2D(xyxy_px=box, class_ids=np.zeros(1, np.int64), depth_m=np.array([40.0 - t]), visibility=np.ones(1))
        )
    yaw = 0.02 * np.arange(40)
    path = np.stack([np.cumsum(np.cos(yaw)), np.cumsum(np.sin(yaw)), yaw], axis=1)
    return Clip(
        name=f"drive {seed}",
        drive=f"drive {seed}",
        frames_THWC=frames,
        fps=12.0,
        timestamps_us=np.arange(40),
        boxes=tuple(boxes) if labelled else None,
        is_night=bool(seed % 2) if labelled else None,
        ego_path=path if labelled else None,
    )


@pytest.mark.parametrize("seed", range(6))
def test_labels_follow_crop_and_mirror(seed: int) -> None:
    sampling = ClipSampling(light=0.0, noise=0.0, strides=(1,))
    sample = draw_sample([drive(1)], 8, (0, "forward"), SHAPE, np.random.default_rng(seed), sampling)
    assert sample.frames_TCHW.shape == (8, 3, 64, 128)
    assert np.abs(sample.frames_TCHW).max() <= 1
    bright = sample.frames_TCHW.mean(axis=1) > 0
    cells = bright.reshape(8, 4, 16, 8, 16)[:, :, 8, :, 8]  # the cells' centres
    assert (cells == (sample.occupancy > 0)).mean() > 0.9
    way, yaw = (sample.ego * EGO_SCALE).mean(axis=0)
    assert way == pytest.approx(1.0, abs=0.01)
    assert abs(yaw) == pytest.approx(0.02, abs=0.001)
    box_is_left = np.argwhere(cells)[:, 2].mean() < 3.5
    assert (yaw < 0) == box_is_left  # it is right of the middle while the car bends left, both mirrored together
    assert sample.night == 1.0
    np.testing.assert_allclose(sample.num_cars, np.log(2), rtol=1e-6)


def test_ways_of_playing_are_what_they_are_called() -> None:
    rng = np.random.default_rng(0)
    assert list(play_order(5, "reversed", rng)) == [4, 3, 2, 1, 0]
    assert list(play_order(5, "frozen", rng)) == [0] * 5
    assert list(play_order(5, "blurred", rng)) == [0, 1, 2, 3, 4]
    for _ in range(20):
        order = play_order(8, "shuffled", rng)
        assert sorted(order) == list(range(8))
        assert np.abs(np.diff(order)).mean() > 1.5


def test_standing_car_is_not_called_forward() -> None:
    clip = drive(0)
    clip.ego_path = np.zeros((40, 3))
    for name, told in (("forward", False), ("shuffled", False), ("frozen", True)):
        index = PLAYBACKS.index(name)
        sample = draw_sample([clip], 8, (index, name), SHAPE, np.random.default_rng(0), ClipSampling())
        assert sample.playback == (index if told else -1)


def test_video_without_labels_still_teaches_motion() -> None:
    config = ClipNetworkTraining(batch_frames=48, clip_lengths=(8,))
    network = ClipNetwork()
    batch = draw_batch(config, network, [drive(0, labelled=False)], ("train", 0))
    losses = batch_losses(network(batch["frames"]), batch)
    assert losses["playback"] > 0
    assert all(losses[name] == 0 for name in losses if name != "playback")


def test_same_seed_gives_the_same_weights_and_the_loss_falls(tmp_path: Path) -> None:
    clips = [drive(seed) for seed in range(3)]
    config = ClipNetworkTraining(num_steps=6, batch_frames=32, num_validation=6, clip_lengths=(8,))
    networks = [ClipNetwork(), ClipNetwork()]
    reports = [train_clip_network(config, network, clips, clips[:1]) for network in networks]
    assert repr(asdict(reports[0])) == repr(asdict(reports[1]))
    for first, second in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(first, second)
    batch = draw_batch(config, networks[0], clips, ("train", 0))
    torch.manual_seed(0)
    before = sum(batch_losses(ClipNetwork()(batch["frames"]), batch).values())
    after = sum(batch_losses(networks[0](batch["frames"]), batch).values())
    assert after < before
    networks[0].save(tmp_path / "weights.safetensors")
    loaded = ClipNetwork.load(tmp_path / "weights.safetensors")
    found, expected = loaded.clip_features(batch["frames"]), networks[0].clip_features(batch["frames"])
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


def test_too_short_drive_says_so() -> None:
    with pytest.raises(ValueError, match="has 40 frames; samples need 64"):
        draw_sample([drive(0)], 64, (0, "forward"), SHAPE, np.random.default_rng(0), ClipSampling())


def test_toytown_drives_carry_all_labels() -> None:
    config = ToytownDrives(num_drives=1, num_held_out=1, town=TownConfig(duration_s=2.0, seed=3))
    train, held_out = render_drives(config)
    assert [clip.name for clip in train + held_out] == ["toytown-0000", "toytown-0001"]
    for clip in train + held_out:
        clip.validate()
        assert clip.size_hw == (96, 192)
        assert len(clip) == 24
        assert clip.boxes is not None and clip.ego_path is not None and clip.is_night is not None
