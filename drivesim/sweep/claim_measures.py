"""What an arm's model does on held-out drives, as numbers: futures, reconstructions, upsampled clips.

Legend: T frames, C channels, H W pixels, h w pixels of the small picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from drivesim.core.files import read_json
from drivesim.core.picture import resize_area
from drivesim.data import ClipSource
from drivesim.data.export import ExportConfig, export_videos
from drivesim.data.frames import file_stem
from drivesim.diffusion.settings import PredictionOverrides
from drivesim.evaluate.reconstruction import clip_errors
from drivesim.evaluate.run import evaluate
from drivesim.evaluate.scores import ScoreRow
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.evaluate.videos import Video, find_videos
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import INDEX, load_parts
from drivesim.families.upsample import UpsamplingModel, upsample_portion
from drivesim.models.autoencoder import decode, encode, to_model_range, to_picture_range
from drivesim.models.video_decoding import decode_clip
from drivesim.rollout.loading import OnceLoaded
from drivesim.rollout.pools import PoolConfig, torch_threads
from drivesim.rollout.run import RolloutConfig, run_rollouts
from drivesim.rollout.start import start_from_clip
from drivesim.sweep.settings import ArmConfig, Measure

if TYPE_CHECKING:
    from drivesim.train.config import TrainConfig

DIFFERENCE = "error of frame differences, grey levels"
ERROR = "error, grey levels"
_CLIP_FRAMES = 8  # of reconstructed and upsampled clips: what the protocol's clips have
_PIECE_HW = (64, 128)  # the shipped network shrinks larger pictures, which would hide what an upsampler adds

Frames = NDArray[np.uint8]  # (T, H, W, 3)


@dataclass(kw_only=True, slots=True)
class HeldOut:
    """Drives that no arm was trained on."""

    source: ClipSource
    training: TrainConfig  # of the arm: sizes and rates
    num_clips: int

    def clips(self, size_hw: tuple[int, int], fps: float, num_frames: int) -> Iterator[Frames]:
        """Clips spread evenly over the held-out drives and their time.

        Raises:
            ValueError: no held-out drive, or none that is so long.
        """
        length_s = (num_frames - 1) / fps
        drives = [drive for drive in self.source.drives("val") if drive.duration_s > length_s + 1 / fps]
        if not drives:
            raise ValueError(f"{self.source.name}: no held-out drive of {length_s:.2f} s; raise data.val_share")
        each = math.ceil(self.num_clips / len(drives))
        for index in range(self.num_clips):
            drive = drives[index % len(drives)]
            start_s = (index // len(drives)) * (drive.duration_s - 1 / fps - length_s) / max(each - 1, 1)
            start_s = math.floor(start_s * drive.fps) / drive.fps  # on a frame of the drive
            clip = self.source.read(drive.name, start_s=start_s, num_frames=num_frames, fps=fps, size_hw=size_hw)
            yield clip.frames_THWC


@dataclass(kw_only=True, slots=True)
class Unit:
    """One arm's model with one seed, and how it is measured."""

    trained: Path  # model folder
    arm: ArmConfig
    held_out: HeldOut
    settings: EvaluateConfig  # of the distances
    pool: PoolConfig  # of rollouts
    seed: int
    folder: Path  # for what the measurement writes


def measure_rollout(unit: Unit) -> dict[str, float]:
    """Distances of one future of each held-out start frame to all clips of the held-out drives."""
    guided = PredictionOverrides(guidance=unit.arm.guidance)
    load = OnceLoaded(partial(DrivingModel.from_pretrained, unit.trained, predict_sampling=guided))
    model = load()
    real = unit.folder.parent / f"real_{model.key_fps:g}fps_{model.size_hw[0]}x{model.size_hw[1]}"
    export = ExportConfig(split="val", fps=model.key_fps, size_hw=model.size_hw)
    for drive, problem in export_videos(unit.held_out.source, export, real):
        if problem is not None:
            raise ValueError(f"no video of held-out drive {drive}: {problem}")
    seconds = model.num_frames / model.fps
    with torch_threads(unit.pool.threads):
        moments = _moments(unit.held_out, seconds)
        starts = [start_from_clip(real / f"{drive}.mp4", model.size_hw, start_s=start_s) for drive, start_s in moments]
    rollout = RolloutConfig(futures=1, seconds=seconds, seed=unit.seed, pool=unit.pool)
    del model  # workers of another pool have their own
    folders = {unit.folder / "rollouts" / start.name: start for start in starts}
    rows = run_rollouts(rollout, folders, load)
    failed = [row for of_start in rows for row in of_start if not row.ok]
    if failed:
        raise ValueError(f"{unit.folder}: {len(failed)} futures failed, the first one: {failed[0].error}")
    # Of these starts alone: the folder may hold those of a measurement with other clips as well.
    made = [
        Video(name=f"{folder.name}/{row.video}", path=folder / str(row.video))
        for folder, of_start in zip(folders, rows, strict=True)
        for row in of_start
    ]
    return _distances(unit.settings, made, find_videos(real), unit.folder / "scores")


def _moments(held_out: HeldOut, seconds: float) -> list[tuple[str, float]]:
    """Drives and times of the start frames, spread as `HeldOut.clips` spreads clips."""
    drives = held_out.source.drives("val")
    if not drives:
        raise ValueError(f"{held_out.source.name}: no held-out drive; raise data.val_share")
    each = math.ceil(held_out.num_clips / len(drives))
    found = []
    for index in range(held_out.num_clips):
        drive = drives[index % len(drives)]
        last_s = max(0.0, drive.duration_s - seconds)
        found.append((file_stem(drive.name), round((index // len(drives)) * last_s / max(each - 1, 1), 2)))
    return found


def measure_reconstruction(unit: Unit) -> dict[str, float]:
    """Distances and errors of held-out clips that were encoded and decoded, against the clips themselves.

    Nothing is random here: seeds differ by their trainings.
    """
    names = ("autoencoder",) if "video_decoder" in unit.arm.parts_off else ("autoencoder", "video_decoder")
    parts = load_parts(unit.trained, names)
    config = unit.held_out.training
    size_hw = (config.size_hw[0], config.size_hw[1])
    pairs = []
    with torch_threads(unit.pool.threads), torch.no_grad():
        for clip in unit.held_out.clips(size_hw, config.video_decoder.fps, _CLIP_FRAMES):
            latents_TCHW = encode(parts["autoencoder"], clip)
            if "video_decoder" in parts:
                made = to_picture_range(decode_clip(parts["video_decoder"], latents_TCHW, 0, len(latents_TCHW)))
            else:
                made = decode(parts["autoencoder"], latents_TCHW)
            pairs.append((clip, made))
    return _paired(unit, pairs, config.video_decoder.fps)


def measure_upsampling(unit: Unit) -> dict[str, float]:
    """Distances and errors of held-out clips that were made small and upsampled, piece by piece at full resolution."""
    config = unit.held_out.training
    model, autoencoder = _upsampling_model(unit.trained, unit.arm, config.fps)
    scale = model.networks.scale
    size_hw = (scale * config.size_hw[0], scale * config.size_hw[1])
    pairs: list[tuple[Frames, Frames]] = []
    with torch_threads(unit.pool.threads), torch.no_grad():
        for index, clip in enumerate(unit.held_out.clips(size_hw, config.fps, _CLIP_FRAMES)):
            low = resize_area(clip, (config.size_hw[0], config.size_hw[1]))
            if config.upsampler_loss.through_autoencoder:
                low = decode(autoencoder, encode(autoencoder, low))
            made = upsample_portion(model, to_model_range(low), first_frame=0, key=(unit.seed, "claim", index))
            pairs += zip(_pieces(clip), _pieces(model.pictures(made, first_frame=0)), strict=True)
    return _paired(unit, pairs, config.fps)


def _upsampling_model(trained: Path, arm: ArmConfig, fps: float) -> tuple[UpsamplingModel, Any]:
    """The upsampler of a model folder, frame by frame where its temporal layers are off or not there."""
    is_video = (trained / "upsampler_temporal").is_dir() and "upsampler_temporal" not in arm.parts_off
    names = ["autoencoder", "upsampler", "upsampler_scheduler", *(["upsampler_temporal"] if is_video else [])]
    parts = load_parts(trained, names)
    index = {"fps": fps} | read_json(trained / INDEX)  # an upsampler trained by itself has no rate of its own
    return UpsamplingModel.from_parts(parts, index), parts["autoencoder"]


def _pieces(frames_THWC: Frames) -> list[Frames]:
    """Four pieces around the middle of the picture, at full resolution; a small picture as a whole."""
    height, width = frames_THWC.shape[1:3]
    if height < 2 * _PIECE_HW[0] or width < 2 * _PIECE_HW[1]:
        return [frames_THWC]
    tops = (height // 2 - _PIECE_HW[0], height // 2)
    lefts = (width // 2 - _PIECE_HW[1], width // 2)
    return [
        np.ascontiguousarray(frames_THWC[:, top : top + _PIECE_HW[0], left : left + _PIECE_HW[1]])
        for top in tops
        for left in lefts
    ]


def _paired(unit: Unit, pairs: list[tuple[Frames, Frames]], fps: float) -> dict[str, float]:
    """Distances of what was made to what was there, and the errors of frames and of their differences."""
    real = [Video(name=f"clip_{index:04d}", frames=clip, fps=fps) for index, (clip, _) in enumerate(pairs)]
    made = [Video(name=f"clip_{index:04d}", frames=clip, fps=fps) for index, (_, clip) in enumerate(pairs)]
    protocol = replace(unit.settings.protocol, fps=fps, context_frames=0)  # whole clips, at the rate they have
    found = _distances(replace(unit.settings, protocol=protocol), made, real, unit.folder / "scores")
    difference, error = np.mean([clip_errors(clip, other) for clip, other in pairs], axis=0)
    return found | {DIFFERENCE: float(difference), ERROR: float(error)}


def _distances(settings: EvaluateConfig, made: list[Video], real: list[Video], folder: Path) -> dict[str, float]:
    scores = evaluate(settings, made, real, folder)
    return {score.metric: score.value for score in scores.scores if score.row is ScoreRow.GENERATED}


MEASURES: dict[Measure, Callable[[Unit], dict[str, float]]] = {  # numbers by name; lower is nearer to real video
    Measure.ROLLOUT: measure_rollout,
    Measure.RECONSTRUCTION: measure_reconstruction,
    Measure.UPSAMPLING: measure_upsampling,
}
