"""Original single files of Stable Diffusion, written here by the inverse renaming and loaded back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drivesim.models.text_to_image import load_text_to_image
from tests.models.original_layout import write_original
from tests.models.test_text_to_image import assert_equal_weights, changed_config, weights_of
from tests.models.tiny_stable_diffusion import KINDS, tiny_text_to_image


def without_weights(folder: Path, to: Path) -> Path:
    """Configs, tokenizer and schedulers alone."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    return to


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_gives_the_weights_that_it_was_written_from(
    kind: str, tmp_path: Path, folders: dict[str, Path]
) -> None:
    expected = tiny_text_to_image(kind, seed=3)
    path = write_original(expected, tmp_path / "model.safetensors", with_ema=True)
    without_weights(folders[kind], tmp_path / "model")  # beside the file, by its name
    made = load_text_to_image(path)
    assert_equal_weights(made, expected)
    assert made.scheduler.config.prediction_type == expected.scheduler.config.prediction_type
    assert made.is_upscaler == (kind == "upscaler")
    path.unlink()  # weights are copies, not views of the file
    assert_equal_weights(made, expected)


def test_the_authors_config_beside_the_file_says_whether_the_target_is_e_or_v(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    path = write_original(tiny_text_to_image("v2"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not say whether its target is e or v.* model.yaml"):
        load_text_to_image(path)
    config = tmp_path / "model.yaml"
    for stated, target in (("", "epsilon"), ('parameterization: "v"', "v_prediction")):
        config.write_text(f"model:\n  params:\n    linear_start: 0.00085\n    {stated}\n")
        assert load_text_to_image(path, base=folders["v2"]).scheduler.config.prediction_type == target
    config.write_text("model: {params: {parameterization: x0}}")
    with pytest.raises(ValueError, match=r"parameterization is needed, one of \['eps', 'v'\]"):
        load_text_to_image(path, base=folders["v2"])


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("unet", "cross_attention_dim", 40), ("vae", "latent_channels", 6), ("text_encoder", "hidden_size", 48)],
)
def test_a_file_that_does_not_fit_the_configs_is_refused_before_weights_are_read(
    part: str, key: str, value: int, tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_original(tiny_text_to_image("v1"), tmp_path / "model.safetensors")
    base = without_weights(folders["v1"], tmp_path / "model")
    changed_config(base / part / "config.json", **{key: value})
    monkeypatch.delattr("drivesim.models.original_checkpoint.read_tensors")
    with pytest.raises(ValueError, match=f"model.safetensors: part '{part}': weights and config do not belong") as told:
        load_text_to_image(path)
    assert len(str(told.value).splitlines()) == 1


def test_without_configs_a_file_says_what_to_lay_beside_it_and_takes_them_from_the_hubs_cache(
    tmp_path: Path, folders: dict[str, Path], hub_cache: Path
) -> None:
    path = write_original(tiny_text_to_image("v1"), tmp_path / "mine.safetensors")
    with pytest.raises(FileNotFoundError, match="beside it as mine. stable-diffusion-v1-5/") as told:
        load_text_to_image(path)
    assert len(str(told.value).splitlines()) == 1
    stored = hub_cache / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    without_weights(folders["v1"], stored / "snapshots" / ("0" * 40))
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0" * 40)
    assert_equal_weights(load_text_to_image(path), tiny_text_to_image("v1"))


def test_other_files_are_refused_saying_what_was_found(tmp_path: Path, folders: dict[str, Path]) -> None:
    unet = folders["v1"] / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match=r"no tensors model.diffusion_model.\* of the U-Net; found \d+, the first is "):
        load_text_to_image(unet, base=folders["v1"])
    path = write_original(tiny_text_to_image("v1"), tmp_path / "model.safetensors")
    weights = weights_of(path)
    save_file(
        {name: t for name, t in weights.items() if not name.startswith("first_stage")}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match="of the autoencoder"):
        load_text_to_image(tmp_path / "a.safetensors", base=folders["v1"])
    torch.save(weights, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"b.ckpt is a pickle: only safetensors .* convert it once"):
        load_text_to_image(tmp_path / "b.ckpt", base=folders["v1"])
    (tmp_path / "c.safetensors").write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="c.safetensors is truncated"):
        load_text_to_image(tmp_path / "c.safetensors", base=folders["v1"])
