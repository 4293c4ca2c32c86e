"""Every stage at tiny size, on toytown: it trains, resumes and exports what the next stage loads."""

import csv
import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from drivesim.conditioning.driving import ConditionerConfig
from drivesim.core.picture import load_picture
from drivesim.data import NuScenesConfig, make_source
from drivesim.data.batches import CropConfig
from drivesim.data.module import DataModuleConfig
from drivesim.data.source import ClipSource
from drivesim.diffusion.settings import PredictionSamplingConfig, Sampler, SamplingConfig
from drivesim.families.drive import DriveFacts
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import load_parts, part_names, read_index
from drivesim.families.portions import upsample_next
from drivesim.families.upsample import UpsamplingModel
from drivesim.models.autoencoder import Autoencoder, encode, to_model_range
from drivesim.models.build import AutoencoderConfig, BackboneConfig, InterpolationConfig, TemporalConfig
from drivesim.models.upsampler import UpsamplerConfig, UpsamplerTemporalConfig
from drivesim.models.video_decoder import VideoDecoderConfig
from drivesim.toytown import TownConfig, write_nuscenes
from drivesim.train import fit as fit_module
from drivesim.train.config import StageName, TrainConfig, TrainerConfig
from drivesim.train.exported import RECORD
from drivesim.train.fit import _LATER, _spread_frames, fit
from drivesim.train.latent_ldm import ImageLossConfig, ImageStage
from drivesim.train.optim import LearningRate, OptimConfig, OptimizerName
from drivesim.train.stage import Batch, Stage
from drivesim.train.upsampler import UpsamplerLossConfig
from drivesim.train.video_decoder import VideoDecoderLossConfig
from tests.train.killing import killed_within

STAGES = [stage for stage in StageName if not stage.is_text]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ClipSource:
    root = tmp_path_factory.mktemp("town")
    write_nuscenes(TownConfig(num_scenes=2, duration_s=4.0, fps=4.0, key_fps=4.0, size_hw=(32, 64)), root)
    return make_source(NuScenesConfig(root=str(root), version="v1.0-toytown", val_scenes=["toytown-0001"]))


def config(stage: StageName, cache: Path, init: Path | None = None, max_steps: int = 4) -> TrainConfig:
    return TrainConfig(
        stage=stage,
        name="tiny",
        init=None if init is None else str(init),
        size_hw=[32, 64],
        cache_dir=str(cache),
        autoencoder=AutoencoderConfig(
            block_out_channels=[8, 8, 16, 16], layers_per_block=1, latent_channels=4, norm_num_groups=4
        ),
        backbone=BackboneConfig(
            block_out_channels=[16, 32], attention=[False, True], layers_per_block=1, channels_per_head=8,
            norm_num_groups=8, token_dim=16,
        ),
        conditioner=ConditionerConfig(position_frequencies=1),
        fps=2.0,
        interpolation=InterpolationConfig(
            num_frames=3, rates=[4.0], label_dim=8, context_channels=8, feed_forward_mult=1
        ),
        video_decoder=VideoDecoderConfig(levels=[False, False, False, True, True], num_frames=3, fps=4.0),
        video_decoder_loss=VideoDecoderLossConfig(adversarial_weight=0.5, discriminator_channels=8),
        upsampler=UpsamplerConfig(
            scale=2, patch_px=2, detail_gain=4.0, block_out_channels=[8, 16], attention=[False, True],
            layers_per_block=1, num_heads=2, norm_num_groups=4, noise_level=20,
        ),
        upsampler_temporal=UpsamplerTemporalConfig(
            num_frames=4, overlap=1, context_channels=4, feed_forward_mult=1
        ),
        upsampler_loss=UpsamplerLossConfig(max_noise_level=50, through_autoencoder=True),
        upsample_sampling=SamplingConfig(sampler=Sampler.DDIM, steps=1),
        temporal=TemporalConfig(
            num_frames=6, context_channels=8, feed_forward_mult=1, hold_context=True, context_noise=50
        ),
        crop=CropConfig(size_hw=[16, 32]),
        image_loss=ImageLossConfig(box_weight=2.0),
        design_sampling=SamplingConfig(steps=2),
        predict_sampling=PredictionSamplingConfig(steps=2),
        interpolate_sampling=SamplingConfig(steps=2),
        optim=OptimConfig(
            optimizer=OptimizerName.MUON, learning_rate=1e-3, warmup_steps=1, schedule=LearningRate.COSINE
        ),
        loader=DataModuleConfig(batch_size=2, num_val_items=2),
        trainer=TrainerConfig(
            max_steps=max_steps,
            accumulate=2,
            checkpoint_every=2,
            validate_every=2,
            picture_every=2,
            log_every=1,
            progress=False,
            accelerator="cpu",
        ),
    )  # fmt: skip


def init_of(stage: StageName, family: dict[str, Path]) -> Path | None:
    before = STAGES.index(stage) - 1
    return None if before < 0 else family[STAGES[before].value]


def weights(model: Path) -> dict[str, bytes]:
    return {str(path.relative_to(model)): path.read_bytes() for path in sorted(model.rglob("*.safetensors"))}


def losses(run: Path) -> dict[int, str]:
    rows: dict[int, str] = {}
    for path in sorted((run / "logs").glob("version_*/metrics.csv")):
        with path.open() as file:
            rows |= {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}
    return rows


@pytest.fixture(scope="module")
def family(source: ClipSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One run of each stage, each from the model of the one before."""
    root = tmp_path_factory.mktemp("family")
    folders = {"cache": root / "cache", "root": root}
    init: Path | None = None
    for stage in STAGES:
        init = fit(config(stage, folders["cache"], init), source, root / stage.value)
        folders[stage.value] = init
    yield folders


def test_frames_are_encoded_on_the_device_that_trains(
    family: dict[str, Path], source: ClipSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of large frames takes a CPU days."""
    seen: list[str] = []

    def noted_encode(autoencoder: Autoencoder, frames: NDArray[np.uint8]) -> torch.Tensor:
        seen.append("encode")
        return encode(autoencoder, frames)

    def noted_to(self: AutoencoderKL, device: str) -> AutoencoderKL:
        seen.append(str(device))
        return self

    monkeypatch.setattr("drivesim.train.fit.accelerator_device", lambda accelerator: f"the {accelerator}")
    monkeypatch.setattr("drivesim.train.fit.encode", noted_encode)
    monkeypatch.setattr(AutoencoderKL, "to", noted_to)
    settings = config(StageName.IMAGE, tmp_path / "cache", family["autoencoder"], max_steps=1)
    fit(settings, source, tmp_path / "run")
    assert re.fullmatch("(the cpu (encode )+cpu ?){2}", " ".join(seen))  # of training and validation, there and back


def test_the_last_stage_exports_a_model_that_designs_and_predicts(family: dict[str, Path]) -> None:
    model = DrivingModel.from_pretrained(family["prediction"])
    frame = load_picture(family["root"] / "autoencoder" / "samples" / "step_000004.png")[:32, :64]
    latents = model.encode(frame[None])
    made = model.predict(latents[None], generators=[torch.Generator().manual_seed(0)], conditions=[None])
    assert made.shape == (1, 6, 4, 4, 8)
    assert torch.equal(made[:, 0], latents)
    assert model.decode(made[0]).shape == (6, 32, 64, 3)
    assert model.fps == model.key_fps == 2.0
    assert model.num_passes == 0


def test_a_model_with_an_interpolation_fills_gaps_and_keeps_both_ends(family: dict[str, Path]) -> None:
    model = DrivingModel.from_pretrained(family["interpolation"])
    assert (model.key_fps, model.fps, model.num_passes, model.frames_per_gap) == (2.0, 4.0, 1, 2)
    ends = torch.randn(3, 2, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    said = [None, DriveFacts(is_night=True), DriveFacts(is_night=False)]
    made = model.interpolate(ends, 0, generators=generators, conditions=said)
    assert made.shape == (3, 3, 4, 4, 8)
    assert torch.equal(made[:, [0, 2]], ends)
    assert model.fingerprint != DrivingModel.from_pretrained(family["prediction"]).fingerprint
    for part in ("temporal", "backbone"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (family["interpolation"] / name).read_bytes() == (family["prediction"] / name).read_bytes()


def test_a_model_with_an_upsampler_makes_large_frames_of_what_it_decodes(family: dict[str, Path]) -> None:
    folder = family["upsampler"]
    index = read_index(folder)
    upsampling = UpsamplingModel.from_parts(load_parts(folder, part_names(index)), index)
    assert (upsampling.portion, upsampling.overlap, upsampling.fps) == (4, 1, 4.0)
    model = DrivingModel.from_pretrained(folder)
    low = to_model_range(model.decode(torch.randn(5, 4, 4, 8, generator=torch.Generator().manual_seed(0))))
    pending, frames = upsample_next(upsampling, {}, low, key=(0,), is_last=True)
    assert (pending, frames.shape) == ({}, (5, 64, 128, 3))
    assert read_index(family["image_upsampler"]).get("upsampler_temporal") is None
    weights_of = "upsampler/diffusion_pytorch_model.safetensors"
    assert (folder / weights_of).read_bytes() == (family["image_upsampler"] / weights_of).read_bytes()


def test_rates_that_do_not_follow_from_one_another_are_refused() -> None:
    InterpolationConfig(rates=[7.5, 30.0]).check(1.875)
    with pytest.raises(ValueError, match=r"from fps=2 they must be \[8.0, 32.0\]"):
        InterpolationConfig(rates=[7.5, 30.0]).check(2.0)


def test_an_interpolation_of_other_rates_than_the_index_says_is_refused(
    family: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(family["interpolation"], tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index | {"rates": [5.0]}))
    with pytest.raises(ValueError, match=r"rates \(model index, fps and frames of a call\): \[5.0\] and \[4.0\]"):
        DrivingModel.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(("num_drives", "num_frames"), [(1, 12), (5, 10), (13, 12), (100, 12)])
def test_the_latent_scale_is_measured_on_so_many_frames_of_however_many_drives(
    num_drives: int, num_frames: int
) -> None:
    read: list[str] = []

    def read_frames(drive: str, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        read.append(drive)
        return frames

    valid = SimpleNamespace(valid_T=np.arange(30) > 4)
    cache: Any = SimpleNamespace(conditions={f"{n}": valid for n in range(num_drives)}, read=read_frames)
    frames = _spread_frames(cache, 12)
    assert len(frames) == num_frames
    assert frames.min() == 5
    assert read[0] == "0"
    assert read[-1] == f"{num_drives - 1}"
    assert len(set(read)) == len(read) == min(num_drives, 12)


def test_latents_have_unit_scale_after_training(family: dict[str, Path], source: ClipSource) -> None:
    model = DrivingModel.from_pretrained(family["prediction"])
    clip = source.read("toytown-0000", start_s=0.0, num_frames=16, fps=4.0, size_hw=(32, 64))
    latents = model.encode(clip.frames_THWC)
    assert latents.std().item() == pytest.approx(1.0, abs=0.1)
    assert latents.mean().item() == pytest.approx(0.0, abs=0.1)
    own = [model.autoencoder.config.shift_factor, model.autoencoder.config.scaling_factor]
    for stage in ("image", "prediction", "interpolation"):
        index = json.loads((family[stage] / "model_index.json").read_text())
        assert index["latent_scale"] == own


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_killed_twice_goes_on_with_the_same_losses(
    stage: StageName, family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    settings = config(stage, family["cache"], init_of(stage, family))
    for step in (3, 2):  # the second time within the step that follows the checkpoint
        with killed_within(step):
            fit(settings, source, tmp_path)
    assert not (tmp_path / "model").exists()
    fit(settings, source, tmp_path)
    whole = losses(family["root"] / stage.value)
    assert sorted(whole) == [0, 1, 2, 3]
    assert whole == losses(tmp_path)
    assert weights(family["root"] / stage.value / "model") == weights(tmp_path / "model")


def test_weights_of_16_bits_leave_averages_of_32(family: dict[str, Path], source: ClipSource, tmp_path: Path) -> None:
    settings = config(StageName.PREDICTION, family["cache"], family["image"])
    settings.trainer.precision = "bf16-true"
    model = fit(settings, source, tmp_path)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert {t.dtype for name, t in last.items() if name.startswith("trained.")} == {torch.bfloat16}
    averages = {name.removeprefix("ema.temporal/"): t for name, t in last.items() if name.startswith("ema.")}
    made = load_parts(model, ["temporal"])["temporal"].state_dict()
    for name, average in averages.items():
        assert torch.equal(made[name.replace("/", ".")], average)
    assert any(not torch.equal(average, average.bfloat16().float()) for average in averages.values())


@pytest.fixture
def _sigint_is_heard() -> Iterator[None]:
    """A shell's background jobs ignore the signal, and so would the tests in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint_is_heard")
def test_ctrl_c_is_an_interrupt_and_the_run_goes_on(
    family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    settings = config(StageName.IMAGE, family["cache"], family["autoencoder"])
    step_of = Stage.training_step

    def interrupted_in_step_three(self: Stage, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.global_step == 3:
            signal.raise_signal(signal.SIGINT)
        return step_of(self, batch, batch_idx)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stage, "training_step", interrupted_in_step_three)
        fit(settings, source, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    fit(settings, source, tmp_path)
    assert weights(family["image"]) == weights(tmp_path / "model")


def test_a_loss_that_is_not_finite_stops_the_run_before_a_checkpoint_keeps_it(
    family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    loss_of = ImageStage.loss

    def broken_in_step_three(self: ImageStage, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        terms = loss_of(self, batch, generator)
        return terms | {"loss": terms["loss"] * float("nan")} if self.global_step == 3 else terms

    settings = config(StageName.IMAGE, family["cache"], family["autoencoder"])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(FloatingPointError, match="step 3: the loss is not fin"):
        patch.setattr(ImageStage, "loss", broken_in_step_three)
        fit(settings, source, tmp_path)
    fit(settings, source, tmp_path)
    assert weights(family["image"]) == weights(tmp_path / "model")


def test_pictures_of_another_size_than_the_model_before_are_refused_before_anything_is_cached(
    family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    settings = config(StageName.PREDICTION, tmp_path / "cache", family["image"])
    settings.size_hw = [64, 128]
    with pytest.raises(ValueError, match=r"size_hw=\[64, 128\], but init=.* was trained on \[32, 64\]"):
        fit(settings, source, tmp_path / "run")
    assert not list(tmp_path.iterdir()), "neither cached nor claimed"


def test_a_warm_start_of_another_size_is_refused_by_part(
    family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    settings = config(StageName.IMAGE, family["cache"], family["autoencoder"])
    settings.warm_start = str(family["image"])
    settings.backbone.token_dim = 24
    with pytest.raises(ValueError, match="warm_start=.*: part '(backbone|conditioner)' does not fit") as told:
        fit(settings, source, tmp_path / "run")
    assert len(str(told.value)) < 400 and "the first is" in str(told.value)
    assert not (tmp_path / "run").exists()


def test_a_video_decoder_is_left_part_of_the_way_back_to_the_image_decoder(
    family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    settings = config(StageName.VIDEO_DECODER, family["cache"], init_of(StageName.VIDEO_DECODER, family))
    settings.video_decoder_loss.image_share = 0.5
    model = fit(settings, source, tmp_path)
    before, parts = weights(model), load_parts(model, ["autoencoder", "video_decoder"])
    made, image = parts["video_decoder"].state_dict(), parts["autoencoder"].state_dict()
    whole = load_parts(family["video_decoder"], ["video_decoder"])["video_decoder"].state_dict()
    for name, weight in whole.items():
        half = weight / 2 if "convs" in name else (weight + image.get(name, weight)) / 2
        torch.testing.assert_close(made[name], half)
    (tmp_path / RECORD).unlink()
    fit(settings, source, tmp_path)
    assert weights(model) == before, "a finished run that is exported again goes no further back"
    with pytest.raises(ValueError, match="image_share=1.5; it must be at least 0 and below 1"):
        VideoDecoderLossConfig(image_share=1.5)


def test_settings_that_came_later_are_part_of_a_run_only_where_they_are_set(
    family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    identity = json.loads((family["root"] / "video_decoder" / "run.json").read_text())
    later = [(part, name) for part, name, _ in _LATER]
    assert ("dreambooth", "more_class_prompts") in later
    for part, name in later:
        assert identity[part]
        assert name not in identity[part]
    other = config(StageName.VIDEO_DECODER, family["cache"], init_of(StageName.VIDEO_DECODER, family))
    other.video_decoder_loss.image_share = 0.5
    with pytest.raises(ValueError, match="holds another run .*video_decoder_loss.image_share not said there, 0.5 here"):
        fit(other, source, family["root"] / "video_decoder")


def test_trainings_of_two_seeds_are_judged_on_the_same_clips_and_noise(
    family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    errors: dict[str, list[str]] = {"train/loss": [], "val/loss": []}
    for seed in (0, 5):
        settings = config(StageName.IMAGE, family["cache"], family["autoencoder"])
        settings.seed, settings.warm_start, settings.optim.learning_rate = seed, str(family["image"]), 0.0
        fit(settings, source, tmp_path / str(seed))
        with next((tmp_path / str(seed) / "logs").glob("*/metrics.csv")).open() as file:
            rows = list(csv.DictReader(file))
        for name, found in errors.items():
            found.append(",".join(row[name] for row in rows if row[name]))
    assert errors["val/loss"][0] == errors["val/loss"][1] != ""
    assert errors["train/loss"][0] != errors["train/loss"][1]


def test_a_truncated_model_before_leaves_the_run_folder_alone(
    family: dict[str, Path], source: ClipSource, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(family["image"], cut)
    with (cut / "backbone" / "diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.truncate(5_000)
    with pytest.raises(ValueError, match="backbone.*truncated"):
        fit(config(StageName.PREDICTION, tmp_path / "cache", cut), source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_started_again_is_left_as_it_is_unless_its_export_is_not_whole(
    family: dict[str, Path], source: ClipSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = family["root"] / "prediction"
    before = weights(run / "model")
    settings = config(StageName.PREDICTION, family["cache"], family["image"])
    with monkeypatch.context() as patched:
        patched.setattr(fit_module, "initial_parts", lambda _: pytest.fail("a finished run was loaded"))
        assert fit(settings, source, run) == run / "model"
    for spoil in (
        lambda: (run / RECORD).unlink(),  # as a kill while the model is written leaves it
        lambda: next((run / "model").rglob("*.safetensors")).unlink(),
    ):
        spoil()
        fit(settings, source, run)
        assert weights(run / "model") == before and (run / RECORD).is_file()
    with monkeypatch.context() as patched:
        patched.setattr(fit_module, "_export", lambda *_: pytest.fail("killed"))
        settings.joins = [str(family["image"])]  # what is carried along is not what was
        with pytest.raises(pytest.fail.Exception, match="killed"):
            fit(settings, source, run)
    assert not (run / RECORD).exists()
    settings.joins = []
    fit(settings, source, run)
    assert weights(run / "model") == before


def test_a_folder_that_holds_another_run_is_refused(family: dict[str, Path], source: ClipSource) -> None:
    other = config(StageName.PREDICTION, family["cache"], family["image"])
    other.seed = 5
    with pytest.raises(ValueError, match="holds another run .*seed 0 there, 5 here"):
        fit(other, source, family["root"] / "prediction")


def test_temporal_training_leaves_the_image_model_alone(family: dict[str, Path]) -> None:
    name = "backbone/diffusion_pytorch_model.safetensors"
    assert (family["image"] / name).read_bytes() == (family["prediction"] / name).read_bytes()


def test_a_later_stage_without_the_model_before_is_refused() -> None:
    with pytest.raises(ValueError, match="stage=image needs init=FOLDER"):
        TrainConfig(stage=StageName.IMAGE)
