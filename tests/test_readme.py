"""What the README tells people to type is accepted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from drivesim.config import COMMANDS, compose
from drivesim.core.boxes import CLASSES
from drivesim.core.scene import Scene

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TYPED = [line for line in README.splitlines() if line.startswith("drivesim ")]
CARDS = sorted([*ROOT.glob("evaluation/*/README.md"), *ROOT.glob("datasets/*/README.md")])
IN_CARDS = [
    line.split("  #")[0].rstrip()
    for card in CARDS
    for line in card.read_text(encoding="utf-8").splitlines()
    if line.startswith("drivesim ")
]
# Lines of a recipe, joined where they are broken.
MADE = [
    line.strip().removeprefix("$(BIN)/").replace("$(DEMO)", "runs/demo")
    for line in MAKEFILE.replace("\\\n", " ").splitlines()
    if line.strip().startswith("$(BIN)/drivesim ")
]


@pytest.mark.parametrize("line", [*TYPED, *MADE, *sorted(set(IN_CARDS))])
def test_every_command_line_composes(line: str) -> None:
    _, command, *overrides = shlex.split(line)
    # A sweep is one composition for each of its values; the first stands for all.
    if "-m" in overrides:
        overrides = [re.sub(r",[^\]]*$", "", override) for override in overrides if override != "-m"]
    compose(command, overrides)


def test_every_command_is_shown() -> None:
    assert {line.split()[1] for line in TYPED} == set(COMMANDS)
    assert len(MADE) == 4, "the demo has lost a step"


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)) <= targets
    assert {"help", "setup", "demo", "test", "check", "bench"} <= targets


def test_the_python_example_names_what_there_is() -> None:
    import drivesim

    for name in re.findall(r"from drivesim import (.+)", README):
        assert all(hasattr(drivesim, part.strip()) for part in name.split(","))


def test_paths_of_the_readme_exist() -> None:
    for path in re.findall(r"\b(conf/[a-z_/]+(?:\.yaml)?)", README):
        assert (ROOT / path).exists(), path


def test_the_scene_of_the_readme_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "scene.yaml"
    path.write_text(text)
    scene = Scene.load(path)
    assert (scene.name, scene.is_night, scene.count_cars(), len(scene.picture_boxes((128, 256)))) == (
        "mine",
        True,
        4,
        3,
    )
    assert all(f"{kind.value}" in README.split("Classes are")[1].split(".")[0] for kind in CLASSES)
