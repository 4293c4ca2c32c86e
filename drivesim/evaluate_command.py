"""What `drivesim evaluate` does: scores, sweeps, claims, scenes, inputs, comparisons; it puts their parts together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivesim.config import EvaluateCommand, compose, scene_paths
from drivesim.core.devices import check_device
from drivesim.core.terminal import Counter
from drivesim.core.wording import number_of
from drivesim.data import ClipSource
from drivesim.evaluate.protocol import ProtocolConfig
from drivesim.evaluate.rollout_folder import given_frames
from drivesim.evaluate.settings import EvaluateConfig

if TYPE_CHECKING:
    from drivesim.evaluate.extractors import Extractor, ExtractorConfig
    from drivesim.rollout.run import OnProgress
    from drivesim.sweep.settings import ClaimsConfig

Record = Callable[..., None]  # writes config and origin into the run folder


@dataclass(kw_only=True, slots=True)
class CommandLine:
    """What the command line hands over beside the config."""

    overrides: Sequence[str]  # as typed
    make_source: Callable[[Any], ClipSource]  # of a group `data`
    on_progress: OnProgress  # shows how far rollouts are


def evaluate_command(config: EvaluateCommand, out: Path, record: Record, line: CommandLine) -> None:
    """Scores videos or a sweep, tests claims or inputs, checks designed scenes, or compares: what is asked for."""
    from drivesim.evaluate.lines import protocol_lines
    from drivesim.evaluate.networks import network_configs
    from drivesim.evaluate.obedience_run import is_of_scenes
    from drivesim.evaluate.run import evaluate_protocols
    from drivesim.sweep.drift_picture import draw_drift

    of_scenes = config.generated is not None and is_of_scenes(config.generated)
    kind = kind_of(config, of_scenes=of_scenes)
    refuse_unread(kind, line.overrides)
    if kind is Kind.COMPARISON:
        _compare(config, out, record)
        return
    if kind is Kind.CONDITION_USE:
        _condition_use(config, out, record)
        return
    if kind is Kind.OBEDIENCE:
        _obedience(config, out, record)
        return
    if kind is Kind.CLAIMS:
        assert config.claims is not None
        _claims(config, config.claims, out, record, line)
        return
    if kind is Kind.SWEEP:
        _sweep(config, out, record, line)
        return
    generated, real = config.sets()
    protocols = compose_protocols(config.protocols, line.overrides) if config.protocols else [config.protocol]
    protocols = without_given_frames(protocols, generated, line)
    for extractor in chain(*network_configs(protocols, config.networks)):
        check_device(extractor.device)
    scores = evaluate_protocols(
        config,
        protocols,
        generated,
        real,
        out,
        makers={"clip-vit-b-32": _text_frame_extractor},
        draw_drift=draw_drift,
    )
    record()
    print(*protocol_lines(scores), f"report: {scores[0].report}", sep="\n")


class Kind(Enum):
    """What may be asked for, in words of a message."""

    COMPARISON = "a comparison of two evaluations that are done"
    CONDITION_USE = "a test of a model's inputs, which makes its own outputs,"
    OBEDIENCE = "a check of designed scenes"
    CLAIMS = "a test of claims, which makes its own videos,"
    SWEEP = "a sweep, which makes its own videos under one protocol,"
    VIDEOS = "an evaluation of videos"


_SCORING = {part.name for part in fields(EvaluateConfig)}
_READ = {  # keys that each kind reads, beside `out`
    Kind.COMPARISON: {"compare", "uncertainty", "force"},
    Kind.CONDITION_USE: {"condition_use", "pool"},
    Kind.OBEDIENCE: {"generated", "real", "obedience"},
    Kind.CLAIMS: {"claims", "pool"} | _SCORING,
    Kind.SWEEP: {"sweep", "real", "pool"} | _SCORING,
    Kind.VIDEOS: {"generated", "real", "protocols"} | _SCORING,
}


def kind_of(config: EvaluateCommand, *, of_scenes: bool) -> Kind:
    """What is asked for; `of_scenes` = the generated folder is one of designed scenes."""
    asked = {
        Kind.COMPARISON: config.compare is not None,
        Kind.CONDITION_USE: config.condition_use.is_asked_for,
        Kind.OBEDIENCE: of_scenes,
        Kind.CLAIMS: config.claims is not None,
        Kind.SWEEP: bool(config.sweep.start),
    }
    return next((kind for kind, is_asked in asked.items() if is_asked), Kind.VIDEOS)


def refuse_unread(kind: Kind, overrides: Sequence[str]) -> None:
    """Raises ValueError for keys that were typed and that this kind of evaluation does not read."""
    typed = {override.lstrip("+~").partition("=")[0].split(".")[0].split("@")[0] for override in overrides}
    known = {part.name for part in fields(EvaluateCommand)} - {"out"}
    if unread := sorted(typed & known - _READ[kind]):
        raise ValueError(f"{kind.value} does not read {', '.join(unread)}; leave {', '.join(unread)} out")


def compose_protocols(names: Sequence[str], overrides: Sequence[str]) -> list[ProtocolConfig]:
    """Several choices of the group protocol, each changed by the overrides that begin with `protocol.`.

    Raises:
        ValueError: an unknown choice, one given twice, or a choice of the group beside them.
    """
    if chosen := [override for override in overrides if override.startswith("protocol=")]:
        raise ValueError(f"{chosen[0]} beside protocols={list(names)}; give one of them")
    if len(set(names)) < len(names):
        raise ValueError(f"protocols={list(names)}: each once")
    shared = [override for override in overrides if override.lstrip("+~").startswith("protocol.")]
    return [compose("evaluate", [f"protocol={name}", *shared]).protocol for name in names]


def without_given_frames(protocols: list[ProtocolConfig], generated: str, line: CommandLine) -> list[ProtocolConfig]:
    """Protocols that leave out no frame where no frame was given: the run folder of videos from prompts says so."""
    is_typed = any(override.lstrip("+~").startswith("protocol.context_frames=") for override in line.overrides)
    if is_typed or given_frames(generated) != 0 or not any(protocol.context_frames for protocol in protocols):
        return protocols
    print(f"{generated}: made from prompts alone, no frame is left out as given (protocol.context_frames=0)")
    return [replace(protocol, context_frames=0) for protocol in protocols]


def _text_frame_extractor(config: ExtractorConfig) -> Extractor:
    """CLIP, from a folder in transformers' format or the hub; for CLIPSIM."""
    from drivesim.evaluate.text_similarity import TextFrameExtractor
    from drivesim.models.text_frame_embeddings import VIT_B_32, TextFrameEmbedder

    return TextFrameExtractor(TextFrameEmbedder.from_pretrained(config.weights or VIT_B_32, config.device), config)


def _obedience(config: EvaluateCommand, out: Path, record: Record) -> None:
    from drivesim.evaluate.obedience_report import obedience_lines
    from drivesim.evaluate.obedience_run import evaluate_obedience

    assert config.generated is not None, "the caller has looked into it"
    found = evaluate_obedience(config.obedience, config.generated, config.real, out)
    record()
    notes = [f"note: {warning}" for warning in found.warnings]
    print(*notes, *obedience_lines(found.rows), f"report: {found.report}", sep="\n")


def _condition_use(config: EvaluateCommand, out: Path, record: Record) -> None:
    from drivesim.evaluate.condition_use import use_lines
    from drivesim.sweep.condition_report import write_condition_use
    from drivesim.sweep.condition_run import run_condition_use

    check_device(config.condition_use.device)
    test = run_condition_use(config.condition_use, out, scene_paths, config.pool.threads)
    record()
    write_condition_use(test, out)
    notes = [f"note: {text}" for text in test.notes]
    print(*notes, *use_lines(test.rows), f"report: {out / 'report.html'}", sep="\n")


def _compare(config: EvaluateCommand, out: Path, record: Record) -> None:
    from drivesim.core.files import write_json
    from drivesim.evaluate.compare import compare
    from drivesim.evaluate.lines import comparison_lines

    comparison = compare(config.compare or [], config.uncertainty, config.force)
    record()
    write_json(out / "comparison.json", asdict(comparison))
    print(*comparison_lines(comparison), f"comparison: {out / 'comparison.json'}", sep="\n")


def _claims(config: EvaluateCommand, claims: ClaimsConfig, out: Path, record: Record, line: CommandLine) -> None:
    from drivesim.sweep.claim_table import write_claims
    from drivesim.sweep.claims import ClaimInputs, run_claims

    record()
    inputs = ClaimInputs(
        settings=config,
        pool=config.pool,
        compose_training=partial(compose, "train"),
        make_source=line.make_source,
    )
    found = run_claims(claims, inputs, out)
    table = write_claims(claims.claims, found, Path(claims.results))
    print(table.as_markdown() + f"results: {claims.results}")


def _sweep(config: EvaluateCommand, out: Path, record: Record, line: CommandLine) -> None:
    from drivesim.evaluate.networks import network_configs
    from drivesim.sweep.drift_picture import draw_drift
    from drivesim.sweep.report import write_sweep
    from drivesim.sweep.run import SweepInputs, run_sweep

    real = config.real_of_sweep()
    (networks,) = network_configs([config.protocol], config.networks)
    for device in (config.sweep.device, *(network.device for network in networks)):
        check_device(device)
    record()
    inputs = SweepInputs(
        settings=config,
        real=real,
        pool=config.pool,
        find_scene=lambda name: scene_paths(name)[0],
        draw_drift=draw_drift,
        on_progress=line.on_progress,
        on_cell=Counter("cell"),
    )
    sweep = run_sweep(config.sweep, inputs, out)
    print(write_sweep(sweep, config.report, real, out).as_markdown() + f"report: {out / 'report.html'}")
    for text in [*sweep.notes, *sweep.failures]:
        print(text, file=sys.stderr)
    if sweep.failures:
        raise SystemExit(
            f"drivesim: {number_of(len(sweep.failures), 'failure')}; again with out={out} tries them again"
        )
