"""Real toytown futures at a junction with known odds: the shares recovered from their pictures hold the odds."""

from __future__ import annotations

import numpy as np
import pytest

from drivesim.evaluate.ego_motion import EgoTurn, ego_turn, yaw_steps_deg
from drivesim.evaluate.modes import ModeShare, mode_shares
from drivesim.toytown import TownConfig, TurnOdds, render, simulate
from tests.evaluate.town_videos import CAMERA, FIRST_HELD_OUT, FPS

NUM_FUTURES = 20
ODDS = TurnOdds(left=0.15, straight=0.2, right=0.65)


def shares_of(labels: list[str], odds: TurnOdds) -> list[ModeShare]:
    known = {"left": odds.left, "straight": odds.straight, "right": odds.right}
    return mode_shares(labels, [turn.value for turn in EgoTurn], odds=known)


@pytest.fixture(scope="module")
def turns() -> list[tuple[str, str]]:
    """Of every future what its pictures say and what the car did."""
    town = TownConfig(
        fps=FPS, key_fps=FPS, duration_s=13, traffic_density=0, num_pedestrians=0, parked_share=0,
        junction_share=1, turn_odds=ODDS,
    )  # fmt: skip
    found = []
    for scene in range(NUM_FUTURES):
        episode = simulate(town, FIRST_HELD_OUT + 500 + scene)
        steps_deg = yaw_steps_deg(render(episode, frame, CAMERA) for frame in range(len(episode)))
        found.append((ego_turn(steps_deg).value, episode.turn.value))
    return found


def test_the_shares_seen_in_the_pictures_hold_the_odds_of_the_junction(turns: list[tuple[str, str]]) -> None:
    shares = shares_of([seen for seen, _ in turns], ODDS)
    print([(share.mode, share.count, round(share.low, 2), share.odds, round(share.high, 2)) for share in shares])
    assert all(share.holds_odds for share in shares)
    assert np.mean([seen == did for seen, did in turns]) >= 0.85


def test_other_odds_than_the_junction_s_are_refuted(turns: list[tuple[str, str]]) -> None:
    wrong = TurnOdds(left=0.65, straight=0.2, right=0.15)
    assert not all(share.holds_odds for share in shares_of([seen for seen, _ in turns], wrong))
