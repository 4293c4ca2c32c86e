"""The plan covers every frame once, in as many calls as the paper counts."""

import pytest

from drivesim.rollout.plan import Chunk, Plan


def test_the_papers_long_videos_take_71_calls() -> None:
    # Blattmann et al. 2023, driving at 4 fps: 563 key frames, 10 from the first call and 8 from each later one.
    assert Plan(num_frames=563).num_chunks == 71


@pytest.mark.parametrize("num_frames", [1, 9, 10, 11, 18, 19, 563])
def test_every_frame_is_added_by_exactly_one_chunk(num_frames: int) -> None:
    plan = Plan(num_frames=num_frames)
    chunks = [plan.chunk(index) for index in range(plan.num_chunks)]
    added = [chunk.first_frame + k for chunk in chunks for k in range(chunk.num_new)]
    assert added == list(range(num_frames))
    assert all(chunk.num_new > 0 for chunk in chunks)


@pytest.mark.parametrize("num_frames", [1, 144, 145, 146, 273, 274, 8993])
def test_with_interpolation_every_frame_is_added_by_exactly_one_chunk_too(num_frames: int) -> None:
    plan = Plan(num_frames=num_frames, frames_per_gap=16)
    chunks = [plan.chunk(index) for index in range(plan.num_chunks)]
    added = [chunk.first_frame + k for chunk in chunks for k in range(chunk.num_new)]
    assert added == list(range(num_frames))
    assert all(chunk.num_new > 0 for chunk in chunks)


def test_the_papers_five_minutes_at_30_fps_take_71_calls() -> None:
    # 563 key frames, between any two of them 15 more: 8,993 frames (reference of the method, section 3).
    plan = Plan(num_frames=562 * 16 + 1, frames_per_gap=16)
    assert plan.num_frames == 8993
    assert plan.num_chunks == 71


def test_the_first_call_is_given_one_frame_and_every_later_one_two() -> None:
    plan = Plan(num_frames=30)
    assert plan.chunk(0) == Chunk(index=0, num_given=1, first_frame=0, num_new=10)
    assert plan.chunk(1) == Chunk(index=1, num_given=2, first_frame=10, num_new=8)
    assert plan.chunk(3) == Chunk(index=3, num_given=2, first_frame=26, num_new=4)


@pytest.mark.parametrize("segment_chunks", [1, 3, 4, 100])
def test_segments_hold_every_chunk_once(segment_chunks: int) -> None:
    plan = Plan(num_frames=240)
    num_segments = plan.num_segments(segment_chunks)
    chunks = [index for segment in range(num_segments) for index in plan.segment(segment, segment_chunks)]
    assert chunks == list(range(plan.num_chunks))
    assert len(plan.segment(num_segments - 1, segment_chunks)) > 0


def test_numbers_that_plan_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Plan(num_frames=0)
    with pytest.raises(ValueError, match="more than 2"):
        Plan(num_frames=10, frames_per_call=2)
    with pytest.raises(IndexError, match="chunk 2 of 2"):
        Plan(num_frames=18).chunk(2)


@pytest.mark.parametrize(("num_frames", "gaps_at_once"), [(113, 1), (113, 2), (100, 3), (17, 7), (1, 1)])
def test_what_one_call_has_made_is_shown_in_parts(num_frames: int, gaps_at_once: int) -> None:
    plan = Plan(num_frames=num_frames, frames_per_call=8, num_given=0, frames_per_gap=16, gaps_at_once=gaps_at_once)
    chunks = [plan.chunk(index) for index in range(plan.num_chunks)]
    added = [chunk.first_frame + k for chunk in chunks for k in range(chunk.num_new)]
    assert added == list(range(num_frames))
    assert all(0 < chunk.num_new <= 16 * gaps_at_once + (chunk.index == 0) for chunk in chunks)


def test_more_frames_than_one_call_makes_are_refused_where_there_is_but_one() -> None:
    with pytest.raises(ValueError, match="8 key frames make 113 at most"):
        Plan(num_frames=114, frames_per_call=8, num_given=0, frames_per_gap=16, gaps_at_once=1)
