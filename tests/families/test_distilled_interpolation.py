"""What few steps cost: toytown's text interpolation and its distilled student, on clips that neither has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from drivesim.conditioning.text import TextConditioner
from drivesim.core.camera import Camera
from drivesim.core.picture import resize_area
from drivesim.core.seeds import torch_generator
from drivesim.diffusion.settings import Sampler, TextSamplingConfig
from drivesim.families.folder import load_parts
from drivesim.families.text_generate import interpolate_windows
from drivesim.families.text_tokens import Told
from drivesim.models.autoencoder import decode, encode
from drivesim.models.text_to_image import TextToImage, load_text_to_image
from drivesim.models.video_unet import VideoUNet
from drivesim.toytown import TownConfig, render, simulate

RUNS = ("interpolation", "distil_interpolation")
TOWN = TownConfig(fps=16.0, key_fps=4.0, duration_s=2.0, night_share=0.2)
NUM_CLIPS, NUM_FRAMES = 12, 5


@pytest.fixture(scope="module")
def folders(repo_root: Path) -> dict[str, Path]:
    found = {name: repo_root / "runs" / "toytown_text" / name / "model" for name in RUNS}
    missing = [name for name, folder in found.items() if not folder.is_dir()]
    if missing:
        pytest.skip(f"not trained here: drivesim train experiment=toytown_text/{missing[0]}")
    return found


@pytest.fixture(scope="module")
def image(folders: dict[str, Path]) -> TextToImage:
    return load_text_to_image(folders["interpolation"] / "image")


@pytest.fixture(scope="module")
def clips(image: TextToImage) -> Tensor:
    """Latents (B, T, C, h, w) of moving clips."""
    camera = Camera.front(TOWN.size_hw)
    made = []
    for scene in range(NUM_CLIPS):
        episode = simulate(TOWN, 9000 + scene)
        frames = np.stack([render(episode, 12 + frame, camera) for frame in range(NUM_FRAMES)])
        made.append(encode(image.vae, resize_area(frames, (64, 128))))
    return torch.stack(made)


def filled_in(folder: Path, image: TextToImage, clips: Tensor, sampler: Sampler, steps: int) -> Tensor:
    parts = load_parts(folder, ["interpolation_unet", "interpolation", "rate_label"])
    network = VideoUNet(parts["interpolation_unet"], parts["interpolation"]).eval()
    tokens = TextConditioner(image.tokenizer, image.text_encoder).eval()(["a street"] * len(clips)).detach()
    told = Told(spatial_BTLD=tokens[:, None].expand(-1, NUM_FRAMES, -1, -1), temporal_BLD=tokens)
    rate = parts["rate_label"](torch.zeros(len(clips), dtype=torch.int64)).detach()
    generators = [torch_generator("distilled", number) for number in range(len(clips))]
    sampling = TextSamplingConfig(sampler=sampler, steps=steps, guidance=1.0)
    return interpolate_windows(network, image.scheduler, told, rate, clips[:, [0, -1]], sampling, generators)


@pytest.fixture(scope="module")
def errors(folders: dict[str, Path], image: TextToImage, clips: Tensor) -> dict[str, float]:
    """Grey levels off the real frames between, by who fills them in; prints them."""
    ways = {
        "teacher, 12 steps": (folders["interpolation"], Sampler.UNIPC, 12),
        "teacher, 2 steps": (folders["interpolation"], Sampler.UNIPC, 2),
        "student, 2 steps": (folders["distil_interpolation"], Sampler.LCM, 2),
        "student, 1 step": (folders["distil_interpolation"], Sampler.LCM, 1),
    }
    made = {name: filled_in(folder, image, clips, sampler, steps) for name, (folder, sampler, steps) in ways.items()}
    made["first frame held"] = clips[:, :1].expand(-1, NUM_FRAMES, -1, -1, -1)
    real = [decode(image.vae, clip[1:-1]).astype(float) for clip in clips]

    def off(made: Tensor) -> float:
        return float(np.mean([np.abs(decode(image.vae, a[1:-1]) - b).mean() for a, b in zip(made, real, strict=True)]))

    found = {name: off(of) for name, of in made.items()}
    print("\ngrey levels off the real frames between: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))
    return found


def test_a_students_two_steps_are_about_as_near_to_the_real_frames_as_its_teachers_many(errors) -> None:
    assert errors["student, 2 steps"] < 1.25 * errors["teacher, 12 steps"]


@pytest.mark.xfail(strict=True, reason="the teacher of 300 steps is 18.7 grey levels off, the first frame held 10.9")
def test_few_steps_are_nearer_to_the_real_frames_than_the_first_frame_held(errors) -> None:
    assert errors["student, 2 steps"] < errors["first frame held"]
