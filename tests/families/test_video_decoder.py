"""The trained video decoder beside the image decoder, on scenes that neither was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from drivesim.config import compose
from drivesim.core.camera import Camera
from drivesim.core.picture import resize_area
from drivesim.data import make_source
from drivesim.evaluate.extractors import ExtractorConfig, make_extractor
from drivesim.evaluate.reconstruction import Reconstruction, ReconstructionMeter
from drivesim.families.folder import find_model, load_parts
from drivesim.models.autoencoder import decode, encode, to_picture_range
from drivesim.models.video_decoding import decode_chunks
from drivesim.toytown import TownConfig, render, simulate

SIZE_HW = (64, 128)
CLIP_FRAMES = 16
CLIPS_A_VIDEO = 2
FIRST_HELD_OUT = 9000  # training scenes begin at 0
TOWN = TownConfig(fps=30.0, key_fps=3.75, duration_s=4.0, first_scene=FIRST_HELD_OUT)
Frames = NDArray[np.uint8]


def compared(model: Path, videos: Iterable[Frames]) -> tuple[Reconstruction, Reconstruction]:
    """Errors of the image decoder's and of the video decoder's reconstructions; prints them and their ratios."""
    parts = load_parts(model, ["autoencoder", "video_decoder"])
    extractor = make_extractor(ExtractorConfig(name="toytown-clip"))
    meters = {name: ReconstructionMeter(extractor) for name in ("image", "video")}
    for real in videos:
        latents = encode(parts["autoencoder"], real)
        chunks = decode_chunks(parts["video_decoder"], latents, 0, len(latents))
        decoded = {
            "image": decode(parts["autoencoder"], latents),
            "video": np.concatenate([to_picture_range(chunk) for chunk in chunks]),
        }
        for name, meter in meters.items():
            for first in range(0, len(real), CLIP_FRAMES):
                clip = slice(first, first + CLIP_FRAMES)
                meter.update(real[clip], decoded[name][clip])
    image, video = (meters[name].compute() for name in ("image", "video"))
    print(f"\nimage decoder: {image}\nvideo decoder: {video}")
    print(f"ratio of the two in {extractor.metric_name}: {video.clip_distance / image.clip_distance:.3f}")
    print(f"ratio of the two in change errors: {video.change_error / image.change_error:.3f}")
    return image, video


@pytest.fixture(scope="module")
def of_towns(repo_root: Path) -> tuple[Reconstruction, Reconstruction]:
    folders = (find_model("toytown"), repo_root / "runs" / "toytown" / "video_decoder" / "model")
    models = [folder for folder in folders if (folder / "video_decoder").is_dir()]
    if not models:
        pytest.skip("no toytown model has a video decoder; drivesim train experiment=toytown/video_decoder makes one")
    camera = Camera.front(TOWN.size_hw)
    episodes = (simulate(TOWN, FIRST_HELD_OUT + index) for index in range(10))
    frames = range(30, 30 + CLIPS_A_VIDEO * CLIP_FRAMES)
    return compared(
        models[0], (resize_area(np.stack([render(e, frame, camera) for frame in frames]), SIZE_HW) for e in episodes)
    )


def test_reconstructions_of_held_out_towns_flicker_less_than_the_image_decoders(
    of_towns: tuple[Reconstruction, Reconstruction],
) -> None:
    image, video = of_towns
    assert video.change_error < image.change_error
    assert video.error < image.error


def test_clips_of_reconstructed_towns_are_nearer_to_real_ones_than_the_image_decoders(
    of_towns: tuple[Reconstruction, Reconstruction],
) -> None:
    image, video = of_towns
    assert video.clip_distance < image.clip_distance


def test_reconstructions_of_held_out_real_drives_flicker_less_and_are_nearer_than_the_image_decoders(
    repo_root: Path, shared_data: Path
) -> None:
    model = repo_root / "runs" / "hills" / "video_decoder" / "model"
    if not model.is_dir():
        pytest.skip("no video decoder of the hills; drivesim train experiment=hills/video_decoder makes one")
    root = shared_data / "driving-hills"
    settings = compose("train", ["experiment=hills/video_decoder", f"data.root={root}"])
    source, fps = make_source(settings.data), settings.video_decoder.fps
    num_frames = CLIPS_A_VIDEO * CLIP_FRAMES
    clips = (
        source.read(drive.name, start_s=start_s, num_frames=num_frames, fps=fps, size_hw=SIZE_HW)
        for drive in source.drives("val")
        for start_s in (0.0, 4.0)
    )
    image, video = compared(model, (clip.frames_THWC for clip in clips))
    assert video.change_error < image.change_error
    assert video.clip_distance < 0.5 * image.clip_distance
    assert video.error < 1.1 * image.error  # sharper, not of the same details
