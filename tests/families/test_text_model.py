"""Text-to-video: equal to the stock pipelines where it must be, fixed by its key, obeying prompts over time."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, StableDiffusionUpscalePipeline

from drivesim.config import compose
from drivesim.core.run_folder import claim_folder
from drivesim.core.seeds import torch_generator
from drivesim.diffusion.settings import KeyFrameOverrides, TextOverrides
from drivesim.families.folder import write_index
from drivesim.families.portions import upsample_next
from drivesim.families.prompts import Prompts
from drivesim.families.stages import TextStagesConfig, Upsampling
from drivesim.families.text import TextModel
from drivesim.families.text_sources import Sources
from drivesim.models.autoencoder import decode
from drivesim.models.text_to_image import save_text_to_image
from drivesim.planning.text_demand import blank_text_model
from drivesim.rollout.world import World
from tests.families.tiny_text import KEY_FRAMES, PORTION, SIZE_HW, write_tiny_text
from tests.models.original_layout import write_original
from tests.models.tiny_stable_diffusion import tiny_text_to_image

PROMPTS = Prompts(prompts=["cars at night"], negative_prompt="day")
KEY = (0, "text", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_text(tmp_path_factory.mktemp("text") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> TextModel:
    return TextModel.from_pretrained(folder)


def key_frames(model: TextModel, prompts: Prompts = PROMPTS, given: torch.Tensor | None = None) -> torch.Tensor:
    none = model.encode(np.zeros((0, *model.start_hw, 3), np.uint8))
    made = model.predict(
        (none if given is None else given)[None], generators=[torch_generator(*KEY)], conditions=[prompts]
    )
    return made[0]


def frames_of(model: TextModel, prompts: Prompts = PROMPTS, start: torch.Tensor | None = None) -> np.ndarray:
    num_frames = (model.num_frames - 1) * model.frames_per_gap + 1
    world = World(model, run_seed=0, start_name="text", conditions=prompts, num_frames=num_frames)
    state, made = world.reset(start), []
    for _ in range(world.plan.num_chunks):
        state, frames = world.step(state)
        made.append(frames)
    return np.concatenate(made)


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_without_temporal_layers_frames_are_the_stock_pipelines_bit_for_bit(
    kind: str, num_frames: int, tmp_path: Path
) -> None:
    folder = write_tiny_text(tmp_path / "model", kind, stages=False)
    model = TextModel.from_pretrained(folder, key_frames=num_frames)
    model.video_unet.temporal.set_alpha(1.0)
    height, width = model.start_hw
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "image", safety_checker=None)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(num_frames, 4, height // 2, width // 2, generator=torch_generator(*KEY))
    theirs = pipeline(
        PROMPTS.prompts[0], negative_prompt=PROMPTS.negative_prompt, height=height, width=width, guidance_scale=3.0,
        num_inference_steps=2, num_images_per_prompt=num_frames, latents=noise, output_type="latent",
    ).images  # fmt: skip
    ours = key_frames(model)
    assert torch.equal(ours, theirs)
    pictures = pipeline.image_processor.postprocess(
        pipeline.vae.decode(theirs[:1] / pipeline.vae.config.scaling_factor).sample.detach(), output_type="np"
    )
    assert np.array_equal(decode(model.parts.image.vae, ours[:1]), (pictures * 255).round().astype(np.uint8))


def test_without_temporal_layers_upscaled_latents_are_the_stock_pipelines(model: TextModel, folder: Path) -> None:
    image = TextModel.from_pretrained(folder, stages=TextStagesConfig(upsampling=Upsampling.IMAGE))
    upscaling = image.finishing.upsampling
    low = torch.rand(1, 3, *SIZE_HW, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = upscaling.make(low, first_frame=0, key=KEY, conditions=PROMPTS)
    pipeline = StableDiffusionUpscalePipeline.from_pretrained(folder / "upscaler")
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch_generator(*KEY, "upsample", 0)
    theirs = pipeline(
        PROMPTS.prompts[0], negative_prompt=PROMPTS.negative_prompt, image=low, noise_level=30, guidance_scale=3.0,
        num_inference_steps=2, generator=generator, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_video_has_every_frame_at_four_times_the_size(model: TextModel) -> None:
    frames = frames_of(model)
    assert (model.fps, model.size_hw) == (4.0, (64, 128))
    assert frames.shape == (9, 64, 128, 3)
    assert len({frame.tobytes() for frame in frames}) == 9


def test_the_prompt_the_negative_prompt_and_the_seed_change_the_video(model: TextModel) -> None:
    keys = key_frames(model)
    assert torch.equal(keys, key_frames(model))
    for other in (Prompts(prompts=["a road"], negative_prompt="day"), Prompts(prompts=PROMPTS.prompts)):
        assert not torch.equal(keys, key_frames(model, other))


def test_temporal_layers_are_told_the_prompt(model: TextModel) -> None:
    temporal = model.telling.temporal
    keys = key_frames(model)
    model.telling.temporal = type(temporal)(lambda prompts: 0 * temporal.encode(prompts))
    try:
        assert not torch.equal(keys, key_frames(model))
    finally:
        model.telling.temporal = temporal


def test_prompts_over_time_are_each_frames_own(model: TextModel) -> None:
    two = Prompts(prompts=["a car", "night"])
    moments = [[0.0, 1.0, 2.0]]
    told = model.telling.told(two, moments, model.duration_s, 1.0)
    first, last = (model.telling.spatial.encode([prompt])[0] for prompt in two.prompts)
    assert torch.equal(told.spatial_BFLD[0, 0], first) and torch.equal(told.spatial_BFLD[0, 2], last)
    torch.testing.assert_close(told.spatial_BFLD[0, 1], (first + last) / 2)
    torch.testing.assert_close(told.temporal_BLD[0], (first + last) / 2)
    late = Prompts(prompts=["a car", "night"], times_s=[0.0, 0.5])
    assert torch.equal(model.telling.told(late, moments, 2.0, 1.0).spatial_BFLD[0, 1], last)


def test_more_key_frames_and_other_sizes_are_made_convolutionally(folder: Path) -> None:
    model = TextModel.from_pretrained(folder, key_frames=7, size_hw=[24, 40])
    frames = frames_of(model)
    assert frames.shape == (25, 96, 160, 3)


def test_a_start_frame_opens_the_video_and_the_others_go_with_it(model: TextModel) -> None:
    picture = np.full((1, *SIZE_HW, 3), 200, np.uint8)
    given = model.encode(picture)
    keys = key_frames(model, given=given)
    assert torch.equal(keys[0], given[0])
    assert len(keys) == KEY_FRAMES
    other = key_frames(model, given=model.encode(picture // 4))
    assert not torch.equal(keys[1:], other[1:]), "the other frames do not see the start frame"
    assert frames_of(model, start=given[0]).shape[0] == 9


@pytest.mark.parametrize(("weight", "whole_calls"), [(0.0, 1), (0.5, 2)])
def test_how_strongly_a_start_frame_leads_can_be_said(folder: Path, weight: float, whole_calls: int) -> None:
    how = {"key_frames": KeyFrameOverrides(start_weight=weight, deep_every=2)}
    model, own = TextModel.from_pretrained(folder, samplings=how), TextModel.from_pretrained(folder)
    given = own.encode(np.full((1, *SIZE_HW, 3), 200, np.uint8))
    calls: list[bool] = []
    mid = model.video_unet.backbone.mid_block.resnets[0]
    mid.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    keys, led = key_frames(model, given=given), key_frames(own, given=given)
    assert torch.equal(keys[0], given[0])
    assert not torch.equal(keys[1:], led[1:])
    assert calls == [weight > 0] * (2 * whole_calls if weight else whole_calls)  # in a backward pass layers run again
    assert model.fingerprint != own.fingerprint


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_start_frame_opens_a_video_in_16_bits_too(folder: Path, weight: float) -> None:
    how = {"key_frames": KeyFrameOverrides(start_weight=weight)}
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        model = TextModel.from_pretrained(folder, samplings=how, dtype=dtype)
        made.append(key_frames(model, given=model.encode(np.full((1, *SIZE_HW, 3), 200, np.uint8))))
    assert made[1].dtype is torch.bfloat16
    assert (made[0] - made[1].float()).square().mean() < 0.01 * made[0].square().mean()


@pytest.mark.parametrize("pieces", [[9], [1] * 9, [4, 0, 5]])
def test_upscaled_videos_have_the_same_bytes_whatever_pieces_they_come_in(model: TextModel, pieces: list[int]) -> None:
    low = torch.rand(9, 3, *SIZE_HW, generator=torch.Generator().manual_seed(0)) * 2 - 1
    upscaling = model.finishing.upsampling
    assert upscaling is not None and upscaling.portion == PORTION and upscaling.overlap == 2
    pending, frames = {}, []
    parts = low.split(pieces)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        pending, made = upsample_next(upscaling, pending, part, key=KEY, is_last=last, conditions=PROMPTS)
        frames.append(made)
    _, whole = upsample_next(upscaling, {}, low, key=KEY, is_last=True, conditions=PROMPTS)
    assert np.array_equal(np.concatenate(frames), whole)


def test_a_listener_hears_of_every_step_and_sees_what_is_made(folder: Path) -> None:
    model = TextModel.from_pretrained(folder)
    heard = []
    model.on_step = heard.append
    frames_of(model)
    assert [(s.stage, s.step, s.num_steps) for s in heard[:2]] == [("key frames", 1, 2), ("key frames", 2, 2)]
    assert {s.stage for s in heard} == {"key frames", "frames between key frames", "upscaling"}
    assert heard[0].preview().shape == (KEY_FRAMES, SIZE_HW[0] // 2, SIZE_HW[1] // 2, 3)
    decoded = decode(model.parts.image.vae, heard[1].latents[0]).mean(axis=(1, 2))
    assert np.abs(heard[1].preview().mean(axis=(1, 2)) - decoded).max() < 40


def test_reused_deep_features_cost_less_and_give_nearly_the_same(folder: Path) -> None:
    many = {"key_frames": TextOverrides(steps=8)}
    reused = {"key_frames": TextOverrides(steps=8, deep_every=2)}
    whole = TextModel.from_pretrained(folder, samplings=many)
    cheap = TextModel.from_pretrained(folder, samplings=reused)
    calls = [0]
    mid = cheap.video_unet.backbone.mid_block
    mid.resnets[0].register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    made, wanted = key_frames(cheap), key_frames(whole)
    assert calls == [4]
    assert not torch.equal(made, wanted)
    assert (made - wanted).square().mean() < 0.05 * wanted.square().mean()
    assert cheap.fingerprint != whole.fingerprint


def test_a_checkpoint_may_be_given_as_the_model_folder_that_holds_it(folder: Path, tmp_path: Path) -> None:
    save_text_to_image(tiny_text_to_image("v1", seed=9), tmp_path / "copied" / "image")
    for name, index in ("copied", {}), ("named", {"image": str(tmp_path / "copied" / "image")}):
        write_index(tmp_path / name, {"family": "text", "name": name, "samplings": {}} | index)
    plain, copied, named = (
        key_frames(TextModel.from_pretrained(folder, sources=Sources(image=str(source), base_text=str(source))))
        for source in (tmp_path / "copied" / "image", tmp_path / "copied", tmp_path / "named")
    )
    assert torch.equal(copied, plain)
    assert torch.equal(named, plain)


@pytest.mark.parametrize("kind", ["the U-Net alone", "a single file"])
def test_what_a_checkpoint_lacks_is_taken_from_the_models_own(
    kind: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    tuned = tiny_text_to_image("v1", seed=9)
    if kind == "a single file":
        source, checkpoint = write_original(tuned, tmp_path / "tuned.safetensors"), tuned
    else:
        source, checkpoint = tmp_path / "tuned", replace(tiny_text_to_image("v1", seed=1), unet=tuned.unet)
        tuned.unet.save_pretrained(source / "unet")
    save_text_to_image(checkpoint, tmp_path / "whole")
    made, whole = (
        key_frames(TextModel.from_pretrained(folder, sources=Sources(image=str(path))))
        for path in (source, tmp_path / "whole")
    )
    assert torch.equal(made, whole)
    alone = "holds no tokenizer, text_encoder, vae, scheduler"
    assert (alone if kind == "the U-Net alone" else "configs, tokenizer and scheduler of") in caplog.text
    command = compose("plan", ["rollout", "family=text", f"model={folder}", f"image={source}"])
    assert blank_text_model(command).parts.image.unet.config.in_channels == 4


def test_a_prompt_that_would_not_be_reached_is_refused(folder: Path) -> None:
    for times in ([0.0, 2.0], [0.0, 2.1]):
        prompts = Prompts(prompts=["a car", "night"], times_s=times)
        with nullcontext() if times[-1] == 2.0 else pytest.raises(ValueError, match="last key frame .* is at 2 s"):
            TextModel.from_pretrained(folder, prompts=prompts)


def test_the_run_folder_of_a_training_stands_for_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    save_text_to_image(tiny_text_to_image("v1", seed=9), tmp_path / "run" / "model")
    claim_folder(tmp_path / "run", {"stage": "dreambooth", "max_steps": 1})
    made, wanted = (
        key_frames(TextModel.from_pretrained(folder, sources=Sources(image=str(path))))
        for path in (tmp_path / "run", tmp_path / "run" / "model")
    )
    assert torch.equal(made, wanted)


def test_a_single_file_that_does_not_say_its_target_is_refused_whatever_the_model_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = write_tiny_text(tmp_path / "model", "v2", stages=False)
    file = write_original(tiny_text_to_image("v2", seed=9), tmp_path / "tuned.safetensors")
    with pytest.raises(ValueError, match="does not say whether its target is e or v"):
        TextModel.from_pretrained(model, sources=Sources(image=str(file)))


def test_a_folder_without_a_unet_takes_no_place(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="part 'unet' is missing"):
        TextModel.from_pretrained(folder, sources=Sources(image=str(tmp_path)))


def test_a_personal_subject_is_known_to_the_image_model_alone(folder: Path, tmp_path: Path) -> None:
    save_text_to_image(tiny_text_to_image("v1", seed=9), tmp_path / "sks")
    personal = TextModel.from_pretrained(folder, sources=Sources(image=str(tmp_path / "sks")))
    own = TextModel.from_pretrained(folder)
    prompts = Prompts(prompts=["a photo of sks car"], subject="sks")
    told = personal.telling.told(prompts, [[0.0]], 2.0, 1.0)
    assert torch.equal(told.temporal_BLD[0], own.telling.temporal.encode(["a photo of car"])[0])
    assert torch.equal(told.spatial_BFLD[0, 0], personal.telling.spatial.encode(["a photo of sks car"])[0])
    assert not torch.equal(told.spatial_BFLD[0, 0], own.telling.spatial.encode(["a photo of sks car"])[0])
    assert personal.fingerprint != own.fingerprint
    assert torch.isfinite(key_frames(personal, prompts)).all()


def test_a_personal_image_model_leaves_the_frames_between_key_frames_as_they_were_trained(
    folder: Path, model: TextModel, tmp_path: Path
) -> None:
    personal = tmp_path / "personal"
    shutil.copytree(folder / "image", personal)
    config = json.loads((personal / "scheduler" / "scheduler_config.json").read_text())
    target = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[config["prediction_type"]]
    (personal / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"prediction_type": target}))
    other = TextModel.from_pretrained(folder, sources=Sources(image=str(personal)))
    ends = torch.randn(1, 2, *model.latent_shape, generator=torch_generator(1))
    made = [
        which.interpolate(ends, 0, generators=[torch_generator(*KEY)], conditions=[PROMPTS], starts_s=[0.0])
        for which in (model, other)
    ]
    assert torch.equal(*made)
    assert not torch.equal(key_frames(model), key_frames(other)), "key frames have the personal model's target"
