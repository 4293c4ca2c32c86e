"""`drivesim COMMAND --help`: every key stands there with what it is."""

from __future__ import annotations

import pytest
import yaml

from drivesim.config import COMMANDS
from drivesim.core.field_comments import field_comments
from drivesim.rollout.pools import PoolConfig
from tests.command_line import drivesim

LISTED = [[command] for command in COMMANDS if command != "plan"]
LISTED += [["plan", "train"], ["plan", "rollout"], ["rollout", "family=text"]]


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert drivesim(*arguments, "--help") == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", LISTED, ids=" ".join)
def test_every_key_is_explained(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    keys = shown(command, capsys).split("\n\n")[1].splitlines()
    assert len(keys) > 5
    assert [line for line in keys if "  # " not in line] == []


def test_keys_stand_as_they_would_run_and_can_be_read_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(["rollout", "sampler=ddim", "futures=7", "pool=ray"], capsys)
    keys = yaml.safe_load(out.split("\n\n")[1])
    assert (keys["futures"], keys["sampler"]["sampler"], keys["pool"]["kind"], keys["start"]) == (
        7,
        "DDIM",
        "RAY",
        "???",
    )
    assert "one of HERE, RAY" in out
    assert "pool: here, ray" in out
    assert "claims" not in out, "of another command"


def test_a_plan_says_of_which_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert "drivesim plan train --help and drivesim plan rollout --help list the keys" in shown(["plan"], capsys)


def test_a_mistake_beside_help_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert drivesim("rollout", "futurs=3", "-h") == 2
    assert "did you mean 'futures'?" in capsys.readouterr().err


def test_comments_are_those_of_the_source() -> None:
    assert field_comments(PoolConfig)["threads"].startswith("torch threads a process")
    assert field_comments(PoolConfig)["kind"] == "who makes them; one of HERE, RAY"
