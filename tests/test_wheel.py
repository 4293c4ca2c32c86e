"""The wheel holds everything that drivesim needs, and works from wherever it is unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")
CACHES = ("__pycache__", ".ipynb_checkpoints")


def files_of(folder: Path, pattern: str = "*") -> set[str]:
    """Paths of files below a folder of the project, as they are named in the project."""
    found = (path for path in folder.rglob(pattern) if path.is_file() and not set(path.parts) & set(CACHES))
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building writes beside its sources."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    for folder in ("drivesim", "conf", "evaluation"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns(*CACHES))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(built), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def held(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_all_modules_configs_weights_and_templates(held: set[str]) -> None:
    configs = {f"drivesim/{name}" for name in files_of(ROOT / "conf", "*.yaml")}
    package = files_of(ROOT / "drivesim")  # shipped models and their cards among them
    assert {"drivesim/conf/sampler/ddim.yaml", "drivesim/conf/scenes/cut_in.yaml"} <= configs
    assert {"drivesim/py.typed", "drivesim/evaluate/report_template.html"} <= package
    assert any(name.startswith("drivesim/evaluate/weights/") for name in package)
    published = {f"drivesim/{name}" for name in files_of(ROOT / "evaluation", "published.yaml")}
    assert "drivesim/evaluation/video-ldm/published.yaml" in published
    assert (configs | package | published) - held == set()


def test_it_holds_nothing_else(held: set[str]) -> None:
    strangers = {name for name in held if not name.startswith("drivesim/") and ".dist-info/" not in name}
    assert strangers == set()
    assert [name for name in held if name.endswith((".pyc", ".ckpt", ".pt"))] == []
    results = [name for name in held if name.startswith("drivesim/evaluation/")]
    assert [name for name in results if not name.endswith("/published.yaml")] == []


def test_unpacked_it_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    elsewhere.mkdir()
    with (unpacked / "drivesim" / "conf" / "design.yaml").open("a") as file:
        file.write("num_frames: 77\n")  # shows whose configs are read
    done = subprocess.run(
        [sys.executable, "-m", "drivesim.cli", "design", "scene=cut_in", "sampler=ddim", "--cfg", "job"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert (config["scene"], config["num_frames"]) == ("cut_in", 77)
    assert config["sampler"] == {"sampler": "DDIM", "steps": 50, "eta": None, "guidance": None}
    assert list(elsewhere.iterdir()) == []


def test_unpacked_it_knows_what_others_have_published(wheel: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    (unpacked / "evaluation" / "strange").mkdir(parents=True)  # another package's
    (unpacked / "evaluation" / "strange" / "published.yaml").write_text("no results")
    code = "from drivesim.evaluate.published import *\nfor p in published_folder().glob('*/published.yaml'):\n"
    code += "    print(p.parent.name, len(load_published(p).results))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"video-ldm 14", "vista 1", "msrvtt-zero-shot 4"} <= set(done.stdout.splitlines())
