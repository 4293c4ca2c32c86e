"""Every stage of the text family at tiny size: it trains, and exports for the next."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from drivesim.core.files import write_json
from drivesim.core.picture import save_png
from drivesim.data import NuScenesConfig, make_source
from drivesim.data.batches import CropConfig
from drivesim.data.pictures import PictureFolder, PictureFolderConfig
from drivesim.data.source import ClipSource
from drivesim.data.windows import CaptionWeight
from drivesim.diffusion.schedule import make_sampler, training_schedule
from drivesim.diffusion.settings import Sampler, SamplingConfig, ScheduleConfig
from drivesim.families.folder import load_parts
from drivesim.families.text import TextModel
from drivesim.models.autoencoder import decode, encode
from drivesim.models.build import BackboneConfig
from drivesim.models.text_build import TextEncoderConfig
from drivesim.models.text_to_image import load_text_to_image
from drivesim.toytown import TownConfig, write_nuscenes
from drivesim.train.config import StageName, TrainConfig, TrainerConfig
from drivesim.train.consistency import ConsistencyConfig, Lesson, distillation_loss
from drivesim.train.dreambooth import ClassPictures, DreamBoothConfig, DreamBoothStage, LoraReach
from drivesim.train.fit import fit
from drivesim.train.initial_parts import judge_parts
from drivesim.train.text_config import (
    TextInterpolationConfig,
    TextLossConfig,
    TextTemporalConfig,
    TextUpscalerConfig,
)
from tests.models.tiny_stable_diffusion import save_tiny
from tests.train.test_fit import config as driving_config
from tests.train.test_fit import weights

SIZE_HW = [16, 32]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ClipSource:
    root = tmp_path_factory.mktemp("town")
    write_nuscenes(TownConfig(num_scenes=2, duration_s=4.0, fps=4.0, key_fps=4.0, size_hw=(64, 128)), root)
    settings = NuScenesConfig(root=str(root), version="v1.0-toytown", val_scenes=["toytown-0001"], captions=True)
    return make_source(settings)


def config(stage: StageName, cache: Path, init: Path, max_steps: int = 2, **more: object) -> TrainConfig:
    made = driving_config(stage, cache, init, max_steps)
    made.size_hw, made.fps, made.trainer.accumulate = list(SIZE_HW), 4.0, 1
    made.backbone = BackboneConfig(
        block_out_channels=[16, 32], attention=[True, True], layers_per_block=1, channels_per_head=8,
        norm_num_groups=8, token_dim=16,
    )  # fmt: skip
    made.text_encoder = TextEncoderConfig(words=["night", "car"], num_tokens=12, num_layers=1, num_heads=2)
    made.text_temporal = TextTemporalConfig(num_frames=4, feed_forward_mult=1)
    made.text_interpolation = TextInterpolationConfig(num_frames=3, rates=[4.0], feed_forward_mult=1)
    made.text_upscaler = TextUpscalerConfig(num_frames=3, overlap=1, context_channels=4, feed_forward_mult=1)
    made.text_loss = TextLossConfig(drop_text=0.3)
    made.crop = CropConfig(size_hw=[32, 32])
    made.video_decoder.levels = []
    made.consistency = ConsistencyConfig(guidance=2.0)
    made.dreambooth = DreamBoothConfig(class_prompt="a car", num_class_pictures=3, lora_rank=2)
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "sd", "v2")


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "upscaler", "upscaler")


@pytest.fixture(scope="module")
def run(source, checkpoint, tmp_path_factory):
    """Trains a stage once from the checkpoint, or from the model of another stage."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def of(stage: StageName, init: Path | None = None, data: ClipSource | None = None, **more: object) -> Path:
        if stage not in made:
            settings = config(stage, root / "cache", init or checkpoint, **more)
            made[stage] = fit(settings, data or source, root / stage.value)
        return made[stage]

    return of


def index_of(model: Path) -> dict[str, object]:
    return json.loads((model / "model_index.json").read_text())


def changed(before: torch.nn.Module, after: torch.nn.Module) -> list[str]:
    pairs = zip(before.state_dict().items(), after.state_dict().values(), strict=True)
    return [name for (name, one), other in pairs if not torch.equal(one, other)]


def test_spatial_layers_are_tuned_on_frames_and_the_rest_stays(run, checkpoint) -> None:
    model = run(StageName.TEXT_IMAGE)
    before, after = load_text_to_image(checkpoint), load_text_to_image(model / "image")
    assert changed(before.unet, after.unet)
    assert not changed(before.vae, after.vae)
    assert not changed(before.text_encoder, after.text_encoder)
    assert index_of(model)["family"] == "text"


def test_key_frames_keep_the_image_model_and_name_it(run, checkpoint) -> None:
    model = run(StageName.TEXT_KEY_FRAMES)
    assert index_of(model)["image"] == str(checkpoint), "a checkpoint that was not changed is not copied"
    assert not (model / "image").exists()
    stack = load_parts(model, ["temporal"])["temporal"].config
    assert (stack.num_frames, stack.per_frame_alpha, stack.cross_attention_dim) == (4, False, 32)


def test_a_text_model_is_carried_from_stage_to_stage(run, source, tmp_path) -> None:
    image = run(StageName.TEXT_IMAGE)
    settings = config(StageName.TEXT_KEY_FRAMES, tmp_path / "cache", image, fps=2.0)
    keys = fit(settings, source, tmp_path / "keys")
    assert weights(keys / "image") == weights(image / "image")
    more = config(StageName.TEXT_INTERPOLATION, tmp_path / "cache", image, joins=[str(keys)], fps=2.0)
    model = fit(more, source, tmp_path / "interpolation")
    assert weights(model / "temporal") == weights(keys / "temporal")
    assert index_of(model)["rates"] == [4.0]
    assert set(index_of(model)["samplings"]) == {"key_frames", "interpolate"}
    loaded = TextModel.from_pretrained(model)
    assert (loaded.fps, loaded.num_frames, loaded.size_hw) == (4.0, 4, tuple(SIZE_HW))


def test_the_interpolation_sees_given_frames_in_its_input_and_moves_all_its_weights(run, checkpoint) -> None:
    parts = load_parts(
        run(StageName.TEXT_INTERPOLATION, fps=2.0), ["interpolation_unet", "interpolation", "rate_label"]
    )
    unet, backbone = parts["interpolation_unet"], load_text_to_image(checkpoint).unet
    assert unet.config.in_channels == 9
    assert parts["interpolation"].noise_embed is not None
    assert unet.conv_in.weight[:, 4:].abs().max() > 0, "the new inputs have begun to count"
    after = unet.state_dict() | {"conv_in.weight": unet.conv_in.weight[:, :4]}
    still = [name for name, weight in backbone.state_dict().items() if torch.equal(weight, after[name])]
    assert not still


def test_the_upscaler_learns_from_pieces(run, upscaler) -> None:
    model = run(StageName.TEXT_UPSCALER, init=upscaler)
    stack = load_parts(model, ["upscaler_temporal"])["upscaler_temporal"].config
    assert (stack.context_in_channels, stack.context_shortcut) == (3, True)
    assert index_of(model)["upscaler"] == str(upscaler), "a checkpoint that was not changed is named"
    assert index_of(model)["upscaling"] == {"overlap": 1, "noise_level": 30}


def test_the_video_decoder_is_that_of_the_checkpoint(run) -> None:
    model = run(StageName.TEXT_VIDEO_DECODER, crop=CropConfig())
    assert load_parts(model, ["video_decoder"])["video_decoder"].config.latent_channels == 4


def test_a_model_from_nothing_is_a_pipeline_of_diffusers(run, source, tmp_path) -> None:
    driving = fit(driving_config(StageName.AUTOENCODER, tmp_path / "cache"), source, tmp_path / "autoencoder")
    model = run(StageName.TEXT_BASE, init=driving)
    old, new = load_parts(driving, ["autoencoder"])["autoencoder"], load_text_to_image(model / "image").vae
    assert old.config.shift_factor
    assert not new.config.shift_factor
    frames = (torch.rand(1, 16, 32, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    torch.testing.assert_close(encode(new, frames), encode(old, frames), rtol=1e-4, atol=1e-4)
    assert abs(decode(new, encode(new, frames)).astype(int) - decode(old, encode(old, frames)).astype(int)).max() <= 1
    pipeline = StableDiffusionPipeline.from_pretrained(model / "image", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("a car at night", height=16, width=32, num_inference_steps=2, output_type="np").images
    assert made.shape == (1, 16, 32, 3)


def test_data_without_captions_and_sizes_that_do_not_fit_are_refused(source, checkpoint, tmp_path) -> None:
    silent = make_source(NuScenesConfig(root=source.config.root, version="v1.0-toytown", val_scenes=["toytown-0001"]))
    with pytest.raises(ValueError, match="this stage learns from captions; the data has none"):
        fit(config(StageName.TEXT_KEY_FRAMES, tmp_path / "cache", checkpoint), silent, tmp_path / "a")
    with pytest.raises(ValueError, match=r"size_hw=\[18, 32\] does not divide by 4; the nearest is \[16, 32\]"):
        fit(config(StageName.TEXT_IMAGE, tmp_path / "cache", checkpoint, size_hw=[18, 32]), source, tmp_path / "b")
    with pytest.raises(ValueError, match="no x4 upscaler: it has no low_res_scheduler"):
        fit(config(StageName.TEXT_UPSCALER, tmp_path / "cache", checkpoint), source, tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} <= {"a", "cache"}, "b and c are not claimed"


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_a_checkpoint_is_judged_whatever_sampler_it_came_with(checkpoint, tmp_path, kind: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    path = other / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": kind}))
    judge_parts(config(StageName.TEXT_KEY_FRAMES, tmp_path / "cache", other))


def test_a_start_that_made_nothing_may_be_corrected_in_its_folder(source, checkpoint, tmp_path) -> None:
    settings = config(StageName.TEXT_KEY_FRAMES, tmp_path / "cache", checkpoint)
    settings.loader.caption_weights = [CaptionWeight(word="trun", weight=2.0)]
    with pytest.raises(ValueError, match="no caption of a clip holds 'trun'"):
        fit(settings, source, tmp_path / "run")
    settings.loader.caption_weights = [CaptionWeight(word="driving", weight=2.0)]
    fit(settings, source, tmp_path / "run")
    settings.loader.caption_weights = [CaptionWeight(word="driving", weight=3.0)]
    write_json(tmp_path / "rollout" / "run.json", {"model": "toytown", "seconds": 20})
    for taken in ("run", "rollout"):
        with pytest.raises(ValueError, match="holds another run"):
            fit(settings, source, tmp_path / taken)


def test_a_model_whose_index_is_damaged_is_no_bare_checkpoint(source, checkpoint, tmp_path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    (broken / "model_index.json").write_text('{"family": "te')
    with pytest.raises(ValueError, match=r"broken/model_index.json cannot be read"):
        fit(config(StageName.TEXT_KEY_FRAMES, tmp_path / "cache", broken), source, tmp_path / "out")


@pytest.mark.parametrize("stage", [StageName.IMAGE, StageName.TEXT_VIDEO_DECODER, StageName.DREAMBOOTH_LORA], ids=str)
def test_stages_that_cannot_compute_layers_again_say_so(stage) -> None:
    with pytest.raises(ValueError, match=rf"gradient_checkpointing=true: stage {stage.value} cannot; .*text_base"):
        TrainConfig(stage=stage, init="x", trainer=TrainerConfig(gradient_checkpointing=True))


@pytest.mark.parametrize("stage", [s for s in StageName if "interpol" in s or "upscal" in s or "dream" in s], ids=str)
def test_stages_that_weigh_no_boxes_refuse_a_weight_of_boxes(stage) -> None:
    with pytest.raises(ValueError, match=rf"text_loss.box_weight=3.0: stage {stage.value} .*, text_key_frames"):
        TrainConfig(stage=stage, init="x", text_loss=TextLossConfig(box_weight=3.0))


@pytest.mark.parametrize("stage", StageName, ids=str)
def test_a_share_of_dropped_text_is_read_or_refused(stage) -> None:
    reads = stage.is_text and "dream" not in stage.value and "decoder" not in stage.value
    refusal = pytest.raises(ValueError, match=rf"text_loss.drop_text=0.5: stage {stage.value} .*: text_base, text_im")
    with nullcontext() if reads else refusal:
        TrainConfig(stage=stage, init="x", text_loss=TextLossConfig(drop_text=0.5))
    TrainConfig(stage=stage, init="x", text_loss=TextLossConfig(drop_text=0.0))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    folder = tmp_path_factory.mktemp("subject")
    noise = torch.rand(2, 32, 64, 3, generator=torch.Generator().manual_seed(0))
    for number, picture in enumerate((noise * 255).byte().numpy()):
        save_png(folder / f"{number}.png", picture)
    (folder / "broken.png").write_bytes(b"no picture")
    return PictureFolder(PictureFolderConfig(root=str(folder), caption="a sks car"))


def test_dreambooth_leaves_a_checkpoint_whose_unet_and_text_encoder_have_moved(run, checkpoint, subject) -> None:
    assert [problem.where for problem in subject.problems()] == ["broken.png"]
    model = run(StageName.DREAMBOOTH, data=subject, fps=1.0, cache_fps=1.0)
    before, after = load_text_to_image(checkpoint), load_text_to_image(model)
    assert changed(before.unet, after.unet)
    assert changed(before.text_encoder, after.text_encoder)
    assert not changed(before.vae, after.vae)
    assert (model.parent / "samples" / "step_000002.png").is_file()


def test_lora_of_all_layers_moves_convolutions_and_feed_forward_layers_too(checkpoint, subject, tmp_path) -> None:
    settings = config(StageName.DREAMBOOTH_LORA, tmp_path / "cache", checkpoint, fps=1.0, cache_fps=1.0)
    settings.dreambooth.lora_reach, settings.dreambooth.prior_weight = LoraReach.ALL, 0.0
    model = fit(settings, subject, tmp_path / "run")
    before, after = load_text_to_image(checkpoint), load_text_to_image(checkpoint, loras=[model])
    found = changed(before.unet, after.unet)
    assert {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"} <= set(found)
    assert not [name for name in found if "norm" in name or name.endswith("bias")]
    assert any(name.endswith("mlp.fc1.weight") for name in changed(before.text_encoder, after.text_encoder))


def test_dreambooth_lora_is_what_the_loader_fuses_and_what_the_stage_trained(run, checkpoint, subject) -> None:
    model = run(StageName.DREAMBOOTH_LORA, data=subject, fps=1.0, cache_fps=1.0)
    assert [path.name for path in model.iterdir()] == ["pytorch_lora_weights.safetensors"]
    before, after = load_text_to_image(checkpoint), load_text_to_image(checkpoint, loras=[model])
    for part in ("unet", "text_encoder"):
        names = changed(getattr(before, part), getattr(after, part))
        endings = {name.removesuffix(".weight").rsplit(".", 1)[-1] for name in names}
        assert names
        assert endings <= {"to_q", "to_k", "to_v", "0", "q_proj", "k_proj", "v_proj", "out_proj"}


def test_class_pictures_are_made_once(run, subject) -> None:
    model = run(StageName.DREAMBOOTH, data=subject, fps=1.0, cache_fps=1.0)
    folders = list((model.parents[1] / "cache").glob("class-*"))
    assert len(folders) == 1, "DreamBooth and its light way share them"
    pictures = ClassPictures(
        config=DreamBoothConfig(num_class_pictures=3),
        shape=(4, 8, 16),
        sampling=SamplingConfig(),
        seed=0,
        folder=folders[0],
        load=lambda: pytest.fail("made again"),
    )
    made = pictures.latents("cpu")
    assert made.shape == (3, 4, 8, 16)
    assert made.isfinite().all()


def test_as_many_class_pictures_as_asked_for_whatever_the_folder_holds(checkpoint, tmp_path) -> None:
    found = load_text_to_image(checkpoint)
    parts = {"backbone": found.unet} | {n: getattr(found, n) for n in ("text_encoder", "tokenizer", "scheduler")}

    def latents(number: int, folder: str) -> torch.Tensor:
        return ClassPictures(
            config=DreamBoothConfig(num_class_pictures=number),
            shape=(4, 4, 8),
            sampling=SamplingConfig(steps=2, guidance=2.0),
            seed=0,
            folder=tmp_path / folder,
            load=lambda: parts,
        ).latents("cpu")

    six, eight, five = (latents(number, "shared") for number in (6, 8, 5))
    assert [len(six), len(eight), len(five)] == [6, 8, 5]
    assert torch.equal(six, eight[:6])
    assert torch.equal(five, eight[:5])
    assert torch.equal(latents(8, "fresh"), eight)
    assert len({latent.sum().item() for latent in eight}) == 8


@pytest.mark.parametrize("is_first", [True, False], ids=["the first process", "another process"])
def test_the_first_process_alone_makes_class_pictures_on_the_device_of_the_training(is_first) -> None:
    seen: list[object] = []
    device = torch.device("cuda", 0)
    strategy = SimpleNamespace(root_device=device, barrier=lambda _: seen.append("wait"))
    stage = SimpleNamespace(
        config=DreamBoothConfig(),
        trainer=SimpleNamespace(strategy=strategy, is_global_zero=is_first),
        class_pictures=SimpleNamespace(latents=lambda where: seen.append(where) or torch.zeros(2)),
    )
    DreamBoothStage.setup(stage, "fit")
    assert seen == [device, "wait", device][not is_first :]
    assert torch.equal(stage.class_latents, torch.zeros(2))


def test_a_student_is_taught_at_the_steps_of_its_sampler_alone() -> None:
    schedule, seen = training_schedule(ScheduleConfig()), []
    stage = SimpleNamespace(schedule=schedule, ema=SimpleNamespace(swapped_in=nullcontext))
    lesson = Lesson(student=lambda x, _: x, teacher=lambda x, steps: seen.extend(steps.tolist()) or x)
    distillation_loss(stage, lesson, torch.zeros(2000, 1), torch.Generator().manual_seed(0))
    sampler = make_sampler(schedule, SamplingConfig(sampler=Sampler.LCM, steps=50))
    assert set(seen) == set(sampler.timesteps.tolist())


def test_distilled_students_begin_as_their_teacher_and_are_sampled_in_few_steps(run, upscaler) -> None:
    few = SamplingConfig(sampler=Sampler.LCM, steps=2)
    before = run(StageName.TEXT_INTERPOLATION, fps=2.0)
    model = run(StageName.DISTIL_INTERPOLATION, init=before, fps=2.0, interpolate_sampling=few)
    assert index_of(model)["samplings"]["interpolate"]["sampler"] == "lcm"
    one, other = (load_parts(folder, ["interpolation_unet"])["interpolation_unet"] for folder in (before, model))
    assert changed(one, other)
    other = config(StageName.DISTIL_INTERPOLATION, model, before, fps=4.0)
    other.text_interpolation.rates = [8.0]
    with pytest.raises(ValueError, match=r"rates=\[8.0\]: the interpolation of init=.* was trained at \[4.0\]"):
        judge_parts(other)
    teacher = run(StageName.TEXT_UPSCALER, init=upscaler)
    model = run(StageName.DISTIL_UPSCALER, init=teacher, upsample_sampling=few)
    assert load_text_to_image(model / "upscaler").is_upscaler
    assert index_of(model)["upscaler"] == index_of(model)["upscaling"] == {"overlap": 1, "noise_level": 30}
    assert load_parts(model, ["upscaler_temporal"])
