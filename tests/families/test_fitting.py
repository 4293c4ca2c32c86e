"""Parts and facts that do not belong together are refused in one line, before any weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from drivesim.families.driving import DrivingModel
from drivesim.families.folder import fingerprint, load_parts, save_parts
from drivesim.models.upsampler import SCALE_KEY
from tests.families.tiny_cascade import write_tiny_cascade


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cascade(tmp_path_factory.mktemp("cascade") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A model whose weights cannot be read."""
    copied = Path(shutil.copytree(whole, tmp_path / "model"))
    for weights in copied.rglob("*.safetensors"):
        weights.write_bytes(b"never read")
    return copied


def change(path: Path, changed: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as error:
        DrivingModel.from_pretrained(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("size_hw", "nearest"), [([33, 64], [32, 64]), ([32, 70], [32, 72]), ([3, 64], [8, 64])])
def test_a_size_that_latents_do_not_divide_is_refused_with_the_nearest(
    folder: Path, size_hw: list[int], nearest: list[int]
) -> None:
    change(folder / "model_index.json", {"size_hw": size_hw})
    message = refusal(folder)
    assert f"size_hw={size_hw} of the model index does not divide by the autoencoder's 8 pixels a latent" in message
    assert f"the nearest is {nearest}" in message


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("temporal", {"layers_per_block": [2, 2]}, "layers of the levels (temporal, backbone): [2, 2] and [1, 1]"),
        (
            "temporal",
            {"attention_blocks": [True, True]},
            "levels with attention (temporal, backbone): [True, True] and [False, True]",
        ),
        (
            "interpolation",
            {"transformer_layers": [1, 2]},
            "transformer layers of the levels (interpolation, backbone): [1, 2] and [1, 1]",
        ),
        ("interpolation", {"time_embed_dim": 32}, "width of the time embedding (interpolation, backbone): 32 and 64"),
        ("temporal", {"cross_attention_dim": 8}, "width of a token (temporal, prediction has none): 8 and None"),
        (
            "upsampler_temporal",
            {"layers_per_block": [2, 1]},
            "layers of the levels (upsampler_temporal, upsampler): [2, 1] and [1, 1]",
        ),
        ("video_decoder", {"layers_per_block": 2}, "layers of the levels (autoencoder, video_decoder): 1 and 2"),
    ],
)
def test_layers_of_another_network_are_refused_naming_both(
    folder: Path, part: str, changed: dict[str, Any], message: str
) -> None:
    change(folder / part / "config.json", changed)
    assert refusal(folder) == f"model 'tiny': parts do not fit together: {message}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"video_decoder": {}}, "video_decoder in model_index.json: missing keys fps"),
        ({"video_decoder": {"fps": "fast"}}, "video_decoder.fps is 'fast'; expected a number above 0"),
        ({"video_decoder": 30.0}, "video_decoder is 30.0; expected keys and values"),
        ({"rates": "fast"}, "rates is 'fast'; expected a list of frames a second"),
        ({"rates": ["fast"]}, "rates is ['fast']; expected a list of frames a second"),
        ({"rates": None}, "rates is None; expected a list of frames a second"),
        ({"rates": []}, "rates is []; expected a list of frames a second"),
        ({"fps": True}, "fps is True; expected a number above 0"),
        ({"size_hw": [32]}, "size_hw is [32]; expected [height, width] in pixels"),
        ({"num_given": "two"}, "num_given is 'two'; expected a whole number above 0"),
        ({"num_given": 0}, "num_given is 0; expected a whole number above 0"),
        ({"upsampler_temporal": {"portion": 4, "overlap": -1}}, "upsampler_temporal.overlap is -1; expected"),
        (
            {"upsampler": {"scale": "2", "patch_px": 2, "detail_gain": None, "noise_level": 20}},
            "upsampler.scale is '2'; expected a whole number above 0",
        ),
    ],
)
def test_a_malformed_index_is_refused_by_file_and_key(folder: Path, changed: dict[str, Any], message: str) -> None:
    change(folder / "model_index.json", changed)
    refused = refusal(folder)
    assert str(folder) in refused and "model_index.json" in refused and message in refused


@pytest.mark.parametrize("key", ["interpolate_sampling", "upsample_sampling"])
def test_a_stage_whose_sampling_is_not_said_is_refused(folder: Path, key: str) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({name: fact for name, fact in json.loads(path.read_text()).items() if name != key}))
    assert refusal(folder) == f"{path}: missing keys {key}"


def test_as_many_given_frames_as_a_call_makes_are_refused(folder: Path) -> None:
    change(folder / "model_index.json", {"num_given": 10})
    assert "num_given=10 of the model index, but temporal makes 10 frames a call" in refusal(folder)


def test_a_scale_that_the_upsampler_was_not_trained_for_is_refused_where_its_config_tells(
    whole: Path, folder: Path, tmp_path: Path
) -> None:
    said = {"upsampler": {"scale": 4, "patch_px": 2, "detail_gain": None, "noise_level": 20}}
    change(folder / "model_index.json", said)
    wanted = "model 'tiny': parts do not fit together: upsampler: scale=4, but its U-Net was trained for a scale of 2"
    assert refusal(folder) == wanted
    older = Path(shutil.copytree(whole, tmp_path / "older"))
    path = older / "upsampler" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != SCALE_KEY}))
    change(older / "model_index.json", said)
    assert DrivingModel.from_pretrained(older).size_hw == (128, 256)


def test_the_scale_of_an_upsampler_is_kept_without_a_word(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    save_parts(tmp_path, load_parts(whole, ["upsampler"]))
    assert fingerprint(tmp_path, ["upsampler"]) == fingerprint(whole, ["upsampler"])
    assert json.loads((tmp_path / "upsampler" / "config.json").read_text())[SCALE_KEY] == 2
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_an_autoencoder_of_another_latent_scale_is_refused_naming_both(whole: Path, folder: Path) -> None:
    index = folder / "model_index.json"
    change(index, {"latent_scale": [0.0, 1.00005]})  # rounding
    shutil.copytree(whole, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.json"))
    known = DrivingModel.from_pretrained(folder)
    assert known.fingerprint == DrivingModel.from_pretrained(whole).fingerprint, "it makes the same frames"
    for part in ("autoencoder", "video_decoder"):
        change(folder / part / "config.json", {"scaling_factor": 0.18215})
    assert refusal(folder) == (
        "model 'tiny': parts do not fit together: shift and scale of latents (autoencoder, latent_scale of the model "
        "index, which its networks were trained on): [0.0, 0.18215] and [0.0, 1.00005]"
    )
    change(index, {"latent_scale": [-0.06, 0.18215]})
    assert "[0.0, 0.18215] and [-0.06, 0.18215]" in refusal(folder)
    change(index, {"latent_scale": [0.0]})
    assert "latent_scale is [0.0]; expected [shift, scale]" in refusal(folder)
    facts = json.loads(index.read_text())
    index.write_text(json.dumps({key: fact for key, fact in facts.items() if key != "latent_scale"}))
    DrivingModel.from_pretrained(folder)  # an older model is taken as it is
