"""Checks a data set frame by frame and says what is in it and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivesim.core.camera import project_boxes
from drivesim.core.clip import Clip
from drivesim.core.files import atomic_path, read_json, write_json
from drivesim.core.wording import number_of
from drivesim.data.duplicates import shared_clips, signatures
from drivesim.data.frames import file_stem
from drivesim.data.reading import read_drive
from drivesim.data.sampling import is_too_fast, time_tolerance_s
from drivesim.data.source import SPLITS, ClipSource, Drive, Problem, ProblemKind

_CHECK_HW = (64, 128)  # decoding costs the same at any size; this is enough for signatures
_BOX_HW = (1024, 2048)  # boxes are checked on a picture so fine that none is lost for being small
_ROWS_A_KIND = 5  # in the printed report; the JSON has all
# Not wrong by itself: every road has users beside the picture.
_NOTES = frozenset({ProblemKind.BOX_OUTSIDE})
_FORMAT = 3  # of the files; part of the key


@dataclass(kw_only=True, slots=True)
class PrepareConfig:
    """How closely to look."""

    expected_fps: float | None = None  # others are reported; None = the drives' median, any for captioned clips
    check_fps: float | None = None  # frames a second that are decoded; None = all
    rate_tolerance: float = 0.05  # share by which a rate may differ

    def __post_init__(self) -> None:
        """Refuses numbers by which nothing would be checked."""
        for name in ("expected_fps", "check_fps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"prepare.{name} is {value}; it must be above 0")
        if not self.rate_tolerance >= 0:
            raise ValueError(f"prepare.rate_tolerance is {self.rate_tolerance}; it must not be negative")


@dataclass(kw_only=True, slots=True)
class DriveReport:
    """What was found in one drive."""

    drive: Drive
    num_checked: int = 0  # frames decoded
    num_boxes: int = 0  # in the pictures of those frames
    problems: list[Problem] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Report:
    """What is in a data set and what is wrong with it."""

    source_name: str
    drives: list[Drive]  # that can be used
    problems: list[Problem]
    num_boxes: int  # in the decoded pictures
    num_checked: int  # frames decoded

    def counts(self) -> dict[ProblemKind, int]:
        """Rows of each kind that occurs."""
        kinds = [problem.kind for problem in self.problems]
        return {kind: kinds.count(kind) for kind in ProblemKind if kind in kinds}

    def text(self) -> str:
        """The report for people: drives by split, then problems by kind with the first of each."""
        counted = (number_of(len(self.drives), "drive"), number_of(self.num_checked, "frame"))
        lines = [f"{self.source_name}: {', '.join(counted)} decoded", ""]
        lines.append(f"{'split':8}{'drives':>8}{'frames':>10}{'minutes':>10}{'night':>8}{'fps':>16}")
        for split in SPLITS:
            drives = [drive for drive in self.drives if drive.split == split]
            if drives:
                lines.append(_split_line(split, drives))
        lines += [
            "",
            f"{number_of(self.num_boxes, 'box', 'boxes')} in the pictures" if self.num_boxes else "no boxes",
            "",
        ]
        wrong = [problem for problem in self.problems if problem.kind not in _NOTES]
        notes = [problem for problem in self.problems if problem.kind in _NOTES]
        lines += [f"wrong, {number_of(len(wrong), 'row')}:", *_rows(wrong)] if wrong else ["nothing wrong was found"]
        if notes:
            lines += ["", "worth knowing:", *_rows(notes)]
        return "\n".join(lines) + "\n"


def _rows(problems: list[Problem]) -> list[str]:
    """Lines of problems by kind, the first few of each."""
    lines = []
    for kind in ProblemKind:
        rows = [problem for problem in problems if problem.kind == kind]
        if rows:
            lines.append(f"  {kind.value}: {len(rows)}")
        lines += [f"    {row.where}: {row.detail}" for row in rows[:_ROWS_A_KIND]]
        if len(rows) > _ROWS_A_KIND:
            lines.append(f"    and {len(rows) - _ROWS_A_KIND} more (report.json has all)")
    return lines


def _split_line(split: str, drives: list[Drive]) -> str:
    rates = sorted(drive.fps for drive in drives)
    fps = f"{rates[0]:.4g}" if rates[-1] / rates[0] < 1.01 else f"{rates[0]:.4g}-{rates[-1]:.4g}"
    nights = [drive.is_night for drive in drives]
    night = "unknown" if None in nights else str(sum(bool(night) for night in nights))
    frames, minutes = sum(d.num_frames for d in drives), sum(d.duration_s for d in drives) / 60
    return f"{split:8}{len(drives):>8}{frames:>10}{minutes:>10.1f}{night:>8}{fps:>16}"


def prepare(source: ClipSource, out_dir: Path, config: PrepareConfig | None = None) -> Report:
    """Decodes a data set, writes `index.json`, `report.json` and `report.txt`, and returns the report.

    What is broken is a row; nothing in the data stops the run. Drives that were checked before,
    with the same data and config, are not checked again, so a stopped run goes on.
    """
    config = PrepareConfig() if config is None else config
    out_dir = Path(out_dir)
    spec = {"source": source.fingerprint, "config": asdict(config), "format": _FORMAT}
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    drives = [drive for split in SPLITS for drive in source.drives(split)]
    expected_fps = config.expected_fps or (0.0 if source.mixes_rates else _median_fps(drives))  # 0 = any
    problems = source.problems()
    num_boxes = num_checked = 0
    signatures_of = {}
    for drive in drives:
        found, signatures_of[drive.name] = _checked(source, drive, config, expected_fps, out_dir / f"checks-{key[:16]}")
        problems += found.problems
        num_boxes += found.num_boxes
        num_checked += found.num_checked
    problems += shared_clips(drives, signatures_of)
    report = Report(
        source_name=source.name, drives=drives, problems=problems, num_boxes=num_boxes, num_checked=num_checked
    )
    rows = [asdict(drive) for drive in drives]
    write_json(out_dir / "index.json", {"name": source.name, "fingerprint": source.fingerprint, "drives": rows})
    counts = {kind.value: count for kind, count in report.counts().items()}
    write_json(out_dir / "report.json", {"counts": counts, "problems": [asdict(p) for p in problems]})
    with atomic_path(out_dir / "report.txt") as temporary:
        temporary.write_text(report.text(), encoding="utf-8")
    return report


def _median_fps(drives: list[Drive]) -> float:
    return float(np.median([drive.fps for drive in drives] or [0.0]))


def _checked(
    source: ClipSource, drive: Drive, config: PrepareConfig, expected_fps: float, folder: Path
) -> tuple[DriveReport, NDArray[np.float32]]:
    """The findings and signatures of a drive: from an earlier run, or made now and stored."""
    row_path = folder / f"{file_stem(drive.name)}.json"
    signature_path = row_path.with_suffix(".npy")
    if row_path.is_file():
        row = read_json(row_path)
        found = [Problem(**{**problem, "kind": ProblemKind(problem["kind"])}) for problem in row["problems"]]
        report = DriveReport(drive=drive, num_checked=row["num_checked"], num_boxes=row["num_boxes"], problems=found)
        return report, np.load(signature_path)
    report, drive_signatures = _check(source, drive, config, expected_fps)
    with atomic_path(signature_path) as temporary:
        np.save(temporary, drive_signatures)
    write_json(row_path, asdict(report))
    return report, drive_signatures


def _check(
    source: ClipSource, drive: Drive, config: PrepareConfig, expected_fps: float
) -> tuple[DriveReport, NDArray[np.float32]]:
    report = DriveReport(drive=drive)
    report.problems += _check_times(drive, source.timestamps_s(drive.name), config, expected_fps)
    fps = drive.fps
    if config.check_fps is not None and not is_too_fast(config.check_fps, drive.fps):
        fps = config.check_fps
    pieces = [np.zeros((0, 128), dtype=np.float32)]
    errors: list[str] = []
    outside: dict[str, int] = defaultdict(int)
    for piece in read_drive(source, drive.name, fps, _CHECK_HW):
        if piece.clip is None:
            errors.append(f"at {piece.first / fps:.2f} s: {piece.error}")
            continue
        report.num_checked += len(piece.clip)
        report.num_boxes += sum(len(boxes) for boxes in piece.clip.boxes or ())
        pieces.append(signatures(piece.clip.frames_THWC))
        _count_outside(piece.clip, outside)
    if errors:
        detail = f"{number_of(len(errors), 'frame')} cannot be read, the first {errors[0]}"
        report.problems.append(Problem(where=drive.name, kind=ProblemKind.UNREADABLE, detail=detail))
    if outside["outside"]:
        detail = (
            f"{outside['outside']} of {outside['ahead']} boxes ahead of the camera are not in its picture; left out"
        )
        report.problems.append(Problem(where=drive.name, kind=ProblemKind.BOX_OUTSIDE, detail=detail))
    return report, np.concatenate(pieces)


def _check_times(
    drive: Drive, timestamps_s: NDArray[np.float64], config: PrepareConfig, expected_fps: float
) -> list[Problem]:
    steps_s = np.diff(timestamps_s)
    is_gap = steps_s > 2 * time_tolerance_s(drive.fps)
    problems = []
    if is_gap.any():
        first = int(np.argmax(is_gap))
        detail = f"{int(is_gap.sum())}, the first at {timestamps_s[first]:.2f} s lasts {steps_s[first]:.2f} s"
        problems.append(Problem(where=drive.name, kind=ProblemKind.GAP, detail=detail))
    uneven = np.abs(steps_s[~is_gap] * drive.fps - 1) > 0.2
    if len(uneven) and uneven.mean() > 0.01:
        detail = (
            f"{int(uneven.sum())} of {len(uneven)} steps are off by more than a fifth; "
            f"they last {steps_s[~is_gap].min():.3f} to {steps_s[~is_gap].max():.3f} s"
        )
        problems.append(Problem(where=drive.name, kind=ProblemKind.VARYING_RATE, detail=detail))
    if expected_fps and abs(drive.fps / expected_fps - 1) > config.rate_tolerance:
        detail = f"{drive.fps:.4g} fps, {expected_fps:.4g} expected"
        problems.append(Problem(where=drive.name, kind=ProblemKind.WRONG_RATE, detail=detail))
    return problems


def _count_outside(clip: Clip, counts: dict[str, int]) -> None:
    """Adds up boxes whose middle is ahead of the camera, and those of them that its picture misses."""
    if clip.boxes_3d is None or clip.camera is None:
        return
    camera = clip.camera.resized(_BOX_HW)
    for boxes in clip.boxes_3d:
        _, seen = project_boxes(boxes, camera)
        ahead = np.flatnonzero(boxes.center_m[:, 2] > 0)
        counts["ahead"] += len(ahead)
        counts["outside"] += len(np.setdiff1d(ahead, seen))
