"""What fewer steps, deep features kept from step to step, and students cost: toytown's text family on unseen drives.

Key frames are the shipped family's. The stages after them have to be trained first (`drivesim train
experiment=toytown_text/interpolation` and so on); until then their tables are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from drivesim.core.camera import Camera
from drivesim.core.picture import resize_area
from drivesim.core.seeds import torch_generator
from drivesim.data.label_captions import Way, ways
from drivesim.diffusion.settings import Sampler, TextOverrides
from drivesim.evaluate.extractors import ExtractorConfig, make_extractor
from drivesim.evaluate.frechet import FrechetStatistics, frechet_distance
from drivesim.families.prompts import Prompts
from drivesim.families.text import TextModel
from drivesim.families.text_upscale import LatentUpscaling
from drivesim.models.autoencoder import decode, encode, to_picture_range
from drivesim.toytown import Episode, TownConfig, render, simulate
from tests.benchmarks.measuring import cpu_seconds, note

FIRST_UNSEEN = 9000
NUM_CLIPS, CLIP_FRAMES = 16, 8  # of key frames
NUM_GAPS = 12  # between key frames
NUM_PORTIONS = 4  # of the upscaler
SEEN = {Way.LEFT: "left turn", Way.RIGHT: "right turn", Way.STRAIGHT: "straight on", Way.STANDING: "standing still"}
Frames = NDArray[np.uint8]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Sampled:
    """A way to sample."""

    steps: int
    deep_every: int = 1
    sampler: Sampler = Sampler.UNIPC
    is_student: bool = False
    seed: int = 0

    def __str__(self) -> str:
        kept = "" if self.deep_every == 1 else f", deep levels every {self.deep_every}"
        other = "" if self.seed == 0 else ", other noise"
        return f"{'student, ' if self.is_student else ''}{self.steps} steps{kept}{other}"

    def of(self, folder: str | Path, stage: str) -> TextModel:
        """A model that samples a stage this way."""
        how = TextOverrides(sampler=self.sampler, steps=self.steps, deep_every=self.deep_every)
        return TextModel.from_pretrained(folder, samplings={stage: how})


def student(steps: int) -> Sampled:
    return Sampled(steps, sampler=Sampler.LCM, is_student=True)


def drives(fps: float) -> list[Episode]:
    town = TownConfig(fps=fps, key_fps=4.0, duration_s=10.0, first_scene=FIRST_UNSEEN, night_share=0.3)
    return [simulate(town, FIRST_UNSEEN + number) for number in range(NUM_CLIPS)]


def seen(episode: Episode, frames: range, size_hw: tuple[int, int]) -> Frames:
    camera = Camera.front(size_hw if size_hw[0] > 128 else (128, 256))
    return resize_area(np.stack([render(episode, frame, camera) for frame in frames]), size_hw)


def trained(repo_root: Path, *names: str) -> list[Path]:
    folders = [repo_root / "runs" / "toytown_text" / name / "model" for name in names]
    for name, folder in zip(names, folders, strict=True):
        if not folder.is_dir():
            pytest.skip(f"not trained here: drivesim train experiment=toytown_text/{name}")
    return folders


Row = dict[str, float]  # what a way takes and costs, by measure


def table(stage: str, rows: Mapping[str, Row]) -> None:
    """Prints and keeps what each way takes and costs."""
    print(f"\n{stage}: {', '.join(next(iter(rows.values())))}")
    for name, row in rows.items():
        print(f"  {name:34} {' '.join(f'{value:9.3f}' for value in row.values())}")
        note(f"few steps, {stage}", way=name, **row)


def timed(work: Callable[[], Made], num_frames: int) -> tuple[Made, float]:
    """What is made, and CPU seconds a frame."""
    made: list[Made] = []
    seconds = cpu_seconds(lambda: made.append(work()))
    return made[0], seconds / num_frames


def off(made: Frames, real: Frames) -> float:
    """Grey levels between two sets of pictures, on average."""
    return float(np.abs(made.astype(float) - real).mean())


def compared(made: Frames, real: Frames, seconds: float = 0.0) -> Row:
    """Time, error, and sharpness: changes from pixel to pixel over those of the real frames. Blur has little error."""
    edges = [np.abs(np.diff(frames.astype(float), axis=-2)).mean() for frames in (made, real)]
    return {"ms a frame": 1e3 * seconds, "grey levels off": off(made, real), "sharpness": float(edges[0] / edges[1])}


def test_key_frames_in_the_default_steps_are_as_near_to_real_ones_as_in_more() -> None:
    episodes, extractor = drives(4.0), make_extractor(ExtractorConfig(name="toytown-clip"))
    real = FrechetStatistics.empty(extractor.feature_dim)
    prompts = []
    for episode in episodes:
        for first in (2, 20):
            real.update(extractor(seen(episode, range(first, first + CLIP_FRAMES), (64, 128))[None]).numpy())
        light, way = "at night" if episode.is_night else "by day", SEEN[ways(episode.ego_path, 4.0)[2]]
        prompts.append(Prompts(prompts=[f"a drive {light}, {way}"]))

    def clips(model: TextModel, seed: int) -> Frames:
        none = torch.zeros(1, 0, *model.latent_shape)
        made = []
        for number, prompt in enumerate(prompts):
            generators = [torch_generator("few steps", seed, number)]
            made.append(
                decode(model.parts.image.vae, model.predict(none, generators=generators, conditions=[prompt])[0])
            )
        return np.stack(made)

    rows = {}
    for way in (
        Sampled(50), Sampled(25), Sampled(25, seed=1), Sampled(18), Sampled(12),
        Sampled(25, 2), Sampled(25, 3), Sampled(18, 2),
    ):  # fmt: skip
        model = way.of("toytown_text", "key_frames")
        made, seconds = timed(lambda model=model, way=way: clips(model, way.seed), NUM_CLIPS * CLIP_FRAMES)
        found = FrechetStatistics.empty(extractor.feature_dim)
        for clip in made:
            found.update(extractor(clip[None]).numpy())
        rows[str(way)] = {"ms a frame": 1e3 * seconds, "clip distance": frechet_distance(found, real)}
    table("key frames", rows)
    by_default, more, deep = rows["18 steps"], rows["25 steps"], rows["25 steps, deep levels every 2"]
    noise = abs(rows["25 steps, other noise"]["clip distance"] - more["clip distance"])
    assert by_default["ms a frame"] < 0.85 * more["ms a frame"]
    assert by_default["clip distance"] < more["clip distance"] + max(2 * noise, 0.1)
    assert deep["ms a frame"] < 0.95 * more["ms a frame"]


def test_filling_in_frames_costs_little_more_in_few_steps_and_is_better_than_to_hold_one(repo_root: Path) -> None:
    teacher, taught = trained(repo_root, "interpolation", "distil_interpolation")
    fps, gap = 16.0, 4  # frames from one key frame to the next
    real = np.stack([seen(episode, range(30, 31 + gap), (64, 128)) for episode in drives(fps)[:NUM_GAPS]])

    def between(model: TextModel) -> Frames:
        made = []
        for number, clip in enumerate(real):
            ends = encode(model.parts.image.vae, clip[[0, -1]])[None]
            generators = [torch_generator("few steps", number)]
            filled = model.interpolate(
                ends, 0, generators=generators, conditions=[Prompts(prompts=["a street"])], starts_s=[0.0]
            )
            made.append(decode(model.parts.image.vae, filled[0, 1:-1]))
        return np.stack(made)

    vae = TextModel.from_pretrained("toytown_text").parts.image.vae
    coded = np.stack([decode(vae, encode(vae, clip)) for clip in real])
    mixed = coded[:, :1] + np.arange(1, gap)[:, None, None, None] / gap * (coded[:, -1:].astype(float) - coded[:, :1])
    between_real = real[:, 1:-1]
    rows = {
        "coded and decoded": compared(coded[:, 1:-1], between_real),
        "first frame held": compared(np.repeat(coded[:, :1], gap - 1, axis=1), between_real),
        "faded from one to the other": compared(mixed, between_real),
    }
    for way in (
        Sampled(25), Sampled(12), Sampled(8), Sampled(4), Sampled(2), Sampled(1), Sampled(12, 2), Sampled(12, 3),
        student(2), student(1),
    ):  # fmt: skip
        model = way.of(taught if way.is_student else teacher, "interpolate")
        made, seconds = timed(lambda model=model: between(model), NUM_GAPS * (gap - 1))
        rows[str(way)] = compared(made, between_real, seconds)
    table("interpolation", rows)
    few, many, faded = rows["student, 2 steps"], rows["12 steps"], rows["faded from one to the other"]
    for made_so in (few, many):
        assert made_so["grey levels off"] < faded["grey levels off"]
        assert made_so["grey levels off"] < 0.9 * rows["first frame held"]["grey levels off"]
        assert made_so["sharpness"] > faded["sharpness"]
    assert few["ms a frame"] < 0.5 * many["ms a frame"]


def test_upscaling_costs_little_more_in_few_steps_and_is_sharper_than_to_enlarge(repo_root: Path) -> None:
    teacher, taught = trained(repo_root, "upscaler", "distil_upscaler")
    episodes = drives(16.0)[:NUM_PORTIONS]
    real = np.stack([seen(episode, range(30, 38), (256, 512)) for episode in episodes])
    small = np.stack([resize_area(clip, (64, 128)) for clip in real])
    low = torch.from_numpy(small).permute(0, 1, 4, 2, 3).float() / 127.5 - 1

    upscaler = TextModel.from_pretrained(teacher).parts.upscaler
    assert upscaler is not None
    codes = [encode(upscaler.vae, clip) for clip in real]
    num_frames = real.shape[0] * real.shape[1]
    coded, decoding_s = timed(lambda: np.stack([decode(upscaler.vae, code) for code in codes]), num_frames)

    def large(upscaling: LatentUpscaling) -> list[torch.Tensor]:
        """Latents: decoding, which takes as long for any number of steps, has a row of its own."""
        prompt = Prompts(prompts=["a street"])
        return [
            upscaling.make(portion, first_frame=0, key=("few steps", number), conditions=prompt)
            for number, portion in enumerate(low)
        ]

    enlarged = np.stack(
        [to_picture_range(interpolate(clip, scale_factor=4, mode="bicubic").clamp(-1, 1)) for clip in low]
    )
    rows = {"enlarged, bicubic": compared(enlarged, real), "decoding real frames": compared(coded, real, decoding_s)}
    for way in (
        Sampled(15), Sampled(10), Sampled(6), Sampled(3), Sampled(2), Sampled(1), Sampled(6, 2), Sampled(15, 2),
        student(2), student(1),
    ):  # fmt: skip
        model = way.of(taught if way.is_student else teacher, "upscale")
        upscaling = model.finishing.upsampling
        assert isinstance(upscaling, LatentUpscaling)
        latents, seconds = timed(lambda upscaling=upscaling: large(upscaling), num_frames)
        made = np.stack([upscaling.pictures(portion, first_frame=0) for portion in latents])
        rows[str(way)] = compared(made, real, seconds)
    table("upscaler, latents", rows)
    few, many, enlarged_so = rows["student, 2 steps"], rows["6 steps"], rows["enlarged, bicubic"]
    for made_so in (few, many):
        assert made_so["sharpness"] > enlarged_so["sharpness"]
    assert few["grey levels off"] < 1.25 * many["grey levels off"]
    assert few["ms a frame"] < 0.6 * many["ms a frame"]
