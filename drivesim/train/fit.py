"""A training run: caches, stage, trainer, and the model folder that comes out."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from drivesim.conditioning.driving import ConditionerConfig, make_conditioner
from drivesim.core.run_folder import claim_folder
from drivesim.core.seeds import derive_seed
from drivesim.data.batches import CropConfig, FrameDataset, LatentClipDataset
from drivesim.data.frames import FrameCache, cache_frames
from drivesim.data.latents import cache_latents
from drivesim.data.module import CachedDataModule, DataModuleConfig
from drivesim.data.source import ClipSource
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import SamplingConfig, ScheduleConfig
from drivesim.families.folder import find_model, fingerprint, load_parts, save_parts, write_index
from drivesim.models.autoencoder import downsampling, encode, measure_scale
from drivesim.models.build import (
    AutoencoderConfig,
    BackboneConfig,
    TemporalConfig,
    make_autoencoder,
    make_backbone,
    make_temporal_stack,
)
from drivesim.train.autoencoder import AutoencoderLossConfig, AutoencoderStage
from drivesim.train.checkpoints import AtomicCheckpointIO, SamplePictures
from drivesim.train.latent_ldm import ImageLossConfig, ImageStage, PredictionLossConfig, PredictionStage
from drivesim.train.optim import OptimConfig
from drivesim.train.stage import Stage

_log = logging.getLogger(__name__)
SCALE_FRAMES = 512  # frames from which the latent scale is measured


class StageName(str, Enum):
    """Training stages, in the order they build on each other."""

    AUTOENCODER = "autoencoder"
    IMAGE = "image"
    PREDICTION = "prediction"


# What each stage trains; everything before it comes from `init`.
TRAINED_PARTS = {
    StageName.AUTOENCODER: ("autoencoder",),
    StageName.IMAGE: ("backbone", "conditioner"),
    StageName.PREDICTION: ("temporal",),
}


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """How long and on what."""

    max_steps: int = 1000  # optimizer steps
    accumulate: int = 1  # micro-batches of one optimizer step
    accelerator: str = "auto"  # Lightning's: auto, cpu, gpu
    devices: int = 1  # how many
    precision: str = "32-true"  # Lightning's; bf16-mixed on a GPU
    num_threads: int = 1  # torch threads of a process; two processes of two threads on two cores stall
    checkpoint_every: int = 200  # steps between checkpoints
    validate_every: int = 200  # steps between validations
    picture_every: int = 500  # steps between sample pictures
    log_every: int = 10  # steps between log rows
    progress: bool = True  # progress bar


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """One stage of one model family."""

    stage: StageName = StageName.AUTOENCODER  # what to train
    name: str = "model"  # name of the model, written into its index
    init: str | None = None  # model folder with the earlier parts; None = autoencoder stage from nothing
    warm_start: str | None = None  # model folder whose weights of this stage's parts to begin with; None = fresh
    seed: int = 0  # of data order, noise and fresh weights
    size_hw: list[int] = field(default_factory=lambda: [64, 128])  # height and width of the pictures
    fps: float = 4.0  # key frames a second
    cache_fps: float = 4.0  # rate at which a source is cached; a whole multiple of fps
    cache_dir: str = "runs/cache"  # frames and latents, shared by runs
    weights: str = "float32"  # type of the exported weights: float32, float16, bfloat16
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)  # read by stage autoencoder
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # read by stage image
    conditioner: ConditionerConfig = field(default_factory=ConditionerConfig)  # read by stage image
    temporal: TemporalConfig = field(default_factory=TemporalConfig)  # read by stage prediction
    crop: CropConfig = field(default_factory=CropConfig)  # read by stage autoencoder
    autoencoder_loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)  # stage autoencoder
    image_loss: ImageLossConfig = field(default_factory=ImageLossConfig)  # stage image
    prediction_loss: PredictionLossConfig = field(default_factory=PredictionLossConfig)  # stage prediction
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)  # noise schedule, fixed by stage image
    design_sampling: SamplingConfig = field(default_factory=SamplingConfig)  # default of the exported model
    predict_sampling: SamplingConfig = field(default_factory=SamplingConfig)  # default of the exported model
    optim: OptimConfig = field(default_factory=OptimConfig)  # optimizer
    loader: DataModuleConfig = field(default_factory=DataModuleConfig)  # batches
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # length, device, intervals

    def __post_init__(self) -> None:
        if StageName(self.stage) is not StageName.AUTOENCODER and self.init is None:
            raise ValueError(f"stage={StageName(self.stage).value} needs init=FOLDER, the model of the stage before")
        if self.weights not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"weights={self.weights}; valid: float32, float16, bfloat16")


def fit(config: TrainConfig, source: ClipSource, out: Path, on_claimed: Callable[[], object] = lambda: None) -> Path:
    """Trains a stage, going on from the last checkpoint in `out` if there is one.

    Args:
        config: the stage and its settings.
        source: where clips come from.
        out: run folder: checkpoints, logs, samples, and at the end `model/`.
        on_claimed: called once it is certain that `out` is new or holds this very run.

    Returns:
        The model folder: the parts of `init` and the newly trained ones, with averaged weights.

    Raises:
        ValueError: `out` holds another run, or `init` or `warm_start` is no model with the parts that are needed.
    """
    torch.set_num_threads(config.trainer.num_threads)
    claim_folder(out, _identity(config, source))
    on_claimed()
    torch.manual_seed(derive_seed(config.seed, "weights", StageName(config.stage).value))
    folder = out / "model"
    caches = {split: _frames(config, source, split) for split in ("train", "val")}
    parts = _parts(config)
    data = _data(config, parts, caches)
    stage = _stage(config, parts)
    trainer = _trainer(config, out)
    last = out / "checkpoints" / "last.ckpt"
    if last.is_file():
        _log.warning("going on from %s", last)
    with _stopped_as_others():
        trainer.fit(stage, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=False)
    if trainer.is_global_zero and trainer.global_step >= config.trainer.max_steps:
        with stage.ema.swapped_in():
            _export(config, parts, caches["train"], folder)
    return folder


@contextmanager
def _stopped_as_others() -> Iterator[None]:
    """Ctrl-C in a training is a KeyboardInterrupt like any other: Lightning deafens the process and exits with 1."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from stop


def _identity(config: TrainConfig, source: ClipSource) -> dict[str, Any]:
    """What fixes a run's weights: settings, data, and the weights it begins with; not how often it logs."""
    settings = json.loads(json.dumps(asdict(config)))
    for name in ("cache_dir", "data", "out"):
        settings.pop(name, None)
    length = settings.pop("trainer")
    settings |= {name: length[name] for name in ("max_steps", "accumulate", "devices", "precision")}
    stage = StageName(config.stage)
    earlier = {
        StageName.AUTOENCODER: (),
        StageName.IMAGE: ("autoencoder",),
        StageName.PREDICTION: ("autoencoder", "backbone", "conditioner", "scheduler"),
    }[stage]
    settings["data"] = source.fingerprint
    for name, parts in (("init", earlier), ("warm_start", TRAINED_PARTS[stage])):
        folder = settings[name]
        settings[name] = fingerprint(find_model(folder), parts) if folder is not None and parts else None
    return settings


def _frames(config: TrainConfig, source: ClipSource, split: str) -> FrameCache | None:
    if split == "val" and not source.drives("val"):
        return None
    size_hw = (config.size_hw[0], config.size_hw[1])
    return cache_frames(source, split, size_hw, config.cache_fps, Path(config.cache_dir))


def _parts(config: TrainConfig) -> dict[str, Any]:
    """Frozen parts from `init`, fresh or warm-started ones for the stage."""
    stage = StageName(config.stage)
    if stage is StageName.AUTOENCODER:
        parts: dict[str, Any] = {"autoencoder": make_autoencoder(config.autoencoder)}
    else:
        assert config.init is not None
        earlier = (
            ["autoencoder"] if stage is StageName.IMAGE else ["autoencoder", "scheduler", "backbone", "conditioner"]
        )
        parts = load_parts(find_model(config.init), earlier)
    if stage is StageName.IMAGE:
        autoencoder = parts["autoencoder"]
        f = downsampling(autoencoder)
        latent_hw = (config.size_hw[0] // f, config.size_hw[1] // f)
        conditioner = make_conditioner(config.conditioner, config.backbone.token_dim)
        parts["backbone"] = make_backbone(
            config.backbone, autoencoder.config.latent_channels, latent_hw, conditioner.num_channels
        )
        parts["conditioner"] = conditioner
        parts["scheduler"] = training_schedule(config.schedule)
    if stage is StageName.PREDICTION:
        parts["temporal"] = make_temporal_stack(config.temporal, parts["backbone"])
    if config.warm_start is not None:
        warm = load_parts(find_model(config.warm_start), TRAINED_PARTS[stage])
        for name, part in warm.items():
            parts[name].load_state_dict(part.state_dict())
    return parts


def _data(config: TrainConfig, parts: dict[str, Any], caches: dict[str, FrameCache | None]) -> CachedDataModule:
    stage = StageName(config.stage)

    def dataset(split: str) -> FrameDataset | LatentClipDataset | None:
        frames = caches[split]
        if frames is None:
            return None
        seed = derive_seed(config.seed, "data", split)
        if stage is StageName.AUTOENCODER:
            return FrameDataset(frames, seed=seed, crop=config.crop if split == "train" else None)
        autoencoder = parts["autoencoder"]
        assert config.init is not None
        latents = cache_latents(
            frames,
            lambda pictures: encode(autoencoder, pictures),
            fingerprint(find_model(config.init), ["autoencoder"]),
            Path(config.cache_dir),
        )
        num_frames = 1 if stage is StageName.IMAGE else config.temporal.num_frames
        return LatentClipDataset(latents, seed=seed, num_frames=num_frames, fps=config.fps)

    train = dataset("train")
    assert train is not None
    return CachedDataModule(train, dataset("val"), config.loader)


def _stage(config: TrainConfig, parts: dict[str, Any]) -> Stage:
    stage = StageName(config.stage)
    if stage is StageName.AUTOENCODER:
        return AutoencoderStage(parts["autoencoder"], config.autoencoder_loss, config.optim, config.seed)
    if stage is StageName.IMAGE:
        image = (parts["autoencoder"], parts["backbone"], parts["conditioner"], parts["scheduler"])
        return ImageStage(image, config.image_loss, config.design_sampling, config.optim, config.seed)
    video = (*(parts[n] for n in ("autoencoder", "backbone", "conditioner", "temporal", "scheduler")),)
    return PredictionStage(video, config.prediction_loss, config.predict_sampling, config.optim, config.seed)  # type: ignore[arg-type]


def _trainer(config: TrainConfig, out: Path) -> L.Trainer:
    t = config.trainer
    checkpoint = ModelCheckpoint(
        dirpath=out / "checkpoints",
        filename="step_{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=t.checkpoint_every,
        save_last=True,
        enable_version_counter=False,  # else a moved run folder gets last-v1.ckpt and resumes from the old last.ckpt
        save_top_k=1,
        monitor="step",
        mode="max",
    )
    return L.Trainer(
        max_steps=t.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=t.accumulate,
        accelerator=t.accelerator,
        devices=t.devices,
        precision=t.precision,  # type: ignore[arg-type]
        gradient_clip_val=config.optim.clip_norm,
        # Each start of a run gets its own version folder: CSVLogger would delete the rows of the start before.
        logger=[CSVLogger(out, name="logs"), TensorBoardLogger(out, name="tensorboard", version="")],
        callbacks=[checkpoint, SamplePictures(out / "samples", t.picture_every)],
        plugins=[AtomicCheckpointIO()],
        val_check_interval=t.validate_every * t.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=t.log_every,
        num_sanity_val_steps=0,
        enable_progress_bar=t.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _export(config: TrainConfig, parts: dict[str, Any], frames: FrameCache | None, folder: Path) -> None:
    stage = StageName(config.stage)
    if stage is StageName.AUTOENCODER:
        assert frames is not None
        shift, scale = measure_scale(parts["autoencoder"], _spread_frames(frames, SCALE_FRAMES))
        _log.warning("latent shift %.4f, scale %.4f", shift, scale)
    folder.mkdir(parents=True, exist_ok=True)
    save_parts(folder, parts, getattr(torch, config.weights))
    if stage is StageName.PREDICTION:
        write_index(
            folder,
            {
                "name": config.name,
                "fps": config.fps,
                "size_hw": list(config.size_hw),
                "design_sampling": _plain(config.design_sampling),
                "predict_sampling": _plain(config.predict_sampling),
            },
        )


def _spread_frames(cache: FrameCache, most: int) -> Any:
    """Frames from all drives, evenly."""
    each = max(1, most // len(cache.conditions))
    pictures = []
    for drive, conditions in cache.conditions.items():
        valid = np.flatnonzero(conditions.valid_T)
        pictures.append(
            cache.read(drive, valid[np.linspace(0, len(valid) - 1, min(each, len(valid))).astype(np.int64)])
        )
    return np.concatenate(pictures)


def _plain(sampling: SamplingConfig) -> dict[str, Any]:
    return {
        "sampler": type(sampling.sampler)(sampling.sampler).value,
        "steps": sampling.steps,
        "eta": sampling.eta,
        "guidance": sampling.guidance,
    }
