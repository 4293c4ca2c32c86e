"""Frames decoded in pieces: the same pictures, told apart in a run's folder; and what else a run may do for memory."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.families.driving import DrivingModel
from drivesim.families.memory import MemoryConfig
from drivesim.families.stages import StagesConfig, TextStagesConfig, Upsampling
from drivesim.families.text import VIDEO_TILE, TextModel
from drivesim.models import video_decoding
from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.start import Start
from tests.families.tiny_cascade import write_tiny_cascade
from tests.families.tiny_text import write_tiny_text

KEY = (0, "street", 0)
SMALL = StagesConfig(upsampling=Upsampling.NONE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cascade(tmp_path_factory.mktemp("cascade") / "model")


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_text(tmp_path_factory.mktemp("text") / "model")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, int]]]:
    """Frames and grids of pieces that video decoders are asked for."""
    decode, seen = video_decoding.decode_clip, []

    def noted(decoder: object, latents: torch.Tensor, first: int, last: int, *, tiles: tuple[int, int]) -> torch.Tensor:
        seen.append((last - first, tiles))
        return decode(decoder, latents, first, last, tiles=tiles)  # type: ignore[arg-type]

    monkeypatch.setattr(video_decoding, "decode_clip", noted)
    return seen


@pytest.mark.parametrize("memory", [MemoryConfig(tile=1), MemoryConfig(tile=5, chunk=2)], ids=["tile", "both"])
def test_the_shipped_model_makes_the_same_pictures_in_pieces(memory: MemoryConfig) -> None:
    latents, made = torch.randn(5, 8, 8, 16, generator=torch.Generator().manual_seed(0)), []
    for how in (None, memory):
        model = DrivingModel.from_pretrained("toytown", stages=SMALL, memory=how)
        made.append(model.finish({}, latents, key=KEY, is_last=True)[1].astype(int))
    assert made[0].shape == (5, 64, 128, 3)
    assert np.abs(made[0] - made[1]).max() <= 1


def test_pieces_reach_the_decoder_of_driving_models(folder: Path, asked: list[tuple[int, tuple[int, int]]]) -> None:
    latents = torch.randn(5, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    for memory in (None, MemoryConfig(tile=3), MemoryConfig(chunk=2), MemoryConfig(tile=100, chunk=100)):
        DrivingModel.from_pretrained(folder, memory=memory).finish({}, latents, key=KEY, is_last=True)
    whole, pieces = (1, 1), (2, 3)
    assert asked == [(5, whole), (5, pieces), (2, whole), (2, whole), (1, whole), (5, whole)]


def test_pieces_reach_the_decoder_of_text_models(text_folder: Path, asked: list[tuple[int, tuple[int, int]]]) -> None:
    stages = TextStagesConfig(upsampling=Upsampling.NONE)
    for memory in (None, MemoryConfig(tile=5, chunk=2)):
        model = TextModel.from_pretrained(text_folder, stages=stages, memory=memory)
        latents = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        model.finishing.push({}, latents, key=KEY, is_last=True)
    _, height, width = model.latent_shape
    assert asked == [(3, (1, 1)), *[(num, (-(-height // 5), -(-width // 5))) for num in (2, 1)]]


def test_a_run_goes_on_with_the_pieces_that_it_began_with(folder: Path, tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    start, config = Start(name="street", frame_HWC=frame), RolloutConfig(futures=1, seconds=6.0)

    def run(**memory: int) -> str | None:
        load = lambda: DrivingModel.from_pretrained(folder, memory=MemoryConfig(**memory))  # noqa: E731
        (row,) = run_rollout(config, start, load, tmp_path / "run")
        return row.sha256

    begun = run(tile=2)
    for other in ({}, {"tile": 1}, {"tile": 2, "chunk": 2}):
        with pytest.raises(
            ValueError,
            match="holds another run .model is another: other weights, or other keys of sampler, stages, memory",
        ):
            run(**other)
    assert run(tile=2) == begun


def test_runs_of_before_there_was_a_choice_go_on(folder: Path, text_folder: Path) -> None:
    own = DrivingModel.from_pretrained(folder).fingerprint
    for memory in (MemoryConfig(), MemoryConfig(offload=False), MemoryConfig(tile=8, chunk=16)):
        assert DrivingModel.from_pretrained(folder, memory=memory).fingerprint == own
    assert DrivingModel.from_pretrained(folder, memory=MemoryConfig(chunk=15)).fingerprint != own
    text = TextModel.from_pretrained(text_folder).fingerprint
    for same in (MemoryConfig(), MemoryConfig(tile=VIDEO_TILE)):
        assert TextModel.from_pretrained(text_folder, memory=same).fingerprint == text
    for other in (MemoryConfig(tile=5), MemoryConfig(chunk=15)):
        assert TextModel.from_pretrained(text_folder, memory=other).fingerprint != text


def test_pieces_of_a_model_without_a_video_decoder_change_nothing_and_that_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages = StagesConfig(video_decoder=False, upsampling=Upsampling.NONE)
    with caplog.at_level(logging.WARNING):
        own = DrivingModel.from_pretrained(folder, stages=stages, memory=MemoryConfig()).fingerprint
        assert not caplog.records
        other = DrivingModel.from_pretrained(folder, stages=stages, memory=MemoryConfig(tile=2, chunk=3))
    assert other.fingerprint == own
    assert "change nothing: model 'tiny' runs without a video decoder" in caplog.text


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ({"tile": 0}, "memory.tile=0; valid: 1 latent or more, or null"),
        ({"chunk": 0}, "memory.chunk=0; valid: 1 frame or more"),
    ],
)
def test_numbers_that_make_no_pieces_are_refused(pieces: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**pieces)
