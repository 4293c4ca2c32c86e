"""The trained video decoder beside the image decoder, on scenes that neither was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.core.camera import Camera
from drivesim.core.picture import resize_area
from drivesim.evaluate.extractors import ExtractorConfig, make_extractor
from drivesim.evaluate.reconstruction import ReconstructionMeter
from drivesim.families.folder import find_model, load_parts
from drivesim.models.autoencoder import decode, encode, to_picture_range
from drivesim.models.video_decoding import decode_chunks
from drivesim.toytown import TownConfig, render, simulate

FIRST_HELD_OUT = 9000  # training scenes begin at 0
NUM_SCENES = 10
CLIP_FRAMES = 16
TOWN = TownConfig(fps=30.0, key_fps=3.75, duration_s=4.0, first_scene=FIRST_HELD_OUT)


@pytest.fixture(scope="module")
def model(repo_root: Path) -> Path:
    """The shipped family, or the last training run's model."""
    for folder in (find_model("toytown"), repo_root / "runs" / "toytown" / "video_decoder" / "model"):
        if (folder / "video_decoder").is_dir():
            return folder
    pytest.skip("no toytown model has a video decoder; drivesim train experiment=toytown/video_decoder makes one")


def test_its_reconstructions_flicker_less_than_the_image_decoders(model: Path) -> None:
    parts = load_parts(model, ["autoencoder", "video_decoder"])
    extractor = make_extractor(ExtractorConfig(name="toytown-clip"))
    meters = {name: ReconstructionMeter(extractor) for name in ("image", "video")}
    camera = Camera.front(TOWN.size_hw)
    for scene in range(FIRST_HELD_OUT, FIRST_HELD_OUT + NUM_SCENES):
        episode = simulate(TOWN, scene)
        frames = np.stack([render(episode, frame, camera) for frame in range(30, 30 + 2 * CLIP_FRAMES)])
        real = resize_area(frames, (64, 128))
        latents = encode(parts["autoencoder"], real)
        decoded = {
            "image": decode(parts["autoencoder"], latents),
            "video": np.concatenate([to_picture_range(c) for c in decode_chunks(parts["video_decoder"], latents)]),
        }
        for name, meter in meters.items():
            for first in range(0, len(real), CLIP_FRAMES):
                clip = slice(first, first + CLIP_FRAMES)
                meter.update(real[clip], decoded[name][clip])
    image, video = (meters[name].compute() for name in ("image", "video"))
    print(f"\nimage decoder: {image}\nvideo decoder: {video}")
    print(f"ratio of {extractor.metric_name}s: {video.clip_distance / image.clip_distance:.3f}")
    print(f"ratio of change errors: {video.change_error / image.change_error:.3f}")
    assert video.clip_distance < image.clip_distance
    assert video.change_error < image.change_error
