"""All five stages as one model: they stream, fit together, and say which of them fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from drivesim import Scene, Simulator
from drivesim.core.boxes import Boxes2D
from drivesim.core.finite import NotFiniteError
from drivesim.core.video import probe
from drivesim.diffusion.settings import SamplerOverrides
from drivesim.families.driving import DrivingModel
from drivesim.families.portions import upsample_next
from drivesim.families.stages import StagesConfig, Upsampling
from drivesim.models.video_decoding import decode_clip
from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.start import Start
from tests.families.tiny_cascade import write_tiny_cascade
from tests.families.tiny_family import write_tiny_family

KEY = (0, "street", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cascade(tmp_path_factory.mktemp("cascade") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> DrivingModel:
    return DrivingModel.from_pretrained(folder)


def _latents(num_frames: int) -> torch.Tensor:
    return torch.randn(num_frames, 4, 4, 8, generator=torch.Generator().manual_seed(0))


def _pushed(model: DrivingModel, latents: torch.Tensor, pieces: list[int]) -> np.ndarray:
    pending: dict[str, torch.Tensor] = {}
    frames, first = [], 0
    for piece in pieces:
        last = first + piece
        pending, made = model.finish(pending, latents[first:last], key=KEY, is_last=last == len(latents))
        frames.append(made)
        first = last
    return np.concatenate(frames)


def test_it_makes_larger_pictures_at_a_higher_rate(model: DrivingModel) -> None:
    assert (model.key_fps, model.fps, model.small_hw, model.size_hw) == (1.0, 2.0, (32, 64), (64, 128))


@pytest.mark.parametrize("pieces", [[14], [5, 1, 8], [1] * 14], ids=["at once", "uneven", "one by one"])
def test_the_video_is_the_same_whatever_pieces_its_latents_come_in(model: DrivingModel, pieces: list[int]) -> None:
    latents = _latents(14)
    assert model.finishing.video_decoder is not None and model.finishing.upsampling is not None
    small = decode_clip(model.finishing.video_decoder, latents, 0, 14)
    _, whole = upsample_next(model.finishing.upsampling, {}, small, key=KEY, is_last=True)
    assert whole.shape == (14, 64, 128, 3)
    made = _pushed(model, latents, pieces)
    assert made.shape == whole.shape
    # Convolutions over another number of frames round differently: a level of grey here and there.
    assert np.abs(made.astype(int) - whole.astype(int)).max() <= 1


def test_what_waits_does_not_grow(model: DrivingModel) -> None:
    pending, sizes = {}, []
    for _ in range(9):
        pending, _ = model.finish(pending, _latents(8), key=KEY, is_last=False)
        sizes.append(sum(tensor.numel() for tensor in pending.values()))
    assert sizes[3:6] == sizes[6:9]  # portions begin every 3 frames, 8 come at once: the rest repeats after 3 times 8


def test_a_rollout_has_every_frame_and_goes_on_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    start, config = Start(name="street", frame_HWC=frame), RolloutConfig(futures=1, seconds=13.0)
    (whole,) = run_rollout(config, start, lambda: DrivingModel.from_pretrained(folder), tmp_path / "whole")
    assert whole.ok, whole.error
    info = probe(tmp_path / "whole" / str(whole.video))
    assert (info.num_frames, info.fps, info.size_hw) == (26, 2.0, (64, 128))

    def interrupt(_: object) -> None:
        heard.append(1)
        if len(heard) == 2:
            raise KeyboardInterrupt

    heard: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_rollout(config, start, lambda: DrivingModel.from_pretrained(folder), tmp_path / "stopped", interrupt)
    (resumed,) = run_rollout(config, start, lambda: DrivingModel.from_pretrained(folder), tmp_path / "stopped")
    assert resumed.sha256 == whole.sha256


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_all_stages_run_in_16_bits_and_make_nearly_the_same(folder: Path, low: torch.dtype) -> None:
    scene, made, prints = Scene(name="street", size_hw=(64, 128), boxes_2d=Boxes2D.empty()), [], []
    for dtype in (torch.float32, low):
        sim = Simulator.from_pretrained(folder, dtype=dtype)
        start = sim.start(scene, seed=1)
        frames = np.concatenate(list(sim.rollout(start, seconds=4.0)))
        made.append(np.concatenate([start.frame_HWC[None], frames]).astype(int))
        prints.append(sim.model.fingerprint)
    assert 0 < np.abs(made[0] - made[1]).mean() < 4  # grey levels
    overflows = low is torch.float16  # where its config does not say otherwise
    assert sim.model.autoencoder.dtype is (torch.float32 if overflows else low)
    assert prints[0] != prints[1], "half a run in other numbers would be gone on with"


def test_a_designed_start_is_large_and_its_latents_are_not_encoded_again(model: DrivingModel) -> None:
    sim = Simulator(model)
    start = sim.start(Scene(name="street", size_hw=(64, 128), boxes_2d=Boxes2D.empty()), seed=1)
    assert start.frame_HWC.shape == (64, 128, 3)
    assert start.latents_CHW is not None and start.latents_CHW.shape == (4, 4, 8)
    frames = np.concatenate(list(sim.rollout(start, seconds=4.0)))
    assert frames.shape == (8, 64, 128, 3)


@pytest.mark.parametrize(
    ("stage", "part"),
    [("prediction", "video_unet"), ("interpolation", "interpolator"), ("decoding", "finishing.video_decoder"),
     ("upsampling", "finishing.upsampling.networks")],
)  # fmt: skip
def test_a_stage_that_makes_nan_is_named_with_the_frame_and_its_time(folder: Path, stage: str, part: str) -> None:
    model = DrivingModel.from_pretrained(folder)
    network: object = model
    for name in part.split("."):
        network = getattr(network, name)
    assert isinstance(network, nn.Module)
    network.register_forward_hook(lambda *call: torch.full_like(call[2], float("nan")))
    sim = Simulator(model)
    with pytest.raises(NotFiniteError, match=rf"^{stage}: frame \d+ \(at \d+\.\d\d s\) is not finite"):
        list(sim.rollout(np.zeros((64, 128, 3), dtype=np.uint8), seconds=8.0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"video_decoder": {"fps": 30.0}}, r"frames a second \(rates or fps .*, video_decoder\): 2.0 and 30.0"),
        ({"rates": [4.0]}, r"rates \(model index, fps and frames of a call\): \[4.0\] and \[2.0\]"),
        ({"size_hw": [64, 64]}, r"size of a latent \(model index, backbone\): \[8, 8\] and \[4, 8\]"),
        ({"upsampler_temporal": {"portion": 8, "overlap": 1}}, "frames of a portion: 8 in the index, 4 in"),
    ],
)  # fmt: skip
def test_facts_that_do_not_fit_are_refused_before_weights_are_read(
    folder: Path, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    for weights in other.rglob("*.safetensors"):
        weights.write_bytes(b"never read")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | changed))
    with pytest.raises(ValueError, match=message):
        DrivingModel.from_pretrained(other)


def test_a_video_decoder_of_another_scale_is_refused_naming_both(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    path = other / "video_decoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.18215}))
    with pytest.raises(ValueError, match=r"scale of latents \(autoencoder, video_decoder\): 1.0 and 0.18215"):
        DrivingModel.from_pretrained(other)


def test_a_model_without_the_later_stages_decodes_frame_by_frame(tmp_path: Path) -> None:
    model = DrivingModel.from_pretrained(write_tiny_family(tmp_path / "model"))
    latents = _latents(3)
    pending, frames = model.finish({}, latents, key=KEY, is_last=False)
    assert np.array_equal(frames, model.decode(latents))
    assert sum(tensor.numel() for tensor in pending.values()) <= 2


def test_stages_can_be_left_out_and_sampled_otherwise(folder: Path, model: DrivingModel) -> None:
    def loaded(**stages: object) -> DrivingModel:
        return DrivingModel.from_pretrained(folder, stages=StagesConfig(**stages))  # type: ignore[arg-type]

    key_frames = loaded(interpolate=False, upsampling=Upsampling.NONE)
    assert (key_frames.fps, key_frames.size_hw, key_frames.num_passes) == (1.0, (32, 64), 0)
    assert key_frames.finishing.video_decoder is None
    image = loaded(video_decoder=False, upsampling=Upsampling.IMAGE)
    assert image.finishing.upsampling is not None and image.finishing.upsampling.networks.video_unet is None
    latents = _latents(2)
    alone = image.finish({}, latents, key=KEY, is_last=True)[1]
    assert np.array_equal(alone[0], image.picture(latents[0], key=KEY)), "frame by frame, a frame has no neighbours"
    slower = loaded(upsample_sampler=SamplerOverrides(steps=3), interpolate_sampler=SamplerOverrides(steps=4))
    assert slower.finishing.upsampling is not None
    assert (slower.finishing.upsampling.sampling.steps, slower.interpolate_sampling.steps) == (3, 4)
    prints = [other.fingerprint for other in (model, key_frames, image, slower)]
    assert len(set(prints)) == 4
