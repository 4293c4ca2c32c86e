"""Imports point down, heavy libraries stay in their place, and importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The design's order from top to bottom; names in one set are strangers to each other. `simulator` is the interface for
# use from Python: it puts the parts together, as the command line does. `sweep` rolls out and scores in one command, so
# it stands above both.
LAYERS: list[set[str]] = [
    {"cli"},
    {"evaluate_command", "rollout_command"},
    {"config"},
    {"sweep"},
    {"simulator", "planning"},
    {"train", "rollout", "evaluate", "viz"},
    {"families"},
    {"models", "conditioning"},
    {"data", "diffusion", "nn", "toytown"},
    {"core"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Library -> where it may be imported: a folder of drivesim, or a module.
RESERVED = {
    "lightning": ("train", "data"),
    "pytorch_lightning": (),
    "ray": ("rollout/pools.py",),
    "hydra": ("cli.py", "config.py"),
    "omegaconf": ("cli.py", "config.py"),
    "nuscenes": ("data/nuscenes.py",),
    "pyquaternion": ("data/nuscenes.py",),
    "diffusers": ("families", "models", "conditioning", "diffusion"),
    "transformers": ("families", "models", "conditioning", "diffusion"),
    "huggingface_hub": ("models",),
    "torchvision": (),
    "scipy": (),  # for tests alone
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            # `from drivesim import core` names a part, too.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def part_of(path: Path) -> str:
    """The part of drivesim that a module belongs to; "" = the package itself."""
    first = path.relative_to(ROOT / "drivesim").parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def upward_imports(path: Path) -> list[str]:
    """The imports of a module that point up or sideways."""
    importer = part_of(path)
    assert importer in LEVEL or not importer, f"{path} belongs to no part of the design"
    wrong = []
    for line, name in imports(path):
        parts = name.split(".")
        imported = parts[1] if parts[0] == "drivesim" and len(parts) > 1 else ""
        if not importer or imported not in LEVEL or imported == importer:
            continue
        allowed = {"core"} if importer == "evaluate" else {n for n, level in LEVEL.items() if level > LEVEL[importer]}
        if imported not in allowed:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {importer} imports {name}")
    return wrong


def misplaced_imports(path: Path) -> list[str]:
    """The imports of a module that belong elsewhere."""
    place = path.relative_to(ROOT / "drivesim").as_posix()
    wrong = []
    for line, name in imports(path):
        library = name.split(".")[0]
        places = RESERVED.get(library)
        if places is not None and not any(place == allowed or place.startswith(allowed + "/") for allowed in places):
            wrong.append(f"drivesim/{place}:{line}: {library} belongs to {', '.join(places) or 'nowhere'}")
    return wrong


MODULES = sorted((ROOT / "drivesim").rglob("*.py"))


def test_imports_point_down() -> None:
    assert [row for path in MODULES for row in upward_imports(path)] == []


def test_heavy_libraries_stay_in_their_place() -> None:
    assert [row for path in MODULES for row in misplaced_imports(path)] == []


@pytest.mark.parametrize(
    ("place", "line", "complaint"),
    [
        ("core/x.py", "from drivesim.data import Clip", "core imports drivesim.data.Clip"),
        ("train/x.py", "def f():\n    import drivesim.rollout.run", "train imports drivesim.rollout.run"),
        ("evaluate/x.py", "from drivesim import nn", "evaluate imports drivesim.nn"),
        ("viz/x.py", "import drivesim.core.clip\nimport drivesim.rollout", "viz imports drivesim.rollout"),
        ("rollout/run.py", "import ray", "ray belongs to rollout/pools.py"),
        ("train/x.py", "from omegaconf import DictConfig", "omegaconf belongs to cli.py, config.py"),
        ("models/x.py", "import torchvision.models", "torchvision belongs to nowhere"),
    ],
)
def test_the_guard_sees_a_wrong_import(
    place: str, line: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "drivesim" / place
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert any(complaint in row for row in upward_imports(path) + misplaced_imports(path))


PROBE = """
import os, random, threading, logging
import cv2, numpy, torch  # cv2 itself sets LD_LIBRARY_PATH
environment = dict(os.environ)
def states():
    numpy_state = numpy.random.get_state()[1].tolist()
    return random.getstate(), numpy_state, torch.get_rng_state().tolist(), torch.get_num_threads()
before = states()
import {module}
assert dict(os.environ) == environment, "the environment has changed"
assert states() == before, "a global random state or the number of threads has changed"
import sys
print(*sorted(name for name in {unwanted} if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("drivesim.core.scene", ["lightning", "ray", "hydra", "diffusers", "transformers", "nuscenes", "matplotlib"]),
        ("drivesim.evaluate", ["lightning", "ray", "hydra", "diffusers", "transformers", "nuscenes"]),
        ("drivesim.rollout.run", ["lightning", "ray", "hydra", "diffusers", "transformers", "nuscenes"]),
    ],
)
def test_importing_does_nothing_and_pulls_in_little(module: str, unwanted: list[str]) -> None:

    code = PROBE.format(module=module, unwanted=unwanted)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
