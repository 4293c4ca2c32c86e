"""The layout of the project: what lies where, how long files are, and what the wheel will hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    "drivesim", "conf", "datasets", "evaluation", "notebooks", "tests",
    "pyproject.toml", "Makefile", "README.md", "LICENSE", "constraints.txt",
}  # fmt: skip
# Made by building, running and setting up; git ignores them.
LEFTOVERS = {"build", "dist", "runs", "drivesim.egg-info", "__pycache__"}
PACKAGES = {
    "core", "toytown", "data", "diffusion", "nn", "conditioning", "models", "train", "rollout", "evaluate",
    "families", "planning", "sweep", "viz",
}  # fmt: skip
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
VAGUE = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py", "tools.py", "functions.py"}
MODULES = sorted((ROOT / "drivesim").rglob("*.py"))
ALL_PYTHON = sorted([*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "conf").rglob("*.py")])


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_top_level_holds_what_the_design_names() -> None:
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - TOP_LEVEL - LEFTOVERS == set()
    assert {"drivesim", "conf", "tests", "pyproject.toml", "Makefile", "README.md", "LICENSE"} <= found


def test_the_parts_are_those_of_the_design() -> None:
    folders = {path.name for path in (ROOT / "drivesim").iterdir() if path.is_dir() and path.name != "__pycache__"}
    modules = {path.name for path in (ROOT / "drivesim").glob("*.py")}
    assert folders == PACKAGES
    assert modules == {
        "__init__.py",
        "cli.py",
        "config.py",
        "evaluate_command.py",
        "rollout_command.py",
        "simulator.py",
    }


@pytest.mark.parametrize("folder", ["datasets", "evaluation"])
def test_cards_and_results_hold_no_code(folder: str) -> None:
    assert [shown(path) for path in (ROOT / folder).rglob("*.py")] == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [shown(path) for path in ALL_PYTHON if path.name in VAGUE] == []


def test_files_are_short() -> None:
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length >= MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    too_long = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
                    too_long.append(f"{shown(path)}:{node.lineno} {node.name}")
    assert too_long == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [shown(path) for path in ALL_PYTHON if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []


def test_every_test_folder_mirrors_a_part() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - PACKAGES - {"benchmarks"} == set()


def test_the_wheel_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {shown(path.parent).replace("/", ".") for path in (ROOT / "drivesim").rglob("__init__.py")}
    assert listed == found | {"drivesim.conf", "drivesim.evaluation"}


def declared_requirements(*extras: str) -> dict[str, Requirement]:
    """What pyproject.toml asks for, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_every_library_that_is_imported_is_declared() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in MODULES]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    libraries = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"drivesim"}
    assert {"torch", "PIL", "omegaconf"} <= libraries
    sources = packages_distributions()
    # A library that is not installed here may be one that is optional, named as its package is.
    declared = set(declared_requirements())
    undeclared = {
        name for name in libraries if not {canonicalize_name(dist) for dist in sources.get(name, [name])} & declared
    }
    assert undeclared == set()


def test_the_tested_versions_are_among_those_asked_for() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    declared = declared_requirements("dev")
    assert set(declared) - {canonicalize_name(pin.name) for pin in pins} == set()
    for pin in pins:
        (version,) = (specifier.version for specifier in pin.specifier)
        wanted = declared.get(canonicalize_name(pin.name))
        assert wanted is None or wanted.specifier.contains(version), f"{pin} is not {wanted}"


def test_all_python_files_lie_in_a_package() -> None:
    assert [shown(path) for path in MODULES if not (path.parent / "__init__.py").is_file()] == []


def test_the_shipped_files_stay_under_56_megabytes() -> None:
    shipped = (*(ROOT / "drivesim").rglob("*.safetensors"), *(ROOT / "drivesim").rglob("*.json"))
    assert sum(path.stat().st_size for path in shipped) <= 56 * 10**6  # 40 and 12 of them the families of models


def test_no_run_or_cache_is_committed() -> None:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    committed = done.stdout.split()
    unwanted = ("runs/", ".venv/", "build/", "dist/")
    assert [name for name in committed if name.startswith(unwanted) or name.endswith((".pyc", ".ckpt", ".pt"))] == []


def test_shipped_models_do_not_say_where_they_were_made() -> None:
    configs = sorted((ROOT / "drivesim" / "families" / "shipped").rglob("*.json"))
    assert configs
    for path in configs:
        assert not re.search(r'"/\w+/', path.read_text(encoding="utf-8")), path
