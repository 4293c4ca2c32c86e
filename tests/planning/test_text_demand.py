"""Plans of text-to-video rollouts: a model without weights makes all calls, each as often as the rollout does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drivesim.config import compose
from drivesim.diffusion.settings import PredictionOverrides
from drivesim.families.text import TextModel
from drivesim.planning.demand import Phase
from drivesim.planning.rollout_demand import blank_model
from drivesim.planning.text_demand import blank_text_model, text_demand
from tests.families.tiny_text import write_tiny_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_text(tmp_path_factory.mktemp("text") / "model")


def test_every_stage_is_counted_as_often_as_it_runs(folder: Path) -> None:
    command = compose("plan", ["rollout", "family=text", f"model={folder}", "futures=2", "key_frames=4"])
    demand = text_demand(command, blank_text_model(command))
    counts = {phase.name: phase.count for phase in demand.phases}
    # 13 frames: 3 gaps of 1 and 2 windows; portions of 4 begin every 2 frames, at 0 .. 8 and, for the last one, 9.
    assert counts == {
        "key frames": 2, "frames between, 1 windows to 2 fps": 6, "frames between, 2 windows to 4 fps": 6,
        "decoding 13 frames": 2, "upscaling 4 frames": 2 * 6, "decoding a large frame": 26,
    }  # fmt: skip
    assert all(phase.work.flops > 0 for phase in demand.phases)
    loaded = TextModel.from_pretrained(folder).parts.networks()
    assert {part.name: part.num_parameters for part in demand.parts} == {
        name: sum(p.numel() for p in network.parameters()) for name, network in loaded.items()
    }


def test_more_steps_more_guidance_and_whole_calls_cost_more(folder: Path) -> None:
    def flops(*overrides: str) -> float:
        alone = ["stages.interpolate=false", "stages.upsampling=NONE"]
        command = compose("plan", ["rollout", "family=text", f"model={folder}", *alone, *overrides])
        demand = text_demand(command, blank_text_model(command))
        (phase,) = (phase for phase in demand.phases if phase.name == "key frames")
        return phase.work.flops

    base = flops("sampler.steps=4")
    assert flops("sampler.steps=8") == pytest.approx(2 * base, rel=0.1)
    assert flops("sampler.steps=4", "sampler.guidance=1") == pytest.approx(base / 2, rel=0.1)
    # Of every two calls one is whole; of the other the top level alone.
    assert 0.5 * base < flops("sampler.steps=4", "sampler.deep_every=2") < 0.95 * base


def test_a_start_frame_that_leads_costs_a_backward_pass_in_every_step(folder: Path) -> None:
    def key_frames(*overrides: str) -> Phase:
        alone = ["stages.interpolate=false", "stages.upsampling=NONE", "sampler.steps=4"]
        command = compose("plan", ["rollout", "family=text", f"model={folder}", *alone, *overrides])
        demand = text_demand(command, blank_text_model(command))
        (phase,) = (phase for phase in demand.phases if phase.name == "key frames")
        return phase

    base, shown, led = key_frames(), key_frames("start=a.png", "sampler.start_weight=0"), key_frames("start=a.png")
    assert shown.work.flops == pytest.approx(base.work.flops, rel=0.01)
    # Layers run again, and the gradients of what they are handed, but not of weights.
    assert 2.7 * base.work.flops < led.work.flops < 3.3 * base.work.flops
    assert led.peak_bytes > 1.3 * shown.peak_bytes


def test_another_type_of_weights_is_planned_without_a_word(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = compose("plan", ["rollout", "family=text", f"model={folder}", "weights=bfloat16"])
    assert {network.dtype for network in blank_text_model(command).parts.networks().values()} == {torch.bfloat16}
    assert capfd.readouterr().err == ""


def test_the_published_clip_costs_at_most_100_pflop_by_default() -> None:
    """113 frames of 1280 x 2048."""
    command = compose("plan", ["rollout", "family=text", "stages.interpolate=true"])
    model = blank_text_model(command)
    assert (model.num_frames, model.size_hw) == (8, (1280, 2048))
    phases = text_demand(command, model).phases
    assert sum(phase.count * phase.work.flops for phase in phases) < 100e15
    upscaling = sum(phase.count * phase.work.flops for phase in phases if phase.name.startswith("upscaling"))
    assert 40e15 < upscaling < 75e15


@pytest.mark.parametrize(("weights", "autoencoders"), [("float16", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autoencoders_that_overflow_in_float16_are_planned_as_they_run(
    folder: Path, weights: str, autoencoders: torch.dtype
) -> None:
    command = compose("plan", ["rollout", "family=text", f"model={folder}", f"weights={weights}"])
    networks = blank_text_model(command).parts.networks()
    assert {networks[f"{name}/vae"].dtype for name in ("image", "upscaler")} == {autoencoders}
    assert networks["image/unet"].dtype == getattr(torch, weights)
    driving = blank_model("toytown", PredictionOverrides(), dtype=getattr(torch, weights)).parts
    assert (driving["autoencoder"].dtype, driving["backbone"].dtype) == (autoencoders, getattr(torch, weights))
