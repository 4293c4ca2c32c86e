"""A training run: caches, stage, trainer, and the model folder that comes out."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from drivesim.core.devices import accelerator_device
from drivesim.core.files import read_json
from drivesim.core.run_folder import IDENTITY_FILE, MODEL_FOLDER, claim_folder, follow_claim
from drivesim.core.seeds import derive_seed
from drivesim.data.batches import FrameDataset, Item, LatentClipDataset
from drivesim.data.frames import FrameCache, cache_frames
from drivesim.data.latents import cache_latents
from drivesim.data.module import CachedDataModule
from drivesim.data.source import ClipSource
from drivesim.models.autoencoder import encode, measure_scale
from drivesim.models.temporal_stack import TemporalStack
from drivesim.train.checkpoints import AtomicCheckpointIO, SamplePictures, WholeStepCheckpoint
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.exported import RECORD, forget_export, is_exported, note_export
from drivesim.train.folders import Parts
from drivesim.train.initial_parts import initial_parts, judge_parts
from drivesim.train.recipes import RECIPES, made_parts, trained_parts
from drivesim.train.run_length import RateOfLength, change_length, last_checkpoint
from drivesim.train.stage import VALIDATION_SEED

_log = logging.getLogger(__name__)
# How torch is told not to send buffers in each step; it has been renamed.
_SYNC_BUFFERS: dict[str, Any] = {
    next(
        name
        for name in ("forward_sync_buffers", "broadcast_buffers")
        if name in signature(DistributedDataParallel.__init__).parameters
    ): False
}
SCALE_FRAMES = 512  # frames from which the latent scale is measured
# Settings that came later, and what they are where nothing is said: runs of before there were any go on.
_LATER: tuple[tuple[str, str, Any], ...] = (
    ("loader", "caption_weights", []),
    ("dreambooth", "lora_reach", "attention"),
    ("dreambooth", "more_class_prompts", []),
    ("video_decoder_loss", "image_share", 0.0),
    ("temporal", "view_fov_deg", 0.0),
    ("temporal", "ego_motion", False),
    ("prediction_loss", "drop_motion", 0.4),
    ("predict_sampling", "told_guidance", None),
    ("interpolation", "hold_context", False),
    ("interpolation", "context_shortcut", False),
    ("interpolation", "still_below", 0.0),
)


def fit(config: TrainConfig, source: ClipSource, out: Path, on_claimed: Callable[[], object] = lambda: None) -> Path:
    """Trains a stage, going on from the last checkpoint in `out` if there is one; a finished run is left as it is.

    A run may be given another number of steps, finished or not.

    Args:
        config: the stage and its settings.
        source: where clips come from.
        out: run folder: checkpoints, logs, samples, and at the end `model/`.
        on_claimed: called once it is certain that `out` is new or holds this very run; of several processes, in the
            first alone.

    Returns:
        The model folder: the parts of `init` and the newly trained ones: averaged weights, as the stage finishes them.

    Raises:
        ValueError: `out` holds another run, or `init` or `warm_start` is no model with the parts that are needed, in
            sizes that fit; where the latter shows without weights, `out` is left as it was.
    """
    torch.set_num_threads(config.trainer.num_threads)
    config.trainer.check_machine(str(out))
    judge_parts(config)
    trainer = _trainer(config, out)  # knows which process this is, however it was started
    identity = _identity(config, source)
    if trainer.is_global_zero:  # it speaks for all
        _forget_fruitless_start(out)
        if change_length(out, identity):
            forget_export(out)
        claim_folder(out, identity)
        on_claimed()
    else:
        follow_claim(out, identity)
    if is_exported(config, out):
        _log.warning("%s is finished, nothing is left to do; remove its %s to export its model again", out, RECORD)
        return out / MODEL_FOLDER
    torch.manual_seed(derive_seed(config.seed, "weights", StageName(config.stage).value))
    folder = out / MODEL_FOLDER
    parts = initial_parts(config)
    builds = trainer.is_global_zero
    caches = {split: _frames(config, source, split, builds=builds) for split in ("train", "val")}
    data = _data(config, parts, caches, builds=builds)
    stage = RECIPES[StageName(config.stage)].stage(config, parts)
    last = last_checkpoint(out)
    if last.is_file():
        _log.warning("going on from %s", last)
    with _stopped_as_others():
        trainer.fit(stage, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=False)
    if trainer.is_global_zero and trainer.global_step >= config.trainer.max_steps:
        stage.trained.to(stage.ema.dtype)  # 16-bit weights would round their averages
        with stage.ema.swapped_in():
            stage.finish()
            forget_export(out)
            _export(config, parts, caches["train"], folder)
            note_export(config, out)
    return folder


def _forget_fruitless_start(out: Path) -> None:
    """Frees a folder that a training claimed and left before it had made anything, so that it can be corrected."""
    path = out / IDENTITY_FILE
    is_training = path.is_file() and {"stage", "max_steps"} <= read_json(path).keys()
    if is_training and not any((out / name).exists() for name in ("checkpoints", MODEL_FOLDER)):
        path.unlink()


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
    for name in ("cache_dir", "data", "joins", "out"):
        settings.pop(name, None)
    for part, name, default in _LATER:
        if settings[part][name] == default:
            del settings[part][name]
    length = settings.pop("trainer")
    settings |= {name: length[name] for name in ("max_steps", "accumulate", "devices", "precision")}
    recipe = RECIPES[StageName(config.stage)]
    settings["data"] = source.fingerprint
    for name, parts in (("init", recipe.needs), ("warm_start", trained_parts(config))):
        folder = settings[name]
        settings[name] = recipe.folders.fingerprint(folder, parts) if folder is not None and parts else None
    return settings


def _frames(config: TrainConfig, source: ClipSource, split: str, *, builds: bool) -> FrameCache | None:
    if split == "val" and not source.drives("val"):
        return None
    scale = RECIPES[StageName(config.stage)].scale(config)
    size_hw = (scale * config.size_hw[0], scale * config.size_hw[1])
    return cache_frames(source, split, size_hw, config.cache_fps, Path(config.cache_dir), builds=builds)


def _data(config: TrainConfig, parts: Parts, caches: dict[str, FrameCache | None], *, builds: bool) -> CachedDataModule:
    recipe = RECIPES[StageName(config.stage)]

    def dataset(split: str) -> Dataset[Item] | None:
        frames = caches[split]
        if frames is None:
            return None
        seed = derive_seed(config.seed if split == "train" else VALIDATION_SEED, "data", split)
        num_frames, rates = recipe.num_frames(config), recipe.rates(config)
        weights = config.loader.caption_weights if split == "train" else []
        if recipe.learns_from_pictures:
            (fps,) = rates
            crop, align_px = config.crop if split == "train" else None, recipe.align_px(config, parts)
            return FrameDataset(
                frames, seed=seed, num_frames=num_frames, fps=fps, crop=crop, align_px=align_px,
                caption_weights=weights,
            )  # fmt: skip
        assert config.init is not None
        fingerprint = recipe.folders.fingerprint(config.init, ["autoencoder"])
        autoencoder = parts["autoencoder"]
        device = accelerator_device(config.trainer.accelerator)
        latents = cache_latents(  # a whole cache moves nothing
            frames, lambda pictures: encode(autoencoder.to(device), pictures), fingerprint, Path(config.cache_dir),
            builds=builds,
        )  # fmt: skip
        autoencoder.to("cpu")  # the trainer takes it from there
        return LatentClipDataset(latents, seed=seed, num_frames=num_frames, rates=rates, caption_weights=weights)

    train = dataset("train")
    assert train is not None
    return CachedDataModule(train, dataset("val"), config.loader)


def _trainer(config: TrainConfig, out: Path) -> L.Trainer:
    t = config.trainer
    checkpoint = WholeStepCheckpoint(
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
        devices=t.devices_per_node,
        num_nodes=t.num_nodes,
        # Processes of equal weights have equal averages, and no other buffer moves: none has to be sent each step.
        strategy=DDPStrategy(**_SYNC_BUFFERS) if t.devices > 1 else "auto",
        precision=t.precision,  # type: ignore[arg-type]
        gradient_clip_val=config.optim.clip_norm,
        # Each start of a run gets its own version folder: CSVLogger would delete the rows of the start before.
        logger=[CSVLogger(out, name="logs"), TensorBoardLogger(out, name="tensorboard", version="")],
        callbacks=[checkpoint, SamplePictures(out / "samples", t.picture_every), RateOfLength()],
        plugins=[AtomicCheckpointIO()],
        val_check_interval=t.validate_every * t.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=t.log_every,
        num_sanity_val_steps=0,
        enable_progress_bar=t.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _export(config: TrainConfig, parts: Parts, frames: FrameCache | None, folder: Path) -> None:
    stage = StageName(config.stage)
    if stage is StageName.AUTOENCODER:
        assert frames is not None
        autoencoder = parts["autoencoder"].to(accelerator_device(config.trainer.accelerator))
        shift, scale = measure_scale(autoencoder, _spread_frames(frames, SCALE_FRAMES))
        autoencoder.to("cpu")
        _log.warning("latent shift %.4f, scale %.4f", shift, scale)
    recipe = RECIPES[stage]
    if folder.exists():  # of a start that was stopped while it wrote
        shutil.rmtree(folder)
    made = made_parts(config, parts)
    if config.position_tables:
        made |= {name: part.with_position_table() for name, part in made.items() if isinstance(part, TemporalStack)}
    recipe.folders.export(config, made, trained_parts(config), recipe.facts(config, parts), folder)


def _spread_frames(cache: FrameCache, most: int) -> Any:
    """So many frames or fewer, evenly from all drives, or, where there are more drives, one each from some of them."""
    drives = list(cache.conditions.items())
    chosen = _evenly(len(drives), most)
    each = most // len(chosen)
    pictures = []
    for drive, conditions in (drives[number] for number in chosen):
        valid = np.flatnonzero(conditions.valid_T)
        pictures.append(cache.read(drive, valid[_evenly(len(valid), each)]))
    return np.concatenate(pictures)


def _evenly(num: int, most: int) -> NDArray[np.int64]:
    """At most so many of the numbers below `num`, evenly spaced."""
    return np.linspace(0, num - 1, min(most, num)).astype(np.int64)
