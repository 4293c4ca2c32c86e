"""Public text-to-image checkpoints in the formats that they come in, made here at tiny size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from drivesim.conditioning.text import TextConditioner
from drivesim.diffusion.schedule import make_sampler
from drivesim.diffusion.settings import Sampler, SamplingConfig
from drivesim.models.autoencoder import decode_pictures
from drivesim.models.temporal_stack import TemporalStack
from drivesim.models.text_to_image import TextToImage, load_text_to_image
from drivesim.models.video_unet import VideoUNet
from tests.models.test_video_unet import with_random_weights
from tests.models.tiny_stable_diffusion import KINDS, WIDTH, tiny_text_to_image

NETWORKS = ("unet", "vae", "text_encoder")


def weights_of(path: Path) -> dict[str, Tensor]:
    """Copies, so that the file may be written over."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def assert_equal_weights(made: TextToImage, expected: TextToImage, parts: tuple[str, ...] = NETWORKS) -> None:
    for part in parts:
        found, wanted = getattr(made, part).state_dict(), getattr(expected, part).state_dict()
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), f"{part}: {name}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_diffusers_folder_gives_back_its_parts(kind: str, folders: dict[str, Path]) -> None:
    made, expected = load_text_to_image(folders[kind]), tiny_text_to_image(kind)
    assert_equal_weights(made, expected)
    assert type(made.scheduler) is type(expected.scheduler)
    assert made.scheduler.config.prediction_type == ("epsilon" if kind == "v1" else "v_prediction")
    assert made.is_upscaler == (kind == "upscaler")
    assert not made.unet.training and not any(p.is_meta for p in made.unet.parameters())
    assert made.tokenizer("night car").input_ids == expected.tokenizer("night car").input_ids


def test_diffusers_own_pipeline_loads_what_is_saved(folders: dict[str, Path]) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folders["v1"], local_files_only=True)
    expected = tiny_text_to_image("v1")
    for name, tensor in expected.text_encoder.state_dict().items():
        assert torch.equal(pipeline.text_encoder.state_dict()[name], tensor)
    assert torch.equal(pipeline.unet.conv_in.weight, expected.unet.conv_in.weight)


@torch.no_grad()
def sampled(parts: TextToImage, alpha: float, noise_TCHW: Tensor, prompts: tuple[str, str], steps: int) -> Tensor:
    """Latents by the paper's network, guided as the stock pipeline guides."""
    tokens = TextConditioner(parts.tokenizer, parts.text_encoder)(prompts)
    stack = TemporalStack.for_backbone(
        parts.unet, num_frames=8, per_frame_alpha=False, cross_attention_dim=parts.unet.config.cross_attention_dim
    )
    network = VideoUNet(parts.unet, with_random_weights(stack)).eval()
    stack.set_alpha(alpha)
    scheduler = type(parts.scheduler).from_config(parts.scheduler.config)
    scheduler.set_timesteps(steps)
    latents = noise_TCHW * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        shown = scheduler.scale_model_input(torch.stack([latents, latents]), step)
        made = network(shown, step.expand(2), tokens, temporal_tokens_BLC=tokens)
        guided = made[0] + 7.5 * (made[1] - made[0])
        latents = scheduler.step(guided, step, latents).prev_sample
    return latents


@pytest.mark.parametrize("num_frames", [1, 3])
@pytest.mark.parametrize("kind", ["v1", "v2"])
@torch.no_grad()
def test_alpha_one_gives_the_stock_pipelines_images_bit_for_bit(
    kind: str, num_frames: int, folders: dict[str, Path]
) -> None:
    parts = load_text_to_image(folders[kind])
    noise, prompts = torch.randn(num_frames, 4, 8, 16), ("snow", "a car at night")
    pipeline = StableDiffusionPipeline(
        **{name: getattr(parts, name) for name in (*NETWORKS, "tokenizer", "scheduler")},
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)

    def stock(output: str) -> Any:
        return pipeline(
            prompts[1], 16, 32, 3, negative_prompt=prompts[0], guidance_scale=7.5, num_images_per_prompt=num_frames,
            latents=noise.clone(), output_type=output,
        ).images  # fmt: skip

    expected = stock("latent")
    made = sampled(parts, 1.0, noise, prompts, steps=3)
    assert torch.equal(made, expected)
    assert not torch.equal(sampled(parts, 0.5, noise, prompts, steps=3), expected)
    if num_frames == 1:  # the pipeline decodes all pictures at once, which rounds otherwise
        assert torch.equal((decode_pictures(parts.vae, made) / 2 + 0.5).clamp(0, 1), stock("pt"))


@torch.no_grad()
def test_alpha_one_gives_the_x4_upscalers_own_prediction_bit_for_bit(folders: dict[str, Path]) -> None:
    unet = load_text_to_image(folders["upscaler"]).unet
    stack = TemporalStack.for_backbone(
        unet, num_frames=8, per_frame_alpha=False, cross_attention_dim=WIDTH["upscaler"], context_in_channels=3,
        context_shortcut=True,
    )  # fmt: skip
    network = VideoUNet(unet, with_random_weights(stack)).eval()
    noisy, low, tokens = torch.randn(2, 3, 4, 8, 16), torch.randn(2, 3, 3, 8, 16), torch.randn(2, 5, WIDTH["upscaler"])
    step, level, sample = torch.tensor([9, 700]), torch.tensor([20, 200]), torch.cat([noisy, low], dim=2)
    expected = unet(
        sample.flatten(0, 1), step.repeat_interleave(3), tokens.repeat_interleave(3, 0),
        class_labels=level.repeat_interleave(3),
    ).sample.unflatten(0, (2, 3))  # fmt: skip
    more = {"context_BTCHW": low, "temporal_tokens_BLC": tokens, "noise_level_B": level}
    assert not torch.equal(network(sample, step, tokens, **more), expected)
    stack.set_alpha(1.0)
    assert torch.equal(network(sample, step, tokens, **more), expected)


def test_weights_are_loaded_in_the_wanted_precision_and_half_precision_files_are_found(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(folders["v1"], folder)
    for part in NETWORKS:
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        path = folder / part / f"{stem}.safetensors"
        save_file({name: t.half() for name, t in weights_of(path).items()}, path.with_suffix(".fp16.safetensors"))
        path.unlink()
    made = load_text_to_image(folder, dtype=torch.bfloat16)
    for part in NETWORKS:
        assert {p.dtype for p in getattr(made, part).parameters()} == {torch.bfloat16}


def test_a_dreambooth_checkpoint_without_all_parts_takes_the_others_from_its_base(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    tuned = tiny_text_to_image("v1", seed=7)
    tuned.unet.save_pretrained(tmp_path / "checkpoint-800" / "unet")
    made = load_text_to_image(tmp_path / "checkpoint-800", base=folders["v1"])
    assert_equal_weights(made, tuned, ("unet",))
    assert_equal_weights(made, tiny_text_to_image("v1"), ("vae", "text_encoder"))
    with pytest.raises(ValueError, match="part 'tokenizer' is missing"):
        load_text_to_image(tmp_path / "checkpoint-800")


def test_names_of_older_files_are_understood(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = tmp_path / "old"
    shutil.copytree(folders["v1"], folder)
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    weights = weights_of(path)
    for new, before in old.items():
        weights = {name.replace(new, before): tensor for name, tensor in weights.items()}
    save_file(weights, path)
    path = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in weights_of(path).items()}
    save_file(weights | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, path)
    assert_equal_weights(load_text_to_image(folder), tiny_text_to_image("v1"))


def test_settings_that_old_checkpoints_have_wrong_are_corrected_as_the_stock_pipeline_does(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(folders["v2"], folder)
    changed_config(folder / "scheduler" / "scheduler_config.json", steps_offset=0, clip_sample=True)
    with pytest.warns(FutureWarning):
        stock = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).scheduler
    made = load_text_to_image(folder).scheduler
    for scheduler in (stock, made):
        scheduler.set_timesteps(4)
        assert (scheduler.config.steps_offset, scheduler.config.clip_sample) == (1, False)
    assert torch.equal(made.timesteps, stock.timesteps)


@pytest.mark.parametrize("scheduler_class", [PNDMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_latents_are_not_clipped_where_a_checkpoint_s_sampler_knows_no_clipping(
    scheduler_class: Any, tmp_path: Path, folders: dict[str, Path]
) -> None:
    folder = tmp_path / "personal"
    shutil.copytree(folders["v1"], folder)
    shutil.rmtree(folder / "scheduler")
    scheduler_class(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    changed_config(folder / "model_index.json", scheduler=["diffusers", scheduler_class.__name__])
    made = make_sampler(load_text_to_image(folder).scheduler, SamplingConfig(sampler=Sampler.DDIM, steps=4))
    assert (made.config.clip_sample, made.config.steps_offset) == (False, 1)


def test_a_hub_id_is_found_in_the_cache(hub_cache: Path, folders: dict[str, Path]) -> None:
    stored = hub_cache / "models--tiny--stable-diffusion"
    shutil.copytree(folders["v1"], stored / "snapshots" / ("0" * 40))
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0" * 40)
    assert_equal_weights(load_text_to_image("tiny/stable-diffusion"), tiny_text_to_image("v1"))


@pytest.mark.parametrize("name", ["tiny/stable-diffusion", "no/such/folder", "nothing"])
def test_what_cannot_be_found_says_so_and_what_to_give(name: str, hub_cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder") as told:
        load_text_to_image(name)
    assert name in str(told.value) and len(str(told.value).splitlines()) == 1


def changed_config(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def spoil(folder: Path, how: str) -> None:
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    match how:
        case "no scheduler":
            shutil.rmtree(folder / "scheduler")
        case "no weights":
            unet.unlink()
        case "pickle":
            unet.rename(unet.with_suffix(".bin"))
        case "pickle by another name":
            torch.save({"conv_in.weight": torch.zeros(3)}, unet)
        case "truncated":
            unet.write_bytes(unet.read_bytes()[:-100])
        case "another class":
            changed_config(folder / "unet" / "config.json", _class_name="UNet3DConditionModel")
        case "another size":
            changed_config(folder / "unet" / "config.json", cross_attention_dim=WIDTH["v1"] + 8)
        case "another text encoder":
            changed_config(folder / "text_encoder" / "config.json", architectures=["CLIPTextModelWithProjection"])
        case "no scheduler's class":
            changed_config(folder / "scheduler" / "scheduler_config.json", _class_name="UNet2DModel")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no scheduler", "part 'scheduler' is missing"),
        ("no weights", "part 'unet' is missing its weights: no diffusion_pytorch_model.safetensors"),
        ("pickle", "part 'unet' holds the pickle diffusion_pytorch_model.bin: only safetensors .* convert it once"),
        ("pickle by another name", "diffusion_pytorch_model.safetensors is a pickle"),
        ("truncated", "diffusion_pytorch_model.safetensors is truncated"),
        ("another class", "part 'unet' is a UNet3DConditionModel, expected UNet2DConditionModel"),
        ("another size", r"weights and config do not belong together: .* of another size, the first is .*expected \["),
        ("another text encoder", "is a CLIPTextModelWithProjection, expected CLIPTextModel"),
        ("no scheduler's class", "is a UNet2DModel, expected a scheduler of diffusers"),
    ],
)
def test_a_spoilt_folder_is_refused_in_one_line_before_weights_are_read(
    how: str, message: str, tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(folders["v1"], folder)
    spoil(folder, how)
    monkeypatch.delattr("drivesim.models.text_to_image.read_tensors")  # headers say it
    with pytest.raises(ValueError, match=message) as told:
        load_text_to_image(folder)
    assert str(folder) in str(told.value) and len(str(told.value).splitlines()) == 1


def test_parts_of_different_models_are_refused_naming_both_sizes(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["v1"], tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / "text_encoder")
    with pytest.raises(ValueError, match="hidden_size is 32, needed is 24"):
        load_text_to_image(tmp_path / "mixed", base=folders["v2"])


def test_a_folder_without_a_unet_is_no_checkpoint_whatever_the_base(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="part 'unet' is missing"):
        load_text_to_image(tmp_path, base=folders["v1"])


def test_another_pipeline_is_named_before_its_parts_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="not the architecture of Stable Diffusion .*: its pipeline is FluxPipeline"):
        load_text_to_image(tmp_path)


@pytest.mark.parametrize(("part", "file"), [("unet", "diffusion_pytorch_model"), ("text_encoder", "model")])
def test_a_weight_that_is_not_finite_is_named_with_its_file(
    folders: dict[str, Path], tmp_path: Path, part: str, file: str
) -> None:
    folder = Path(shutil.copytree(folders["v1"], tmp_path / "v1"))
    path = folder / part / f"{file}.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(("attn1.to_k.weight", "k_proj.weight")))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"{path}: 1 of .* numbers of {name} are not finite in float32"):
        load_text_to_image(folder)
