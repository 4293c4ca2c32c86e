"""Configs: every shipped one composes to dataclasses, and mistakes are answered with the valid choices."""

from __future__ import annotations

import dataclasses
import shutil
from enum import Enum
from pathlib import Path

import pytest

from drivesim import config as config_module
from drivesim.config import COMMANDS, ToytownData, compose, conf_dir, config_name, recipe_that_writes
from drivesim.data.videos import VideoFolderConfig
from drivesim.diffusion.settings import Sampler, SamplerOverrides, SamplingConfig
from drivesim.rollout.pools import PoolKind

CONF = Path(__file__).resolve().parents[1] / "conf"
RECIPES = CONF / "experiment"
EXPERIMENTS = sorted(path.relative_to(RECIPES).with_suffix("") for path in RECIPES.rglob("*.yaml"))
# What a command cannot do without, and the groups that it reads.
NEEDED = {
    "prepare": ["data.root=x"],
    "train": ["data.root=x"],
    "design": ["scene=x"],
    "rollout": ["start=x"],
    "evaluate": ["generated=x", "real=y"],
    "plan": ["rollout"],
}
GROUPS = {
    "data": ["prepare", "train"],
    "export": ["prepare"],
    "family": ["rollout"],
    "preset": ["rollout"],
    "sampler": ["design", "rollout"],
    "motion": ["rollout"],
    "pool": ["rollout", "evaluate"],
    "protocol": ["evaluate"],
    "claims": ["evaluate"],
}
CHOICES = [
    (command, group, path.stem)
    for group, commands in GROUPS.items()
    for command in commands
    for path in sorted((CONF / group).glob("*.yaml"))
]


def strangers(value: object, path: str = "") -> list[str]:
    """Places that hold anything but dataclasses, plain values and lists of them."""
    if dataclasses.is_dataclass(value):
        members = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [row for name, member in members.items() for row in strangers(member, f"{path}.{name}")]
    if isinstance(value, (list, tuple)):
        return [row for item in value for row in strangers(item, f"{path}[]")]
    return [] if value is None or isinstance(value, (str, int, float, Enum)) else [f"{path}: {type(value).__name__}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_to_dataclasses(command: str) -> None:
    name, _ = config_name(command, NEEDED[command])
    assert (CONF / f"{name}.yaml").is_file()
    assert strangers(compose(command, NEEDED[command])) == []


# Choices that need more than their command does.
NEEDED_BY = {"family=text": ["model=x"], "data=pictures": ["data.caption=x"], "data=captioned": ["data.csv=x"]} | {
    f"preset={preset}": ["family=text", "model=x"] for preset in ("fast", "paper")
}


@pytest.mark.parametrize(("command", "group", "choice"), CHOICES)
def test_every_choice_of_every_group_composes(command: str, group: str, choice: str) -> None:
    chosen = f"{group}={choice}"
    assert strangers(compose(command, [chosen, *NEEDED[command], *NEEDED_BY.get(chosen, [])])) == []


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=str)
def test_every_experiment_composes(experiment: Path) -> None:
    config = compose("train", [f"experiment={experiment.as_posix()}"])
    assert strangers(config) == []
    assert config.name == experiment.parts[0]
    for every in (config.trainer.validate_every, config.trainer.picture_every):
        assert every <= config.trainer.max_steps, "it is looked at before it ends"
    assert experiment.parts[1].startswith(config.stage.value.removeprefix("text_"))  # a stage may have several recipes


def test_every_shipped_config_is_covered_here() -> None:
    covered = {f"{config_name(command, NEEDED[command])[0]}.yaml" for command in COMMANDS}
    covered |= {f"{group}/{choice}.yaml" for _, group, choice in CHOICES}
    covered |= {f"experiment/{experiment.as_posix()}.yaml" for experiment in EXPERIMENTS}
    found = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml") if path.parent.name != "scenes"}
    assert found == covered | {"quiet.yaml"}


def test_a_plan_takes_the_keys_of_what_it_plans_and_leaves_that_as_it_was() -> None:
    planned = compose("plan", ["train", "experiment=toytown/image", "optim.learning_rate=0.5", "plan.hardware=a100"])
    assert (planned.stage.value, planned.optim.learning_rate, planned.plan.hardware) == ("image", 0.5, "a100")
    with pytest.raises(ValueError, match="unknown key 'plan"):
        compose("train", ["experiment=toytown/image", "plan.hardware=a100"])


def test_the_recipe_behind_a_model_folder_is_found() -> None:
    found = recipe_that_writes("runs/toytown/image_more/model")
    assert (found.stage.value, found.seed) == ("image", 1)
    assert recipe_that_writes("runs/nobody/model") is None


def test_group_choices_become_their_own_classes() -> None:
    assert isinstance(compose("prepare", ["data=toytown"]).data, ToytownData)
    assert isinstance(compose("prepare", ["data=videos", "data.root=x"]).data, VideoFolderConfig)
    assert compose("rollout", ["start=x", "pool=ray"]).pool.kind is PoolKind.RAY
    assert compose("design", ["scene=x", "sampler=ddim"]).sampler.sampler is Sampler.DDIM


# A model's own sampling; overrides; what is sampled then.
GUIDED = SamplingConfig(sampler=Sampler.UNIPC, steps=25, guidance=2.0)
NOISY = SamplingConfig(sampler=Sampler.DDIM, steps=50, eta=0.5, guidance=2.0)
MERGED = {
    "nothing": (GUIDED, [], GUIDED),
    "steps alone": (GUIDED, ["sampler.steps=12"], SamplingConfig(sampler=Sampler.UNIPC, steps=12, guidance=2.0)),
    "another sampler": (GUIDED, ["sampler=ddim"], SamplingConfig(sampler=Sampler.DDIM, steps=50, guidance=2.0)),
    "a sampler and a key": (
        GUIDED,
        ["sampler=ddim", "sampler.steps=9", "sampler.eta=1", "sampler.guidance=1"],
        SamplingConfig(sampler=Sampler.DDIM, steps=9, eta=1.0, guidance=1.0),
    ),
    "guidance alone": (
        NOISY,
        ["sampler.guidance=3"],
        SamplingConfig(sampler=Sampler.DDIM, steps=50, eta=0.5, guidance=3.0),
    ),
    "a sampler that reads no eta": (NOISY, ["sampler=unipc"], GUIDED),
}


@pytest.mark.parametrize("case", MERGED)
@pytest.mark.parametrize("command", ["design", "rollout"])
def test_what_the_command_line_leaves_out_of_the_sampler_is_the_models_own(command: str, case: str) -> None:
    own, overrides, merged = MERGED[case]
    assert compose(command, [*NEEDED[command], *overrides]).sampler.over(own) == merged


def test_an_eta_for_a_sampler_that_reads_none_is_refused() -> None:
    with pytest.raises(ValueError, match="needs sampler ddim, and sampler unipc has none"):
        SamplerOverrides(eta=0.5).over(GUIDED)


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF / "sampler").glob("*.yaml")))
def test_a_sampler_choice_is_named_after_its_sampler_and_leaves_guidance_to_the_model(choice: str) -> None:
    chosen = compose("design", ["scene=x", f"sampler={choice}"]).sampler
    assert chosen.sampler is Sampler(choice)
    assert chosen.steps is not None
    assert chosen.guidance is None and chosen.eta is None


def test_pairs_are_tuples_again() -> None:
    assert compose("prepare", ["data.town.size_hw=[64,128]"]).data.town.size_hw == (64, 128)
    assert compose("evaluate", ["generated=x", "real=y", "protocol.size_hw=[64,128]"]).protocol.size_hw == (64, 128)


# command, overrides, words that the message must hold
MISTAKES = {
    "a key with a typo": ("rollout", ["start=x", "secnds=20"], ["'secnds'", "did you mean 'seconds'?", "futures"]),
    "a nested key with a typo": ("train", ["optim.warmup_step=1"], ["optim.warmup_step", "'warmup_steps'?"]),
    "a typo that is added": ("train", ["+optim.lrr=1"], ["'optim.lrr'", "valid in optim: learning_rate"]),
    "an unknown choice": ("rollout", ["start=x", "pool=raye"], ["unknown pool 'raye'", "'ray'?", "here, ray"]),
    "an unknown experiment": ("train", ["experiment=foo"], ["unknown experiment 'foo'", "toytown/image"]),
    "a typo in an experiment": ("train", ["experiment=toytown/imge"], ["did you mean 'toytown/image'?"]),
    "a word for a number": ("rollout", ["start=x", "futures=many"], ["futures", "'many'", "Integer"]),
    "an unknown enum": ("design", ["scene=x", "sampler=ddim", "sampler.sampler=foo"], ["sampler.sampler", "DDIM"]),
    "a value that is missing": ("rollout", [], ["start", "start=VALUE"]),
    "a folder that is missing": ("prepare", ["data=videos"], ["data.root"]),
    "an unknown sampler": (
        "design",
        ["scene=x", "sampler=ddmi"],
        ["unknown sampler 'ddmi'", "ddim, dpm_solver, lcm, unipc"],
    ),
    "a prompt for a driving model": ("rollout", ["start=x", "prompt=y"], ["unknown key 'prompt'", "family=text"]),
    "a preset of another family": ("rollout", ["start=x", "preset=fast"], ["preset", "family=text"]),
    "an unknown preset": ("rollout", ["family=text", "preset=fsat"], ["unknown preset 'fsat'", "fast, paper"]),
    "a choice in small letters": (
        "rollout",
        ["family=text", "sampler.sampler=unipc"],
        ["expected one of [DDIM, UNIPC", "did you mean 'UNIPC'?"],
    ),
    "a start frame that leads away": ("rollout", ["family=text", "sampler.start_weight=-1"], ["start_weight: -1"]),
    "an unknown precision": ("train", ["trainer.precision=banana"], ["trainer.precision=banana", "bf16-mixed"]),
    "fewer shares than numbers of given frames": (
        "train",
        ["prediction_loss.given=[0,1,2,3]"],
        ["prediction_loss.given_shares=[0.2, 0.3, 0.5]: 3 shares", "given=[0, 1, 2, 3] needs 4"],
    ),
    "a negative share": (
        "train",
        ["prediction_loss.given_shares=[-1,1,1]"],
        ["prediction_loss.given_shares=[-1.0, 1.0, 1.0]", "none may be below 0"],
    ),
    "no share at all": (
        "train",
        ["prediction_loss.given_shares=[0,0,0]"],
        ["prediction_loss.given_shares=[0.0, 0.0, 0.0]", "one must be above it"],
    ),
    "fewer given frames than none": ("train", ["prediction_loss.given=[-1,0,1]"], ["given=[-1, 0, 1]", "from 0 on"]),
    "nothing given at all": ("train", ["prediction_loss.given=[]"], ["prediction_loss.given=[]", "one number"]),
    "all frames given": (
        "train",
        ["experiment=toytown/prediction", "temporal.num_frames=2"],
        ["prediction_loss.given=[0, 1, 2]", "temporal.num_frames=2", "the most is 1"],
    ),
    "a typo with prompts": ("rollout", ["family=text", "propmt=y"], ["did you mean 'prompt'?"]),
    "no steps": ("rollout", ["start=x", "sampler.steps=0"], ["steps: 0"]),
    "guidance below none": ("design", ["scene=x", "sampler.guidance=0.5"], ["guidance scale: 0.5"]),
    "a key of a group without a choice": ("prepare", ["export.crf=20"], ["export=videos"]),
    "three numbers for a size": ("prepare", ["data.town.size_hw=[1,2,3]"], ["size_hw", "3 values, expected 2"]),
    "a number that is refused": ("prepare", ["data.town.num_scenes=-1"], ["num_scenes", "-1"]),
    "a word that sets nothing": ("rollout", ["start"], ["start"]),
    "two equal signs": ("rollout", ["start=a=b"], ["start=a=b"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_the_valid_choices(mistake: str) -> None:
    command, overrides, words = MISTAKES[mistake]
    with pytest.raises(ValueError) as caught:
        compose(command, overrides)
    for word in words:
        assert word in str(caught.value)
    assert "hydra" not in str(caught.value).lower()


def test_configs_are_found_beside_the_package_in_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(_: str) -> Path:
        raise ModuleNotFoundError

    monkeypatch.setattr(config_module, "files", not_installed)
    assert conf_dir() == CONF
    copied = tmp_path / "drivesim" / "config.py"
    copied.parent.mkdir()
    shutil.copy(str(config_module.__file__), copied)
    monkeypatch.setattr(config_module, "__file__", str(copied))
    with pytest.raises(FileNotFoundError, match="installation is broken"):
        conf_dir()


@pytest.mark.parametrize(
    "prompt",
    [
        "a drive at night, three cars",
        "it's late: 3 cars, (wet) road=shiny",
        "'tis night, [two] cars",
        r"a \ and a 'quote', too",
        "ends with \\",
    ],
)
def test_prompts_are_typed_as_they_are_said(prompt: str) -> None:
    config = compose("rollout", ["family=text", f"prompt={prompt}", "negative_prompt=blurry, grey"])
    assert (config.prompt, config.negative_prompt) == (prompt, "blurry, grey")


def test_a_prompt_that_is_quoted_already_stays_as_it_is() -> None:
    assert compose("rollout", ["family=text", "prompt='a, b'"]).prompt == "a, b"


def test_a_prompt_with_a_comma_stands_in_quotes_in_a_list() -> None:
    typed = """prompts=["a drive by day, three cars", 'the driver\\'s view', a drive at night]"""
    config = compose("rollout", ["family=text", typed])
    assert config.prompts == ["a drive by day, three cars", "the driver's view", "a drive at night"]


def test_another_sampler_than_the_presets_drops_the_presets_eta() -> None:
    for sampler in ("unipc", "dpm_solver", "lcm"):
        command = compose("rollout", ["family=text", "preset=paper", f"sampler={sampler}"])
        assert (command.sampler.eta, command.stages.upsample_sampler.eta) == (None, 1.0)
    assert compose("rollout", ["family=text", "preset=paper"]).sampler.eta == 1.0
