"""Futures are fixed by their key alone, go on from a small state, and stay latents."""

import numpy as np
import pytest
import torch

from drivesim.core.finite import NotFiniteError
from drivesim.core.seeds import torch_generator
from drivesim.rollout.world import State, World
from tests.rollout.tiny_model import FailingModel, InterpolatingModel, TinyModel, WaitingModel, start_frame

START_CHW = TinyModel().encode(start_frame()[None])[0]


def _world(model: TinyModel, **changes: object) -> World:
    return World(model, **{"run_seed": 7, "start_name": "street", **changes})  # type: ignore[arg-type]


def _frames(world: World, future: int, num_steps: int = 3) -> np.ndarray:
    state, chunks = world.reset(START_CHW, future), []
    for _ in range(num_steps):
        state, frames = world.step(state)
        chunks.append(frames)
    return np.concatenate(chunks)


def test_the_video_opens_with_the_start_frame_as_the_model_decodes_it() -> None:
    frames = _frames(_world(TinyModel()), future=0)
    assert len(frames) == 10 + 8 + 8
    assert np.array_equal(frames[0], TinyModel().decode(START_CHW[None])[0])


def test_a_future_is_the_same_alone_as_among_others_made_in_turn() -> None:
    world = _world(TinyModel())
    alone = [_frames(world, future) for future in (0, 1)]
    states = [world.reset(START_CHW, future) for future in (0, 1)]
    in_turn: list[list[np.ndarray]] = [[], []]
    for _ in range(3):
        for future in (1, 0):
            states[future], frames = world.step(states[future])
            in_turn[future].append(frames)
    for future in (0, 1):
        assert np.array_equal(np.concatenate(in_turn[future]), alone[future])


@pytest.mark.parametrize("changes", [{"run_seed": 8}, {"start_name": "lane"}, {"conditions": True}])
def test_another_seed_start_or_light_is_another_future(changes: dict[str, object]) -> None:
    assert not np.array_equal(_frames(_world(TinyModel(), **changes), 0)[1:], _frames(_world(TinyModel()), 0)[1:])


def test_futures_differ_behind_their_common_first_frame() -> None:
    first, second = (_frames(_world(TinyModel()), future) for future in (0, 1))
    assert np.array_equal(first[0], second[0])
    assert all((a != b).any() for a, b in zip(first[1:], second[1:], strict=True))


@pytest.mark.parametrize(("model", "starts_s"), [(TinyModel, [0, 8, 16]), (InterpolatingModel, [0, 8 * 4, 16 * 4])])
def test_a_call_is_told_when_its_first_given_frame_is_shown(model: type[TinyModel], starts_s: list[int]) -> None:
    """Key frame 8 of 10 opens the second call, and so on."""
    told: list[float] = []

    class Watched(model):  # type: ignore[misc, valid-type]
        def predict(self, *arguments: object, **named: object) -> torch.Tensor:
            told.extend(named["starts_s"])  # type: ignore[arg-type]
            return super().predict(*arguments, **named)

    _frames(_world(Watched()), future=0)
    assert told == [frame / model.fps for frame in starts_s]


def test_chunks_follow_from_the_last_two_latents_without_encoding_again() -> None:
    class Watched(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[torch.Tensor] = []

        def encode(self, frames_THWC: np.ndarray) -> torch.Tensor:
            raise AssertionError("frames were encoded again")

        def predict(self, given_BSCHW: torch.Tensor, **arguments: object) -> torch.Tensor:
            latents = super().predict(given_BSCHW, **arguments)  # type: ignore[arg-type]
            self.calls += [given_BSCHW, latents]
            return latents

    model = Watched()
    _frames(_world(model), future=0)
    given, made = model.calls[::2], model.calls[1::2]
    assert [tensor.shape[1] for tensor in given] == [1, 2, 2]
    assert torch.equal(given[1], made[0][:, -2:])
    assert torch.equal(given[2], made[1][:, -2:])


def test_the_state_holds_two_latents_however_far_it_is() -> None:
    world = _world(TinyModel())
    state = world.reset(START_CHW)
    for step in range(1, 6):
        state, _ = world.step(state)
        assert (state.chunk_index, state.num_frames) == (step, 10 + 8 * (step - 1))
        assert state.latents_SCHW.shape == (2, *START_CHW.shape)
        assert state.latents_SCHW.untyped_storage().nbytes() == 2 * START_CHW.numel() * 4


def test_latents_that_are_not_finite_name_chunk_and_frame() -> None:
    world = _world(FailingModel("nan", at_call=2))
    state, _ = world.step(world.reset(START_CHW))
    # The model spoils frame 5 of its call, two of which were given: the video's frame 10 + 3.
    with pytest.raises(NotFiniteError, match=r"prediction: frame 13 \(at 3.25 s\) is not finite"):
        world.step(state)


def test_frames_that_wait_for_later_ones_come_with_them_and_the_last_step_leaves_none() -> None:
    world = _world(WaitingModel(), num_frames=40)
    state, counts, frames = world.reset(START_CHW), [], []
    while state.num_frames < 40:
        state, new = world.step(state)
        counts.append(len(new))
        frames += list(new)
    assert counts == [0, 6, 8, 8, 18]
    assert np.array_equal(frames[0], TinyModel().decode(START_CHW[None])[0])
    assert len({frame.tobytes() for frame in frames}) == 40
    with pytest.raises(IndexError, match="chunk 5 of 5"):
        world.step(state)


@pytest.mark.parametrize("num_given", [1, 3])
def test_a_model_may_be_given_more_or_fewer_frames(num_given: int) -> None:
    class Watched(TinyModel):
        seen: list[int] = []

        def predict(self, given_BSCHW: torch.Tensor, **arguments: object) -> torch.Tensor:
            self.seen.append(given_BSCHW.shape[1])
            return super().predict(given_BSCHW, **arguments)  # type: ignore[arg-type]

    Watched.num_given = num_given
    frames = _frames(_world(Watched()), future=0)
    assert Watched.seen == [1, num_given, num_given]
    assert len(frames) == 10 + 2 * (10 - num_given)
    assert all((a != b).any() for a, b in zip(frames[1:], frames[:-1], strict=True))


def test_a_state_from_elsewhere_goes_on_the_same() -> None:
    world = _world(TinyModel())
    state, _ = world.step(world.reset(START_CHW, future=3))
    copy = State(future=3, chunk_index=1, num_frames=10, latents_SCHW=state.latents_SCHW.clone())
    assert np.array_equal(world.step(state)[1], _world(TinyModel()).step(copy)[1])


class OneCall(InterpolatingModel):
    """Makes all key frames in one call, from a start frame or from none."""

    num_frames = 6
    num_given = 0
    gaps_at_once = 2

    def encode(self, frames_THWC: np.ndarray) -> torch.Tensor:
        return super().encode(frames_THWC) if len(frames_THWC) else torch.zeros(0, 4, 4, 8)

    def predict(self, given_BSCHW: torch.Tensor, **arguments: object) -> torch.Tensor:
        assert given_BSCHW.shape[1] <= 1, "one call makes all key frames"
        if given_BSCHW.shape[1] == 0:
            given_BSCHW = torch.ones(1, 1, *given_BSCHW.shape[2:])
        return super().predict(given_BSCHW, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [None, START_CHW], ids=["from nothing", "from a frame"])
@pytest.mark.parametrize("gaps_at_once", [1, 2, 5])
def test_all_key_frames_of_one_call_are_shown_part_by_part(
    start: torch.Tensor | None, gaps_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneCall, "gaps_at_once", gaps_at_once)
    model = OneCall()
    world = _world(model, num_frames=21)
    state, made = world.reset(start), []
    keys = model.predict(
        state.latents_SCHW[None], generators=[torch_generator(7, "street", 0, "predict", 0)], conditions=[None]
    )[0]
    for _ in range(world.plan.num_chunks):
        state, frames = world.step(state)
        made.append(frames)
    whole = np.concatenate(made)
    assert len(whole) == 21 and [len(part) for part in made][0] == 4 * min(5, gaps_at_once) + 1
    np.testing.assert_array_equal(whole[::4], model.decode(keys))
    assert len(state.latents_SCHW) <= 1, "nothing is left to show"


def test_windows_are_told_when_in_the_video_they_begin() -> None:
    class Watched(OneCall):
        seen: list[list[float]] = []

        def interpolate(self, *arguments: object, starts_s: list[float], **rest: object) -> torch.Tensor:
            self.seen.append(starts_s)
            return super().interpolate(*arguments, starts_s=starts_s, **rest)  # type: ignore[arg-type]

    world = _world(Watched(), num_frames=21)
    state = world.reset(None)
    for _ in range(2):
        state, _ = world.step(state)
    # 4 key frames a second and 16 frames: gaps of 0.25 s, and two in a step.
    assert Watched.seen == [[0.0, 0.25], [0.0, 0.125, 0.25, 0.375], [0.5, 0.75], [0.5, 0.625, 0.75, 0.875]]
