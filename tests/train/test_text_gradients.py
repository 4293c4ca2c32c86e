"""Gradients of the text stages: layers computed again give the same ones, bfloat16 nearly the same ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from drivesim.data.captions import collate_texts, text_bytes
from drivesim.train.config import StageName
from drivesim.train.initial_parts import initial_parts
from drivesim.train.recipes import RECIPES
from drivesim.train.stage import Batch, Stage
from tests.train.tiny_text_training import STAGES, SUBJECTS, Beginnings, settings

Begun = Callable[..., tuple[Stage, Batch]]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """A stage in training, shaken so that no layer is without effect, and a batch of noise for it."""
    root = tmp_path_factory.mktemp("gradients")
    begin = Beginnings.write(root)

    def of(name: StageName, *, again: bool = False) -> tuple[Stage, Batch]:
        made = settings(name, begin, root / "cache")
        made.trainer.gradient_checkpointing = again
        torch.manual_seed(0)
        parts = initial_parts(made)
        stage = RECIPES[name].stage(made, parts).train()
        stage.on_train_start()
        drawn = torch.Generator().manual_seed(1)
        for parameter in stage.trained.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=drawn)
        batch = RECIPES[name].example_batch(made, parts, is_training=True)
        for field in ("latents_BTCHW", "frames_BTCHW"):
            if field in batch:
                batch[field] = 2 * torch.rand(batch[field].shape, generator=drawn) - 1
        if name in SUBJECTS:
            stage.class_latents = torch.randn(3, *batch["latents_BTCHW"].shape[2:], generator=drawn)
        return stage, batch | {"caption_BL": collate_texts([text_bytes("a car at night"), text_bytes("two cars")])}

    return of


@dataclass(kw_only=True, slots=True)
class Step:
    """What a step came to."""

    loss: float
    gradients: dict[str, Tensor]  # by name of the weight
    calls: int  # of layers


def stepped(stage: Stage, batch: Batch, how: AbstractContextManager[object] | None = None) -> Step:
    stage.zero_grad()
    calls: list[object] = []
    hooks = [module.register_forward_hook(lambda *_: calls.append(None)) for module in stage.trained.modules()]
    with how or nullcontext():
        loss = stage.loss(batch, torch.Generator().manual_seed(2))["loss"]
    loss.backward()
    for hook in hooks:
        hook.remove()
    found = {name: p.grad.clone() for name, p in stage.trained.named_parameters() if p.grad is not None}
    return Step(loss=loss.item(), gradients=found, calls=len(calls))


@pytest.fixture(scope="module")
def plain(begun: Begun) -> Callable[[StageName], tuple[Stage, Batch, Step]]:
    """A stage, its batch, and its step in float32 with all layers kept."""

    @cache
    def of(name: StageName) -> tuple[Stage, Batch, Step]:
        stage, batch = begun(name)
        return stage, batch, stepped(stage, batch)

    return of


@pytest.mark.parametrize("name", [stage for stage in STAGES if stage.can_checkpoint_gradients], ids=str)
def test_layers_that_are_computed_again_give_the_same_gradients(name: StageName, begun: Begun, plain) -> None:
    *_, wanted = plain(name)
    found = stepped(*begun(name, again=True))
    assert (found.loss, found.gradients.keys()) == (wanted.loss, wanted.gradients.keys())
    assert found.calls > 1.3 * wanted.calls, "nothing was computed again"
    torch.testing.assert_close(found.gradients, wanted.gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", STAGES, ids=str)
def test_every_weight_is_pulled_the_same_way_in_bfloat16(name: StageName, plain) -> None:
    stage, batch, wanted = plain(name)
    found = stepped(stage, batch, torch.autocast("cpu", torch.bfloat16))  # what trainer.precision=bf16-mixed does
    assert found.loss == pytest.approx(wanted.loss, rel=0.05)
    assert found.loss != wanted.loss
    assert found.gradients.keys() == wanted.gradients.keys()
    most = max(float(gradient.norm()) for gradient in wanted.gradients.values())
    for key, gradient in wanted.gradients.items():
        if gradient.norm() > 0.02 * most:  # of smaller ones mere rounding may be the larger part
            alike = torch.cosine_similarity(found.gradients[key].flatten(), gradient.flatten(), dim=0)
            assert alike > 0.9, f"{key}: {alike:.3f}"
