"""One toytown car in the text family: temporal layers moved to a backbone that was tuned on it keep car and motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from drivesim.config import compose
from drivesim.core.files import read_json
from drivesim.core.seeds import torch_generator
from drivesim.families.prompts import Prompts
from drivesim.families.text import TextModel
from drivesim.families.text_sources import Sources
from drivesim.models.autoencoder import decode
from drivesim.train.dreambooth import LoraReach
from tests.families.test_shipped_text import brightness, turned_deg

NUM_CLIPS = 4
DARK = 95  # grey levels, between night (52) and day (140)
PLAIN = 0.004  # share of a frame's pixels with the subject's colour, twice what clips of any car have
PROMPT, SUBJECT = "a sks car, driving straight", "sks"
Frames = NDArray[np.uint8]


def made(model: TextModel, prompts: Prompts) -> list[Frames]:
    generators = [torch_generator("subject", number) for number in range(NUM_CLIPS)]
    no_start = model.encode(np.zeros((0, *model.start_hw, 3), np.uint8)).expand(NUM_CLIPS, 0, -1, -1, -1)
    latents = model.predict(no_start, generators=generators, conditions=[prompts] * NUM_CLIPS)
    return [decode(model.parts.image.vae, clip) for clip in latents]


def purple_shares(clip: Frames) -> NDArray[np.float64]:
    """Share of each frame's pixels that have the subject's colour, which one car in nine has."""
    red, green, blue = (clip[..., channel].astype(int) for channel in range(3))
    return ((red - green > 30) & (blue - green > 35)).mean(axis=(1, 2))


def change(clips: list[Frames]) -> float:
    """Grey levels by which pixels change from frame to frame."""
    return float(np.mean([np.abs(np.diff(clip.astype(float), axis=0)).mean() for clip in clips]))


def trained(kind: str, repo_root: Path) -> Sources:
    """What a recipe left, if it was run here."""
    folder = repo_root / "runs" / "toytown_text" / kind / "model"
    if not folder.is_dir():
        pytest.skip(f"not trained here: drivesim train experiment=toytown_text/{kind}")
    recipe, run = compose("train", [f"experiment=toytown_text/{kind}"]), read_json(folder.parent / "run.json")
    reach = run["dreambooth"].get("lora_reach", LoraReach.ATTENTION.value)
    if (run["max_steps"], reach) != (recipe.trainer.max_steps, recipe.dreambooth.lora_reach.value):
        pytest.skip(f"{folder.parent} is of an earlier recipe; delete it and train experiment=toytown_text/{kind}")
    return Sources(image=str(folder)) if kind == "dreambooth" else Sources(lora=[str(folder)])


@pytest.fixture(scope="module", params=["shipped", "dreambooth", "dreambooth_lora"])
def personal(request: pytest.FixtureRequest, repo_root: Path) -> tuple[str, TextModel]:
    """The shipped family with an image model that knows the subject, and how it came to know it."""
    kind = request.param
    sources = Sources(lora=["toytown_sks_car"]) if kind == "shipped" else trained(kind, repo_root)
    return kind, TextModel.from_pretrained("toytown_text", sources=sources)


@pytest.fixture(scope="module")
def clips(personal: tuple[str, TextModel]) -> tuple[list[Frames], list[Frames]]:
    """Clips of any car by the shipped image model, and of the subject by the tuned one; prints what is purple."""
    kind, tuned = personal
    own = made(TextModel.from_pretrained("toytown_text"), Prompts(prompts=[PROMPT.replace(f"{SUBJECT} ", "")]))
    subject = made(tuned, Prompts(prompts=[PROMPT], subject=SUBJECT))
    before, after = (np.array([purple_shares(clip) for clip in of]) for of in (own, subject))
    print(f"\n{kind}: purple {100 * before.mean():.2f} % before, {100 * after.mean():.2f} % after; in the frames of")
    print("\n".join(f"  clip {n}: {' '.join(f'{100 * share:.1f}' for share in row)} %" for n, row in enumerate(after)))
    print(f"changes from frame to frame: {change(own):.1f} before, {change(subject):.1f} after (grey levels)")
    return own, subject


def test_the_car_comes_more_often_and_the_clips_move_as_before(clips: tuple[list[Frames], list[Frames]]) -> None:
    own, subject = clips
    before, after = (np.mean([purple_shares(clip) for clip in of]) for of in clips)
    assert after > before
    assert 0.5 < change(subject) / change(own) < 2


def test_the_car_is_there_in_every_frame_of_most_clips(clips: tuple[list[Frames], list[Frames]]) -> None:
    before, after = (np.array([purple_shares(clip) for clip in of]) for of in clips)
    assert after.mean() > 3 * before.mean()
    assert (after.min(axis=1) > before.mean()).mean() >= 0.75


def test_light_and_way_are_as_asked_with_the_subject(personal: tuple[str, TextModel]) -> None:
    kind, tuned = personal
    night, left, right = (
        made(tuned, Prompts(prompts=[f"a {SUBJECT} car{said}"], subject=SUBJECT))
        for said in (" at night", ", left turn", ", right turn")
    )
    at_night, turning = (np.array([purple_shares(clip) for clip in of]) for of in (night, left + right))
    to_left, to_right = turned_deg(left), turned_deg(right)
    print(f"\n{kind}, night: grey levels {brightness(night).round()}, purple {100 * at_night.min(axis=1)} % at least")
    print(f"degrees to the left: {to_left.round(1)} and {to_right.round(1)}; purple {100 * turning.mean(axis=1)} %")
    assert (brightness(night) < DARK).all()
    assert (at_night.min(axis=1) > PLAIN).mean() >= 0.75
    assert to_left.mean() > to_right.mean() + 5
    assert (turning.max(axis=1) > PLAIN).mean() >= 0.5
