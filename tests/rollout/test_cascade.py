"""Key frames stay as they are, gaps are filled pass by pass, and chunks join without a seam."""

from pathlib import Path

import numpy as np
import torch

from drivesim.core.seeds import torch_generator
from drivesim.core.video import iter_frames, probe
from drivesim.rollout.cascade import WINDOWS_AT_ONCE, fill_in
from drivesim.rollout.run import RolloutConfig, run_rollout
from drivesim.rollout.start import Start
from drivesim.rollout.world import World
from tests.rollout.tiny_model import InterpolatingModel, TinyModel, start_frame


def keys(number: int) -> torch.Tensor:
    return torch.randn(number, 4, 4, 8, generator=torch.Generator().manual_seed(0))


def test_key_frames_are_in_the_video_unchanged_at_their_places() -> None:
    frames = fill_in(InterpolatingModel(), keys(11), None, (0, "street", 0, 0))
    assert frames.shape == (41, 4, 4, 8)
    assert torch.equal(frames[::4], keys(11))


def test_the_second_pass_fills_between_what_the_first_one_made() -> None:
    frames = fill_in(InterpolatingModel(), keys(3), None, (0, "street", 0, 5))
    noise = torch.randn(4, 4, 8, generator=torch_generator(0, "street", 0, 5, "interpolate", 1, 2))
    torch.testing.assert_close(frames[5], (frames[4] + frames[6]) / 2 + 0.2 * noise)


def test_a_window_of_a_later_batch_has_the_noise_of_its_own_number() -> None:
    frames = fill_in(InterpolatingModel(), keys(11), None, (0, "street", 0, 0))
    noise = torch.randn(4, 4, 8, generator=torch_generator(0, "street", 0, 0, "interpolate", 0, 9))
    torch.testing.assert_close(frames[38], (frames[36] + frames[40]) / 2 + 0.1 * noise)


def test_windows_come_in_batches_of_one_size_and_each_has_its_own_noise() -> None:
    class Watched(InterpolatingModel):
        sizes: list[int] = []

        def interpolate(self, ends_B2CHW: torch.Tensor, number: int, **rest: object) -> torch.Tensor:
            self.sizes.append(len(ends_B2CHW))
            return super().interpolate(ends_B2CHW, number, **rest)  # type: ignore[arg-type]

    same = keys(1).expand(11, -1, -1, -1)
    frames = fill_in(Watched(), same, None, (0, "street", 0, 0))
    assert Watched.sizes == [WINDOWS_AT_ONCE, 2, WINDOWS_AT_ONCE, WINDOWS_AT_ONCE, 4]
    assert len({frame.numpy().tobytes() for frame in frames[2::4]}) == 10


def test_a_model_without_passes_leaves_key_frames_alone() -> None:
    assert torch.equal(fill_in(TinyModel(), keys(5), None, (0,)), keys(5))


def test_chunks_of_a_world_join_at_key_frames() -> None:
    model = InterpolatingModel()
    world = World(model, run_seed=7, start_name="street")
    plain = World(TinyModel(), run_seed=7, start_name="street")
    start = model.encode(start_frame()[None])[0]
    state, plain_state = world.reset(start), plain.reset(start)
    video, key_frames = [], []
    for _ in range(3):
        state, frames = world.step(state)
        plain_state, their_keys = plain.step(plain_state)
        video.append(frames)
        key_frames.append(their_keys)
    assert [len(frames) for frames in video] == [37, 32, 32]
    assert state.num_frames == 101
    np.testing.assert_array_equal(np.concatenate(video)[::4], np.concatenate(key_frames))


def test_a_rollout_has_the_models_rate_and_the_wanted_length(tmp_path: Path) -> None:
    rows = run_rollout(
        RolloutConfig(futures=1, seconds=3.0),
        Start(name="street", frame_HWC=start_frame()),
        InterpolatingModel,
        tmp_path,
    )
    video = tmp_path / str(rows[0].video)
    assert rows[0].ok
    assert probe(video).fps == 16.0
    assert sum(1 for _ in iter_frames(video)) == 48
