"""Which of its inputs a model uses, in one command: outputs are made, kept as files, and compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from drivesim.core.files import atomic_path
from drivesim.core.scene import Scene
from drivesim.core.terminal import show
from drivesim.core.wording import number_of
from drivesim.diffusion.settings import PredictionOverrides, SamplerOverrides, TextOverrides, as_facts
from drivesim.evaluate.condition_use import (
    MIN_ITEMS,
    Change,
    ConditionInput,
    ConditionUse,
    Frames,
    condition_use,
    first_changed,
)
from drivesim.evaluate.protocol import library_versions
from drivesim.families.driving import DrivingModel
from drivesim.families.folder import DRIVING, family_of, find_model
from drivesim.families.prompts import Prompts
from drivesim.families.stages import StagesConfig, TextStagesConfig, Upsampling
from drivesim.families.text import TextModel
from drivesim.families.text_parts import FAMILY as TEXT
from drivesim.rollout.pools import torch_threads
from drivesim.rollout.start import Start, is_scene, start_latents
from drivesim.simulator import Simulator
from drivesim.sweep.condition_inputs import (
    DESIGN_INPUTS,
    GIVEN_INPUTS,
    MOTION_INPUT,
    TEXT_INPUTS,
    Asked,
    Designer,
    Given,
    Predictor,
    TextVideo,
    design_of,
    turning,
)
from drivesim.sweep.settings import ConditionUseConfig
from drivesim.sweep.starts import make_start

OUTPUTS = "outputs"  # folder of what was generated
FindScenes = Callable[[str], list[Path]]  # scene files below a folder, one file, or one that ships by its name


@dataclass(kw_only=True, slots=True)
class ConditionUseCard:
    """What the numbers follow from."""

    model: str  # its name
    weights: str  # fingerprint of weights, facts and sampling
    sampling: dict[str, dict[str, Any]]  # by what is made
    size_hw: tuple[int, int]  # of the pictures that are compared
    seeds: list[int]
    items: dict[str, str]  # names of starts or prompts -> digest of what is made from them
    libraries: dict[str, str]

    def sha256(self) -> str:
        """Digest of all that two tests of different models must have in common to be compared."""
        shared = {"size_hw": self.size_hw, "seeds": self.seeds, "items": sorted(self.items)}
        return hashlib.sha256(json.dumps(shared).encode()).hexdigest()


class Inputs(Protocol):
    """All that one output is made from."""

    def sha256(self) -> str:
        """Digest of it."""


I = TypeVar("I", bound=Inputs)  # noqa: E741 (as the type of inputs it reads best)


@dataclass(kw_only=True, slots=True)
class Shown:
    """Outputs of the first item that a change reaches, with the same noise."""

    input: str
    change: Change
    own_THWC: Frames
    changed_THWC: Frames


@dataclass(kw_only=True, slots=True)
class ConditionTest:
    """All that a test found."""

    card: ConditionUseCard
    rows: list[ConditionUse] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)


def run_condition_use(
    config: ConditionUseConfig, out: Path, find_scenes: FindScenes, threads: int = 1
) -> ConditionTest:
    """Tests every input that a model of either family has.

    Outputs are kept in `out`: a test that was stopped makes the missing ones alone.

    Args:
        config: What to test.
        out: Made when needed.
        find_scenes: Finds scenes by name or folder.
        threads: Of the networks; another number rounds otherwise.

    Raises:
        FileNotFoundError: a start that is not there.
        ValueError: too few starts or seeds, a model of the other family, or an unusable start.
    """
    config.validate()
    name = config.model or ("toytown_text" if config.prompts else "toytown")
    wanted, found = TEXT if config.prompts else DRIVING, family_of(find_model(name))
    if found != wanted:
        key = {TEXT: "prompts", DRIVING: "start"}
        raise ValueError(f"model {name} is of family {found}; give condition_use.{key[found]} for it")
    with torch_threads(threads):
        return _test_text(config, name, out) if config.prompts else _test_driving(config, name, out, find_scenes)


def _test_text(config: ConditionUseConfig, name: str, out: Path) -> ConditionTest:
    model = TextModel.from_pretrained(
        name,
        device=config.device,
        samplings={"key_frames": TextOverrides(steps=config.steps)},
        stages=TextStagesConfig(interpolate=False, video_decoder=False, upsampling=Upsampling.NONE),
    )
    items = [Asked(prompt=prompt) for prompt in config.prompts]
    for item in items:
        model.facts(Prompts(prompts=[item.prompt]))  # one that is empty or too long is refused before hours of work
    test = ConditionTest(
        card=ConditionUseCard(
            model=model.name,
            weights=model.fingerprint,
            sampling={"key frames": as_facts(model.samplings["key_frames"])},
            size_hw=model.start_hw,
            seeds=config.seeds,
            items={item.prompt: item.sha256() for item in items},
            libraries=library_versions(),
        )
    )
    _test(test, KeptOutputs(TextVideo(model), out / OUTPUTS, f"text {model.fingerprint}"), items, TEXT_INPUTS)
    return test


def _test_driving(config: ConditionUseConfig, name: str, out: Path, find_scenes: FindScenes) -> ConditionTest:
    model = DrivingModel.from_pretrained(
        name,
        device=config.device,
        design_sampling=SamplerOverrides(steps=config.steps),
        predict_sampling=PredictionOverrides(steps=config.steps),
        stages=StagesConfig(interpolate=False, video_decoder=False, upsampling=Upsampling.NONE),
    )
    texts = [path for text in config.start for path in _each(text, find_scenes)]
    if len(texts) < MIN_ITEMS:
        raise ValueError(
            f"condition_use.start: {number_of(len(texts), 'start')}; it takes at least {MIN_ITEMS}, better 7"
        )
    starts, scenes = _starts(config, texts, Simulator(model))
    given: list[Given] = []
    for start in starts:
        latents_CHW = start_latents(start, model)
        assert latents_CHW is not None, "a driving model starts from a frame"
        drive = start.conditions
        if model.is_told_motion:
            drive = replace(drive, motion=turning(len(given)))
        given.append(Given(name=start.name, latents_CHW=latents_CHW, drive=drive))
    test = ConditionTest(
        card=ConditionUseCard(
            model=model.name,
            weights=model.fingerprint,
            sampling={"design": as_facts(model.design_sampling), "prediction": as_facts(model.predict_sampling)},
            size_hw=model.size_hw,
            seeds=config.seeds,
            items={item.name: item.sha256() for item in given},
            libraries=library_versions(),
        )
    )
    if len(scenes) >= MIN_ITEMS:
        designs = [design_of(scene, scene.name, model.size_hw) for scene in scenes]
        _test(test, KeptOutputs(Designer(model), out / OUTPUTS, f"design {model.fingerprint}"), designs, DESIGN_INPUTS)
    else:
        test.notes.append(
            f"{len(scenes)} of the starts are scenes: boxes, night and number of cars of designed frames are not "
            f"tested; that takes at least {MIN_ITEMS} scenes"
        )
    inputs = [*GIVEN_INPUTS, *([MOTION_INPUT] if model.is_told_motion else [])]
    _test(test, KeptOutputs(Predictor(model), out / OUTPUTS, f"predict {model.fingerprint}"), given, inputs)
    return test


def _each(text: str, find_scenes: FindScenes) -> list[str]:
    """The scenes of a folder, each by itself; other starts as they are."""
    return [str(path) for path in find_scenes(text)] if is_scene(text) else [text]


def _starts(config: ConditionUseConfig, texts: Sequence[str], simulator: Simulator) -> tuple[list[Start], list[Scene]]:
    """Every start, and the scenes among them."""
    starts, scenes, names = [], [], set()
    for text in texts:
        start = make_start(text, simulator, seed=config.seeds[0], is_night=config.is_night, find_scene=Path)
        if start.name in names:
            raise ValueError(f"condition_use.start: two starts are called {start.name}; each counts once, rename one")
        names.add(start.name)
        starts.append(start)
        if is_scene(text):
            scenes.append(Scene.load(text))
    return starts, scenes


class KeptOutputs(Generic[I]):
    """A generator whose outputs are files: each is made once, and again when what it follows from has changed."""

    def __init__(self, generate: Callable[[I, int], Frames], folder: Path, by: str) -> None:
        """`by` says what made them: another model's are others."""
        self.generate, self.folder, self.by = generate, folder, by

    def __call__(self, inputs: I, seed: int) -> Frames:
        """Frames (T, H, W, 3)."""
        digest = hashlib.sha256(f"{self.by} {inputs.sha256()} {seed}".encode()).hexdigest()
        path = self.folder / f"{digest[:32]}.npy"
        if not path.exists():
            with atomic_path(path) as temporary:
                np.save(temporary, self.generate(inputs, seed))
            show(f"output {len(list(self.folder.glob('[!.]*.npy')))}", is_last=False)
        frames: Frames = np.load(path, allow_pickle=False)
        return frames


def _test(
    test: ConditionTest, generate: KeptOutputs[I], items: Sequence[I], inputs: Sequence[ConditionInput[I]]
) -> None:
    """Adds what the changes of these inputs do, what could not be told, and pictures of the first item changed."""
    seeds = test.card.seeds
    found = condition_use(generate, items, inputs, seeds)
    test.rows += found
    told = {(row.input, row.change) for row in found}
    for tested in inputs:
        silent = [change.value for change in Change if (tested.name, change) not in told]
        if silent:
            test.notes.append(
                f"{tested.name}, {', '.join(silent)}: not told, as it changes fewer than {MIN_ITEMS} "
                f"of the {len(items)} starts or prompts: add some that differ in it"
            )
        for change in Change:
            pair = first_changed(tested, change, items)
            if pair is not None:
                own_THWC, changed_THWC = (generate(inputs, seeds[0]) for inputs in pair)
                test.shown.append(Shown(input=tested.name, change=change, own_THWC=own_THWC, changed_THWC=changed_THWC))
