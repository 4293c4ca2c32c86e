"""What a person does wrong with text-to-video models is answered in one line, before gigabytes are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from drivesim.diffusion.settings import TextOverrides
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import save_parts
from drivesim.families.prompts import Prompts
from drivesim.families.stages import TextStagesConfig, Upsampling
from drivesim.families.text import TextModel, key_frames_for
from drivesim.families.text_sources import Sources
from drivesim.models.temporal_stack import TemporalStack
from tests.families.tiny_text import write_tiny_text
from tests.models.tiny_stable_diffusion import save_tiny, tiny_unet

NIGHT = ["night"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_text(tmp_path_factory.mktemp("text") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(folder: Path, words: list[str], **how: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        TextModel.from_pretrained(folder, **how)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts": []}, "no prompt"),
        ({"prompts": ["  "]}, "the prompt is empty"),
        ({"prompts": ["a car", ""]}, "prompt 1 is empty"),
        ({"prompts": NIGHT, "times_s": [0.0, 1.0]}, "2 times for 1 prompts"),
        ({"prompts": ["a", "b"], "times_s": [1.0, 1.0]}, "must come after"),
        ({"prompts": ["a", "b"], "times_s": [-1.0, 1.0]}, "begin with 0"),
        ({"prompts": ["sksy car"], "subject": "sks"}, "'sks' is a word of none"),
    ],
)
def test_prompts_that_say_nothing_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Prompts(**arguments)


def test_a_subject_is_taken_out_as_a_word_alone() -> None:
    prompts = Prompts(prompts=["a photo of SKS car, sks's", "masks on a car"], subject="sks")
    assert prompts.without_subject() == ["a photo of car, 's", "masks on a car"]


def test_sizes_that_do_not_divide_name_the_nearest(folder: Path) -> None:
    refused(folder, ["size_hw=[18, 32]", "divide by 4", "[16, 32]"], size_hw=[18, 32])
    refused(folder, ["key_frames=0"], key_frames=0)
    refused(folder, ["key_frames=1", "stages.interpolate=false"], key_frames=1)


def test_a_checkpoint_of_another_text_width_names_both_sides(folder: Path, tmp_path: Path) -> None:
    refused(
        folder, ["width of a text token (temporal, image's text encoder)", "24 and 32"],
        sources=Sources(image=str(save_tiny(tmp_path / "v2", "v2")), base_text=str(tmp_path / "v2")),
    )  # fmt: skip


def test_an_upscaler_is_no_image_model_and_the_other_way_round(folder: Path) -> None:
    refused(folder, ["image is an upscaler"], sources=Sources(image=str(folder / "upscaler")))
    refused(
        folder, ["4 in_channels", "7 in_channels", "low_res_scheduler"], sources=Sources(upscaler=str(folder / "image"))
    )


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight may be read."""
    for reader in ("models.text_to_image.read_tensors", "models.lora.read_tensors", "families.text_parts.load_parts"):
        monkeypatch.setattr(f"drivesim.{reader}", lambda *_, **__: pytest.fail("weights were read"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.usefixtures("unread")
def test_all_is_judged_before_any_weight_is_read(folder: Path, tmp_path: Path) -> None:
    own = "diffusion_pytorch_model.safetensors"
    for part in ("temporal", "upscaler_temporal", "interpolation_unet", "upscaler/unet", "image/vae"):
        broken = Path(shutil.copytree(folder, tmp_path / part.replace("/", "_")))
        cut(broken / part / own)
        refused(broken, [Path(part).name, "truncated"])
    pickle = tmp_path / "sd.safetensors"
    pickle.write_bytes(b"PK\x03\x04" + bytes(40))
    refused(folder, ["is a pickle", "convert it once"], sources=Sources(image=str(pickle)))
    refused(folder, ["is a pickle"], sources=Sources(base_text=str(pickle)))
    refused(folder, ["is a pickle"], sources=Sources(upscaler=str(pickle)))
    refused(folder, ["is a pickle"], sources=Sources(lora=[str(pickle)]))
    save_file({f"unet.x.lora_{name}.weight": torch.zeros(2, 2) for name in "AB"}, tmp_path / "lora.safetensors")
    refused(folder, ["not in this model"], sources=Sources(lora=[str(tmp_path / "lora.safetensors")]))
    refused(folder, ["divide by 4", "[16, 32]"], size_hw=[18, 32])
    refused(folder, ["[height, width]"], size_hw=[18])
    refused(folder, ["a prompt of 40 tokens", "takes 14"], prompts=Prompts(prompts=["night " * 40]))
    refused(folder, ["eta=0.5", "needs sampler ddim", "dpm_solver"], samplings={"upscale": TextOverrides(eta=0.5)})
    refused(
        folder, ["deep_every=2", "stages.upsample_sampler.deep_every=1"],
        samplings={"upscale": TextOverrides(deep_every=2)}, stages=TextStagesConfig(upsampling=Upsampling.IMAGE),
    )  # fmt: skip


def test_an_upscaler_for_a_model_without_one_is_refused(folder: Path) -> None:
    stages = TextStagesConfig(upsampling=Upsampling.NONE)
    refused(folder, ["upscaler=", "stages.upsampling=NONE"], sources=Sources(upscaler="x"), stages=stages)


def test_key_frames_that_do_not_fill_the_seconds_are_refused(folder: Path) -> None:
    refused(folder, ["key_frames=2", "seconds=20", "give one of the two"], key_frames=2, seconds=20.0)


def test_an_interpolation_without_nine_channels_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "interpolation_unet")
    save_parts(folder, {"interpolation_unet": tiny_unet("v1")})
    refused(folder, ["channels of the input (interpolation_unet", "4 and 9"])


def test_temporal_layers_of_another_model_are_refused(folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder / "image" / "unet")
    stack = TemporalStack.for_backbone(unet, per_frame_alpha=True, cross_attention_dim=24, num_frames=3)
    shutil.rmtree(folder / "temporal")
    save_parts(folder, {"temporal": stack})
    refused(folder, ["key_frames=5", "one alpha a frame and make 3 alone"], key_frames=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rates": [3.0, 4.0]}, ["rates (model index", "[3.0, 4.0] and [2.0, 4.0]"]),
        ({"rates": [2.0]}, ["number of rates", "1 and 2"]),
        (
            {"video_decoder": {"fps": 3.0}},
            ["frames a second (rates or fps of the model index, video_decoder)", "4.0 and 3.0"],
        ),
        ({"samplings": {"keys": {}}}, ["unknown stages keys", "key_frames, interpolate, upscale"]),
        ({"samplings": {"upscale": {"sampler": "euler"}}}, ["unknown sampler 'euler'", "dpm_solver"]),
        ({"family": "driving"}, ["missing keys"]),
        ({"family": "audio"}, ["family audio, not text"]),
    ],
)
def test_an_index_that_does_not_fit_names_both_sides(folder: Path, change: dict[str, Any], words: list[str]) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if change.get("family") == "driving":
        with pytest.raises(ValueError, match="missing keys design_sampling"):
            DrivingModel.from_pretrained(folder)
        return
    refused(folder, words)


def test_a_text_model_is_no_driving_model(folder: Path) -> None:
    with pytest.raises(ValueError, match="family text, not driving; drivesim rollout takes it with family=text"):
        DrivingModel.from_pretrained(folder)


def test_a_later_stage_without_key_frames_says_how_it_gets_them(folder: Path) -> None:
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in index.items() if key not in ("fps", "size_hw")}))
    shutil.rmtree(folder / "temporal")
    refused(folder, ["missing keys fps, size_hw", f"image={folder}", "joins=[a model that has these]"])


def test_parts_that_are_missing_are_named(folder: Path) -> None:
    shutil.rmtree(folder / "temporal")
    refused(folder, ["part 'temporal' is missing"])
    refused(folder, ["no such folder or file"], sources=Sources(image="nowhere at all"))


def test_a_prompt_that_is_too_long_says_what_of_it_fits(folder: Path) -> None:
    model = TextModel.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"a prompt of 40 tokens; the text encoder takes 14"):
        model.facts(Prompts(prompts=["night " * 40]))
    with pytest.raises(ValueError, match="needs a prompt"):
        model.facts(None)


def test_seconds_ask_for_as_many_key_frames_as_they_need() -> None:
    index = {"fps": 1.875, "rates": [7.5, 30.0]}
    assert [key_frames_for(index, seconds) for seconds in (0.1, 113 / 30, 114 / 30, 60.0)] == [2, 8, 9, 114]
    assert key_frames_for({"fps": 2.0}, 0.5) == 1


def test_a_negative_prompt_that_is_too_long_is_called_so(folder: Path) -> None:
    with pytest.raises(ValueError, match="a negative prompt of 40 tokens"):
        TextModel.from_pretrained(folder).facts(Prompts(prompts=["night"], negative_prompt="night " * 40))


def test_a_checkpoint_in_place_of_a_model_is_told_where_it_belongs(folder: Path) -> None:
    refused(folder / "image", ["text-to-image checkpoint (StableDiffusionPipeline)", "takes it as image="])
