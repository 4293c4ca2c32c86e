"""What a training would leave is judged before it begins: parts and facts of a whole model that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from drivesim.data.source import ClipSource
from drivesim.families.folder import load_parts, save_parts
from drivesim.models.build import InterpolationConfig, TemporalConfig
from drivesim.models.upsampler import SCALE_KEY, UpsamplerConfig, UpsamplerTemporalConfig
from drivesim.models.video_decoder import VideoDecoderConfig
from drivesim.train.config import StageName, TrainConfig
from drivesim.train.fit import fit
from drivesim.train.initial_parts import initial_parts, judge_parts
from tests.families.tiny_cascade import write_tiny_cascade


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cascade(tmp_path_factory.mktemp("cascade") / "model")


def config(stage: StageName, init: Path, **other: Any) -> TrainConfig:
    own: dict[str, Any] = {
        "fps": 1.0,
        "temporal": TemporalConfig(num_frames=6, context_channels=8, feed_forward_mult=1),
        "interpolation": InterpolationConfig(
            num_frames=3, rates=[2.0], label_dim=8, context_channels=8, feed_forward_mult=1
        ),
        "video_decoder": VideoDecoderConfig(levels=[False, False, False, False, True], fps=2.0),
        "upsampler": UpsamplerConfig(scale=2, patch_px=2, block_out_channels=[8, 8], attention=[False, True]),
        "upsampler_temporal": UpsamplerTemporalConfig(num_frames=4, overlap=1),
    }
    return TrainConfig(stage=stage, name="next", init=str(init), size_hw=[32, 64], **own | other)


def refusal(settings: TrainConfig, out: Path) -> str:
    with pytest.raises(ValueError) as error:
        fit(settings, cast(ClipSource, None), out)
    assert not out.exists()
    return str(error.value)


@pytest.mark.parametrize(
    "stage", [StageName.PREDICTION, StageName.INTERPOLATION, StageName.VIDEO_DECODER, StageName.UPSAMPLER]
)
def test_a_stage_of_a_model_that_fits_may_be_trained_anew(stage: StageName, whole: Path) -> None:
    judge_parts(config(stage, whole))


@pytest.mark.parametrize(
    ("stage", "changed", "message"),
    [
        (StageName.PREDICTION, {"fps": 2.0}, "rates (model index, fps and frames of a call): [2.0] and [4.0]"),
        (
            StageName.INTERPOLATION,
            {"fps": 2.0, "interpolation": InterpolationConfig(num_frames=3, rates=[4.0], label_dim=8)},
            "rates (model index, fps and frames of a call): [4.0] and [2.0]",
        ),
        (
            StageName.INTERPOLATION,
            {"interpolation": InterpolationConfig(num_frames=5, rates=[4.0], label_dim=8)},
            "frames a second (rates or fps of the model index, video_decoder): 4.0 and 2.0",
        ),
        (
            StageName.VIDEO_DECODER,
            {"video_decoder": VideoDecoderConfig(levels=[False, False, False, False, True], fps=30.0)},
            "frames a second (rates or fps of the model index, video_decoder): 2.0 and 30.0",
        ),
    ],
)
def test_a_stage_that_the_others_do_not_fit_is_refused_before_it_begins(
    stage: StageName, changed: dict[str, Any], message: str, whole: Path, tmp_path: Path
) -> None:
    expected = f"model 'next': parts do not fit together: {message}"
    assert refusal(config(stage, whole, **changed), tmp_path / "run") == expected


def test_a_stage_joined_to_models_that_it_does_not_fit_is_refused(whole: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    for part in ("autoencoder", "backbone", "conditioner", "scheduler"):
        shutil.copytree(whole / part, image / part)
    judge_parts(config(StageName.VIDEO_DECODER, image, joins=[str(whole)]))
    slow = VideoDecoderConfig(levels=[False, False, False, False, True], fps=1.0)
    judge_parts(config(StageName.VIDEO_DECODER, image, video_decoder=slow))  # the others are yet to come
    joined = config(StageName.VIDEO_DECODER, image, video_decoder=slow, joins=[str(whole)])
    assert "(rates or fps of the model index, video_decoder): 2.0 and 1.0" in refusal(joined, tmp_path / "run")


def test_layers_over_time_for_another_scale_of_the_upsampler_are_refused(whole: Path, tmp_path: Path) -> None:
    other = config(
        StageName.UPSAMPLER,
        whole,
        upsampler=UpsamplerConfig(scale=4, patch_px=2, block_out_channels=[8, 8], attention=[False, True]),
    )
    assert refusal(other, tmp_path / "run") == "upsampler: scale=4, but its U-Net was trained for a scale of 2"
    older = Path(shutil.copytree(whole, tmp_path / "older"))
    path = older / "upsampler" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != SCALE_KEY}))
    other.init = str(older)
    assert "upsampler.scale=4, but the upsampler that it trains on has 2" in refusal(other, tmp_path / "run")


def test_an_autoencoder_of_other_latents_than_the_model_says_is_refused(whole: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(whole, tmp_path / "other"))
    index = json.loads((other / "model_index.json").read_text()) | {"latent_scale": [0.0, 0.5]}
    (other / "model_index.json").write_text(json.dumps(index))
    assert "[0.0, 1.0] and [0.0, 0.5]" in refusal(config(StageName.INTERPOLATION, other), tmp_path / "run")


def test_layers_go_on_from_frame_positions_that_are_numbers(whole: Path, tmp_path: Path) -> None:
    """As models ship (`position_tables`)."""
    parts = load_parts(whole)
    exported = parts["temporal"].with_position_table()
    folder = tmp_path / "exported"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "temporal")
    save_parts(folder, {"temporal": exported})
    same = TemporalConfig(num_frames=exported.config.num_frames, context_channels=8, feed_forward_mult=1)
    settings = config(StageName.PREDICTION, whole, warm_start=str(folder), temporal=same)
    judge_parts(settings)
    warm = initial_parts(settings)["temporal"]
    tables = [name for name, _ in warm.named_parameters() if name.endswith("position_table")]
    assert tables and all(warm.get_parameter(name).requires_grad for name in tables)
    for name, weight in exported.state_dict().items():
        assert torch.equal(weight, warm.state_dict()[name]), name
    again = warm.with_position_table()
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in warm.state_dict().items())

    other = TemporalConfig(num_frames=5, context_channels=8, feed_forward_mult=1)
    with pytest.raises(ValueError, match="warm_start=.*part 'temporal' does not fit.*of another size"):
        initial_parts(config(StageName.PREDICTION, whole, warm_start=str(folder), temporal=other))
