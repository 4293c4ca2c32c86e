"""Claims: arms trained and measured once each, and orderings reported as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.core.files import read_rows
from drivesim.data import NuScenesConfig, make_source
from drivesim.data.source import ClipSource
from drivesim.diffusion.schedule import training_schedule
from drivesim.diffusion.settings import ScheduleConfig
from drivesim.evaluate.controls import ControlsConfig
from drivesim.evaluate.drift import DriftConfig
from drivesim.evaluate.networks import NetworkFile
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.reconstruction import clip_errors
from drivesim.evaluate.settings import EvaluateConfig
from drivesim.families.folder import load_parts, save_parts, write_index
from drivesim.models.build import SpatialLayers, TemporalConfig
from drivesim.models.upsampler import (
    UpsamplerConfig,
    UpsamplerTemporalConfig,
    make_upsampler,
    make_upsampler_temporal,
)
from drivesim.models.video_decoder import VideoDecoderConfig
from drivesim.rollout.pools import PoolConfig
from drivesim.sweep import claim_measures
from drivesim.sweep.claim_measures import DIFFERENCE, ERROR, HeldOut, Unit, measure_upsampling
from drivesim.sweep.claim_table import Verdict, outcomes, verdict_of, write_claims
from drivesim.sweep.claims import ClaimInputs, ClaimRow, Claims, run_claims
from drivesim.sweep.repeated import Repeated
from drivesim.sweep.settings import ArmConfig, ClaimConfig, ClaimsConfig, Measure, TrainingConfig
from drivesim.toytown import TownConfig, write_nuscenes
from drivesim.train import fit as training
from drivesim.train.config import StageName, TrainConfig, TrainerConfig
from drivesim.train.optim import OptimConfig
from tests.families.tiny_family import write_tiny_family

VERSION = "v1.0-toytown"  # of the tables
ROLLOUT = ClaimConfig(
    name="frozen",
    says="Frozen is nearer.",
    measure=Measure.ROLLOUT,
    arms=[ArmConfig(name="frozen", training="prediction"), ArmConfig(name="scratch", training="scratch")],
)
GUIDANCE = ClaimConfig(
    name="guidance",
    says="Guided is nearer.",
    measure=Measure.ROLLOUT,
    arms=[
        ArmConfig(name="guided", training="prediction", guidance=2.0),
        ArmConfig(name="plain", training="prediction"),
    ],
)
DECODER = ClaimConfig(
    name="decoder",
    says="Tuned is nearer.",
    measure=Measure.RECONSTRUCTION,
    arms=[
        ArmConfig(name="tuned", training="decoder"),
        ArmConfig(name="image", training="decoder", parts_off=["video_decoder"]),
    ],
)
UPSAMPLER = ClaimConfig(
    name="upsampler",
    says="Video is nearer.",
    measure=Measure.UPSAMPLING,
    arms=[ArmConfig(name="video", training="upsampler"), ArmConfig(name="image", training="upsampler")],
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("claims")
    write_tiny_family(root / "model")
    write_nuscenes(TownConfig(num_scenes=2, duration_s=4.0, fps=8.0, key_fps=4.0, size_hw=(32, 64)), root / "town")
    return root


def claims(place: Path, *chosen: ClaimConfig) -> ClaimsConfig:
    names = ("prediction", "scratch", "decoder", "upsampler")
    return ClaimsConfig(
        claims=list(chosen),
        trainings=[TrainingConfig(name=name, overrides=[f"training={name}"]) for name in names],
        seeds=[0, 1],
        model=str(place / "model"),
        num_clips=2,
    )


def inputs(place: Path) -> ClaimInputs:
    def compose(overrides: Sequence[str]) -> TrainConfig:
        given = dict(override.split("=", 1) for override in overrides)
        stage = {
            "prediction": StageName.PREDICTION, "scratch": StageName.PREDICTION, "decoder": StageName.VIDEO_DECODER,
            "upsampler": StageName.UPSAMPLER,
        }[given["training"]]  # fmt: skip
        spatial = SpatialLayers.SCRATCH if given["training"] == "scratch" else SpatialLayers.FROZEN
        config = WithData(
            stage=stage,
            init=given["init"].strip("'"),
            seed=int(given["seed"]),
            size_hw=[32, 64],
            cache_dir=str(place / "cache"),
            temporal=TemporalConfig(num_frames=10, context_channels=8, feed_forward_mult=1, spatial=spatial),
            cache_fps=8.0,
            video_decoder=VideoDecoderConfig(num_frames=2, fps=8.0),  # another rate than the protocol's
            optim=OptimConfig(learning_rate=1e-2, warmup_steps=1, ema_decay=0.0),
            trainer=TrainerConfig(max_steps=1, progress=False, accelerator="cpu"),
        )
        config.loader.batch_size, config.loader.num_val_items = 1, 1
        config.predict_sampling.steps = 1
        return config

    def source(_: object) -> ClipSource:
        return make_source(NuScenesConfig(root=str(place / "town"), version=VERSION, val_scenes=["toytown-0001"]))

    settings = EvaluateConfig(
        protocol=ProtocolConfig(num_frames=8, fps=4.0),
        controls=ControlsConfig(frozen=False, shuffled=False, noisy=False, floor=False),
        drift=DriftConfig(enabled=False),
        diversity=False,
    )
    return ClaimInputs(settings=settings, pool=PoolConfig(), compose_training=compose, make_source=source)


class WithData(TrainConfig):
    """The config of a training as the command line makes it."""

    data = None


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Claims, Path]:
    out = place / "out"
    return run_claims(claims(place, ROLLOUT, GUIDANCE, DECODER, UPSAMPLER), inputs(place), out), out


def test_every_arm_has_a_number_a_seed_and_shared_arms_are_measured_once(finished: tuple[Claims, Path]) -> None:
    found, out = finished
    assert {(row.claim, row.arm, row.seed) for row in found.rows} == {
        (claim.name, arm.name, seed) for claim in (ROLLOUT, GUIDANCE, DECODER) for arm in claim.arms for seed in (0, 1)
    }
    units = [row["unit"] for row in read_rows(out / "units.jsonl")]
    assert sorted(units) == sorted(set(units))
    assert len(units) == 2 * 3 + 2 * 2  # prediction, scratch and guided; decoder with and without its layers
    clip = {(row.claim, row.arm, row.seed): row.value for row in found.rows if "clip distance" in row.metric}
    assert clip["frozen", "frozen", 0] == clip["guidance", "plain", 0] != clip["guidance", "guided", 0]
    assert clip["frozen", "frozen", 0] != clip["frozen", "frozen", 1]


def test_a_decoder_without_its_layers_is_the_image_decoder_for_every_seed(finished: tuple[Claims, Path]) -> None:
    found, _ = finished
    values = {(row.arm, row.seed): row.value for row in found.rows if row.metric == DIFFERENCE}
    assert values["image", 0] == values["image", 1]
    assert values["tuned", 0] != values["tuned", 1]
    assert {row.metric for row in found.rows if row.claim == "decoder"} >= {DIFFERENCE, ERROR}


def test_a_claim_whose_parts_are_not_there_is_not_run_and_says_so(
    finished: tuple[Claims, Path], tmp_path: Path
) -> None:
    found, _ = finished
    assert "has no part upsampler, upsampler_scheduler" in found.not_run["upsampler"]
    table = write_claims([ROLLOUT, GUIDANCE, DECODER, UPSAMPLER], found, tmp_path)
    assert table.cells[-1][0] == "upsampler" and table.cells[-1][-1].startswith("not run: ")
    assert len(read_rows(tmp_path / "results.jsonl")) == len(found.rows)
    assert "Frozen is nearer." in (tmp_path / "table.md").read_text()


def test_finished_arms_are_not_run_again_and_changed_ones_are(
    finished: tuple[Claims, Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, out = finished

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(training, "fit", never)
    monkeypatch.setattr(claim_measures, "evaluate", never)
    again = run_claims(claims(place, ROLLOUT, DECODER), inputs(place), out)
    assert again.rows == [row for row in found.rows if row.claim != "guidance"]
    with pytest.raises(AssertionError, match="done again"):
        run_claims(replace(claims(place, ROLLOUT), num_clips=3), inputs(place), out)
    others = inputs(place)
    others.settings.networks = [NetworkFile(name="toytown-clip", sha256="0" * 64)]
    with pytest.raises(AssertionError, match="done again"):
        run_claims(claims(place, ROLLOUT), others, out)
    on_other_data = inputs(place)
    on_other_data.make_source = lambda _: make_source(NuScenesConfig(root=str(place / "town"), version=VERSION))
    with pytest.raises(AssertionError, match="done again"):
        run_claims(claims(place, DECODER), on_other_data, out)


def test_an_upsampler_without_its_layers_makes_each_frame_by_itself(place: Path, tmp_path: Path) -> None:
    config = TrainConfig(stage=StageName.UPSAMPLER, init="x", size_hw=[8, 16], fps=4.0)
    own = UpsamplerConfig(
        patch_px=2, block_out_channels=[8, 16], attention=[False, False], layers_per_block=1, norm_num_groups=4
    )
    torch.manual_seed(0)
    unet = make_upsampler(own, (8, 16))
    temporal = make_upsampler_temporal(UpsamplerTemporalConfig(context_channels=4, feed_forward_mult=1), unet)
    for parameter in temporal.parameters():  # a fresh stack of this kind changes nothing
        torch.nn.init.normal_(parameter, std=0.3)
    parts = load_parts(place / "model", ["autoencoder"])
    parts |= {"upsampler": unet, "upsampler_scheduler": training_schedule(ScheduleConfig())}
    save_parts(tmp_path / "model", parts | {"upsampler_temporal": temporal})
    sampling = {"sampler": "ddim", "steps": 1, "eta": 0.0, "guidance": 1.0}
    facts = {"scale": 4, "patch_px": 2, "detail_gain": None, "noise_level": 10}
    index = {"name": "tiny", "upsampler": facts, "upsample_sampling": sampling}
    write_index(tmp_path / "model", index | {"upsampler_temporal": {"portion": 8, "overlap": 2}})
    given = inputs(place)
    values = {}
    for name, parts_off in (("video", []), ("image", ["upsampler_temporal"]), ("again", [])):
        unit = Unit(
            trained=tmp_path / "model",
            arm=ArmConfig(name=name, training="upsampler", parts_off=parts_off),
            held_out=HeldOut(source=given.make_source(None), training=config, num_clips=2),
            settings=given.settings,
            pool=given.pool,
            seed=3,
            folder=tmp_path / name,
        )
        values[name] = measure_upsampling(unit)
    assert values["video"] == values["again"]
    assert values["video"][DIFFERENCE] != values["image"][DIFFERENCE]
    assert set(values["video"]) >= {DIFFERENCE, ERROR, "Fréchet clip distance (toytown-clip)"}


def rows(first: Sequence[float], second: Sequence[float]) -> Claims:
    arms = {"frozen": first, "scratch": second}
    return Claims(
        rows=[
            ClaimRow(claim="frozen", arm=arm, seed=seed, metric="m", value=value, steps=1, train_s=0, measure_s=0)
            for arm, values in arms.items()
            for seed, value in enumerate(values)
        ]
    )


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0, 2.0, 3.0], [2.0, 3.1, 4.1], Verdict.HOLDS),  # seeds spread far more than the paired differences
        ([1.0, 2.0, 3.0], [2.0, 1.0, 4.0], Verdict.OPEN),
        ([2.0, 1.0, 4.0], [1.0, 2.0, 3.0], Verdict.AGAINST),
        ([2.0, 3.1, 4.1], [1.0, 2.0, 3.0], Verdict.REVERSED),
        ([1.0, 2.0], [1.0, 2.0], Verdict.ALIKE),
        ([1.0], [2.0], Verdict.FOR),  # one seed proves nothing
    ],
)
def test_an_ordering_is_reported_as_it_is(first: list[float], second: list[float], verdict: Verdict) -> None:
    (outcome,) = outcomes([ROLLOUT], rows(first, second))
    assert outcome.verdict is verdict
    assert outcome.difference.mean == pytest.approx(np.mean(np.array(second) - np.array(first)))


def test_a_difference_whose_interval_touches_zero_is_open() -> None:
    assert verdict_of(Repeated(mean=1.0, low=0.0, high=2.0, num_seeds=3)) is Verdict.OPEN


def test_the_error_of_differences_is_0_for_another_brightness_and_twice_the_flicker_else() -> None:
    clip = np.full((6, 4, 8, 3), 100, dtype=np.uint8)
    assert clip_errors(clip, clip + 20)[0] == 0.0
    flicker = clip + np.array([0, 5, 0, 5, 0, 5], dtype=np.uint8)[:, None, None, None]
    assert clip_errors(clip, flicker)[0] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"only": ["frozn"]}, "claims.only: unknown frozn; valid: frozen"),
        ({"seeds": []}, r"claims.seeds=\[\]"),
        ({"trainings": []}, "claim frozen: no training prediction, scratch"),
        ({"claims": [replace(ROLLOUT, arms=ROLLOUT.arms[:1])]}, "claim frozen: 1 arms"),
    ],
)
def test_claims_that_cannot_be_run_are_refused(change: dict[str, object], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(claims(tmp_path, ROLLOUT), **change)  # type: ignore[arg-type]
