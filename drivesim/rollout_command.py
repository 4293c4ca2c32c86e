"""What `drivesim design` and `drivesim rollout` do: models of both families are loaded and put to use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drivesim.config import DesignCommand, RolloutCommand, scene_paths
from drivesim.core.devices import check_device, number_type
from drivesim.core.run_folder import CONFIG_FILE
from drivesim.core.scene import Scene
from drivesim.core.terminal import show
from drivesim.core.wording import number_of
from drivesim.planning.advice import what_fits
from drivesim.rollout.rows import OUT_OF_MEMORY
from drivesim.rollout.text import TextRolloutCommand

if TYPE_CHECKING:
    from drivesim.families.preview import SamplingStep
    from drivesim.rollout.rows import Progress, Row
    from drivesim.rollout.start import Start
    from drivesim.simulator import Simulator

Record = Callable[..., None]  # writes config and origin into the run folder


def _load_simulator(model: str, device: str, **sampling: Any) -> Simulator:
    from drivesim.families.driving import DrivingModel
    from drivesim.simulator import Simulator

    return Simulator(DrivingModel.from_pretrained(model, device=device, **sampling))


def design_command(config: DesignCommand, out: Path, record: Record) -> None:
    """Start frames of a scene, or of a folder of scenes, each in its own folder."""
    from drivesim.families.folder import family_of, find_model
    from drivesim.families.text_parts import FAMILY

    if config.num_frames < 1:
        raise ValueError(f"num_frames is {config.num_frames}; must be 1 or more")
    check_device(config.device)
    if family_of(find_model(config.model)) == FAMILY:
        raise ValueError(f"model={config.model} makes videos from prompts; scenes are for driving ones: model=toytown")
    scenes = scene_paths(config.scene)
    dtype = number_type(config.weights)
    simulator = _load_simulator(config.model, config.device, dtype=dtype, design_sampling=config.sampler)
    is_folder = Path(config.scene).is_dir()
    designs = [(out / path.parent.relative_to(config.scene) if is_folder else out, Scene.load(path)) for path in scenes]
    for folder, scene in designs:
        simulator.claim_designs(folder, scene, seed=config.seed)
    record(fingerprint=simulator.model.fingerprint)
    for folder, scene in designs:
        simulator.design_into(folder, scene, seed=config.seed, num_frames=config.num_frames)
    print(f"{number_of(config.num_frames * len(scenes), 'start frame')}: {out}")


def rollout_command(config: RolloutCommand | TextRolloutCommand, out: Path, record: Record) -> None:
    """Futures of a start, or videos of prompts; a folder that holds the same run is gone on with."""
    from drivesim.rollout.pools import PoolKind
    from drivesim.rollout.run import run_rollout
    from drivesim.viz.contact_sheet import contact_sheet

    config.validate()
    config.check_device()
    if isinstance(config, TextRolloutCommand):
        load, start, pictures = _text_beginning(config, out, listens=config.pool.kind is PoolKind.HERE)
    else:
        load, start, pictures = _driving_beginning(config)
    record = partial(record, fingerprint=load().fingerprint)
    is_new = not (out / CONFIG_FILE).exists()
    if is_new:
        _save_beginning(out, pictures, record)
    rows = run_rollout(config, start, load, out, show_progress)
    if not is_new:  # only now is it certain that the folder holds the same run
        _save_beginning(out, pictures, record)
    videos = [out / row.video for row in rows if row.video is not None]
    if videos:
        contact_sheet(videos, out / "contact_sheet.png")
    _report_failures(rows, out)
    print(f"{number_of(len(videos), 'future')} of {start.name}: {out}")


Beginning = tuple[Any, "Start", dict[str, NDArray[np.uint8]]]  # loads the model once; the start; its pictures


def _driving_beginning(config: RolloutCommand) -> Beginning:
    from drivesim.families.drive import DriveFacts
    from drivesim.families.driving import DrivingModel
    from drivesim.rollout.loading import OnceLoaded
    from drivesim.rollout.pools import torch_threads
    from drivesim.rollout.start import check_scene
    from drivesim.simulator import Simulator

    check_scene(config.start, config.start_s, config.is_night)
    how: dict[str, Any] = {"device": config.device, "predict_sampling": config.sampler, "stages": config.stages}
    how |= {"dtype": config.dtype(), "memory": config.memory}
    load = OnceLoaded(partial(DrivingModel.from_pretrained, config.model, **how))
    said = [DriveFacts(motion=motion) for motion in config.motions()]
    for drive in said:
        load().facts(drive)  # before a start frame is designed
    with torch_threads(config.pool.threads):  # of the start frame, too, whose bytes every future follows from
        start, pictures = _start(config, Simulator(load()))
    if len(said) == 1:
        start.conditions = said[0].over(start.conditions)
    else:
        start.in_turn = tuple(drive.over(start.conditions) for drive in said)
    return load, start, pictures


def _text_beginning(config: TextRolloutCommand, out: Path, *, listens: bool) -> Beginning:
    from drivesim.families.folder import find_model
    from drivesim.families.text import TextModel, text_facts
    from drivesim.rollout.loading import OnceLoaded

    if config.preview and not listens:
        raise ValueError("preview=true needs pool=here; the workers of another pool tell of whole chunks alone")
    index = text_facts(find_model(config.model), config.stages)
    start = config.begin(tuple(config.size_hw or index["size_hw"]))  # before gigabytes are read
    how: dict[str, Any] = {
        "device": config.device,
        "dtype": config.dtype(),
        "sources": config.sources(),
        "key_frames": config.key_frames,
        "seconds": config.seconds,
        "size_hw": config.size_hw,
        "samplings": config.samplings(),
        "stages": config.stages,
        "memory": config.memory,
        "prompts": config.said(),
    }
    load = OnceLoaded(partial(TextModel.from_pretrained, config.model, **how))
    if listens:
        load().on_step = partial(_show_step, out / "preview.png" if config.preview else None)
    return load, start, {} if start.frame_HWC is None else {"start.png": start.frame_HWC}


def _show_step(preview: Path | None, step: SamplingStep) -> None:
    from drivesim.core.picture import save_png

    show(f"{step.stage}: step {step.step} of {step.num_steps}", is_last=False)
    if preview is not None:
        save_png(preview, np.concatenate(list(step.preview()), axis=1))


def _save_beginning(out: Path, pictures: dict[str, NDArray[np.uint8]], record: Record) -> None:
    from drivesim.core.picture import save_png

    record()
    for name, picture in pictures.items():
        save_png(out / name, picture)


def _start(config: RolloutCommand, simulator: Simulator) -> tuple[Start, dict[str, NDArray[np.uint8]]]:
    """The start frame, designed from a scene or taken from a picture or video; and pictures of it by file name."""
    from drivesim.families.drive import DriveFacts
    from drivesim.rollout.start import start_from_file
    from drivesim.simulator import BOXES_SCALE
    from drivesim.sweep.starts import scene_of
    from drivesim.viz.overlays import draw_boxes

    scene = scene_of(config.start, lambda name: scene_paths(name)[0])
    if scene is None:
        start = start_from_file(
            config.start, simulator.size_hw, start_s=config.start_s, conditions=DriveFacts(is_night=config.is_night)
        )
        assert start.frame_HWC is not None
        return start, {"start.png": start.frame_HWC}
    start = simulator.start(scene, seed=config.seed)
    assert start.frame_HWC is not None
    boxes = draw_boxes(start.frame_HWC, scene.picture_boxes(simulator.size_hw), BOXES_SCALE)
    return start, {"start.png": start.frame_HWC, "start_boxes.png": boxes}


def _report_failures(rows: list[Row], out: Path) -> None:
    failed = [row for row in rows if not row.ok]
    for row in failed:
        print(f"future {row.future} failed: {row.error}", file=sys.stderr)
    causes = [row.error for row in failed if row.error is not None and row.error.startswith(OUT_OF_MEMORY)]
    if causes:
        print(what_fits("rollout", sys.argv[2:], causes[0]), file=sys.stderr)
    if failed:
        num = number_of(len(rows), "future")
        raise SystemExit(f"drivesim: {len(failed)} of {num} failed; again with out={out} goes on")


def show_progress(progress: Progress) -> None:
    """How far a future is, on one line."""
    text = f"future {progress.future}: {progress.num_frames} of {progress.total_frames} frames"
    show(text, is_last=progress.num_frames == progress.total_frames)
