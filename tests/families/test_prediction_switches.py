"""What the field learned since the paper, each as a switch: noisy frames, guidance that varies, motion that is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim import Simulator
from drivesim.core.motion import MotionSegment
from drivesim.diffusion.settings import PredictionOverrides
from drivesim.families.drive import DriveFacts
from drivesim.families.driving import DrivingModel
from drivesim.models.temporal_stack import TemporalStack
from tests.families.tiny_family import write_tiny_family


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that is told how noisy its given frames are, with weights that are not zero anywhere."""
    folder = write_tiny_family(tmp_path_factory.mktemp("told") / "model", context_noise=100, ego_motion=True)
    temporal = TemporalStack.from_pretrained(folder / "temporal", low_cpu_mem_usage=False)
    generator = torch.Generator().manual_seed(1)
    for parameter in temporal.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    temporal.save_pretrained(folder / "temporal")
    return folder


def _predicted(folder: Path, **overrides: float) -> torch.Tensor:
    model = DrivingModel.from_pretrained(folder, predict_sampling=PredictionOverrides(**overrides))  # type: ignore[arg-type]
    given = torch.randn(1, 2, 4, 4, 8, generator=torch.Generator().manual_seed(2))
    made = model.predict(given, generators=[torch.Generator().manual_seed(0)], conditions=[None])
    assert torch.equal(made[:, :2], given), "given frames come back as they are, whatever the network was shown"
    return made


def test_the_noise_of_given_frames_changes_what_follows(folder: Path) -> None:
    clean, noisy = _predicted(folder, context_noise=0), _predicted(folder, context_noise=100)
    assert not torch.allclose(clean[:, 2:], noisy[:, 2:], atol=1e-3)
    assert torch.equal(noisy, _predicted(folder, context_noise=100))


def test_the_network_reads_the_level_that_it_is_told(folder: Path) -> None:
    model = DrivingModel.from_pretrained(folder)
    embed = model.video_unet.temporal.noise_embed
    assert embed is not None
    levels = embed(torch.tensor([0, 10, 100]))
    assert (levels[0] - levels[1]).abs().max() > 1e-3
    x, step = torch.randn(1, 10, 4, 4, 8), torch.tensor([500])
    tokens, context = torch.zeros(1, 1, 16), torch.zeros(1, 10, 5, 4, 8)
    placed = model.conditioner.placed(x)
    told = [
        model.video_unet(placed, step, tokens, context_BTCHW=context, noise_level_B=torch.tensor([level]))
        for level in (0, 100)
    ]
    assert not torch.allclose(told[0], told[1], atol=1e-4)


def test_more_noise_than_in_training_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="context_noise=101, but its prediction was trained .* of step 100 at most"):
        _predicted(folder, context_noise=101)


def test_guidance_that_varies_leaves_the_first_frame_and_moves_the_last_to_its_own_scale(folder: Path) -> None:
    """At one step the guided prediction is linear in the scale, frame by frame."""
    low, high = _predicted(folder, steps=1, guidance=1.5), _predicted(folder, steps=1, guidance=4.0)
    varied = _predicted(folder, steps=1, guidance=1.5, last_guidance=4.0)
    torch.testing.assert_close(varied[:, -1], high[:, -1])
    share = 4 / 9  # of frame 4 on the way from frame 0 to frame 9
    torch.testing.assert_close(varied[:, 4], (1 - share) * low[:, 4] + share * high[:, 4], atol=1e-4, rtol=1e-4)


def test_three_given_frames_are_the_models_own_fact(tmp_path: Path) -> None:
    folder = write_tiny_family(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"num_given": 3}))
    model = DrivingModel.from_pretrained(folder)
    assert model.num_given == 3
    given = torch.randn(1, 3, 4, 4, 8)
    made = model.predict(given, generators=[torch.Generator().manual_seed(0)], conditions=[None])
    assert torch.equal(made[:, :3], given)


LEFT = (MotionSegment(seconds=3.0, speed_mps=6.0, yaw_deg_per_s=20.0),)


def test_the_same_motion_is_told_by_time_whatever_chunk_it_falls_into(folder: Path) -> None:
    model = DrivingModel.from_pretrained(folder)
    given = torch.randn(1, 2, 4, 4, 8, generator=torch.Generator().manual_seed(2))

    def made(drive: DriveFacts | None, start_s: float = 0.0) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(0)]
        return model.predict(given, generators=generators, conditions=[drive], starts_s=[start_s])

    unsaid, left = made(None), made(DriveFacts(motion=LEFT))
    assert not torch.allclose(unsaid, left, atol=1e-3)
    assert torch.equal(made(DriveFacts(motion=LEFT), start_s=3.25), unsaid), "after its end nothing is said"
    later = (MotionSegment(seconds=1.0, speed_mps=2.0), *LEFT)
    told_at_once, told_later = (
        made(DriveFacts(motion=motion), start_s=at) for motion, at in ((LEFT, 0.25), (later, 1.25))
    )
    torch.testing.assert_close(told_at_once, told_later)


def test_clips_that_are_told_have_a_guidance_of_their_own(folder: Path) -> None:
    def made(drive: DriveFacts | None, start_s: float = 0.0, **overrides: float) -> torch.Tensor:
        model = DrivingModel.from_pretrained(folder, predict_sampling=PredictionOverrides(steps=1, **overrides))  # type: ignore[arg-type]
        given = torch.randn(1, 2, 4, 4, 8, generator=torch.Generator().manual_seed(2))
        generators = [torch.Generator().manual_seed(0)]
        return model.predict(given, generators=generators, conditions=[drive], starts_s=[start_s])

    told = DriveFacts(motion=LEFT)
    assert torch.equal(made(told, guidance=1.5, told_guidance=3.0), made(told, guidance=3.0))
    assert torch.equal(made(told, guidance=1.5), made(told, guidance=1.5, told_guidance=1.5))
    assert torch.equal(made(None, guidance=1.5, told_guidance=3.0), made(None, guidance=1.5))
    over = made(told, start_s=9.0, guidance=1.5, told_guidance=3.0)  # nothing is told of it any more
    assert torch.equal(over, made(None, guidance=1.5))
    ends = made(told, start_s=3.0, guidance=1.5, told_guidance=3.0)  # the first given frame is told, and no other
    assert torch.equal(ends, made(told, start_s=3.0, guidance=1.5)) and not torch.equal(ends, over)
    varied = made(told, guidance=1.5, told_guidance=3.0, last_guidance=4.0)
    assert torch.equal(varied, made(told, guidance=3.0, last_guidance=4.0))
    with pytest.raises(ValueError, match="guidance scale: 0.5"):
        PredictionOverrides(told_guidance=0.5)


def test_a_name_is_no_motion_in_python() -> None:
    with pytest.raises(ValueError, match=r"motion: \('l', 'e', 'f', 't'\); segments are wanted"):
        DriveFacts(motion=tuple("left"))


def test_a_drive_says_what_is_not_said_before_and_its_facts_name_motion_only_where_there_is_some() -> None:
    before = DriveFacts(is_night=True)
    assert DriveFacts(motion=LEFT).over(before) == DriveFacts(is_night=True, motion=LEFT)
    assert DriveFacts(is_night=False).over(DriveFacts(is_night=True, motion=LEFT)) == DriveFacts(
        is_night=False, motion=LEFT
    )
    assert DriveFacts().over(None) == DriveFacts()
    assert before.facts() == {"is_night": True}
    assert DriveFacts(motion=LEFT).facts()["motion"] == [{"seconds": 3.0, "speed_mps": 6.0, "yaw_deg_per_s": 20.0}]


def test_motion_is_refused_by_a_model_that_was_not_trained_to_be_told(tmp_path: Path) -> None:
    model = DrivingModel.from_pretrained(write_tiny_family(tmp_path / "model"))
    with pytest.raises(ValueError, match="not trained to be told how the ego car drives .temporal.ego_motion."):
        model.facts(DriveFacts(motion=LEFT))
    assert model.facts(None) == {"is_night": None}


def test_a_simulators_future_drives_as_it_is_told_in_the_light_of_its_start(folder: Path, tmp_path: Path) -> None:
    sim = Simulator.from_pretrained(folder)
    start = np.full((*sim.size_hw, 3), 90, np.uint8)

    def made(**said: object) -> np.ndarray:
        return np.concatenate(list(sim.rollout(start, seconds=2, **said)))  # type: ignore[arg-type]

    assert not np.array_equal(made(motion=LEFT), made())
    assert not np.array_equal(made(motion=LEFT, is_night=True), made(motion=LEFT))
    assert np.array_equal(made(motion=list(LEFT)), made(motion=LEFT))
    deaf = Simulator.from_pretrained(write_tiny_family(tmp_path / "model"))
    with pytest.raises(ValueError, match="not trained to be told how the ego car drives"):
        next(deaf.rollout(start, seconds=2, motion=LEFT))
