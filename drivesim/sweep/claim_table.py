"""What the claims came to: both arms over seeds, their paired difference, and whether the ordering holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from drivesim.core.files import atomic_path
from drivesim.sweep.claims import Claims
from drivesim.sweep.repeated import Repeated, over_seeds
from drivesim.sweep.rows import write_rows
from drivesim.sweep.settings import ClaimConfig
from drivesim.sweep.table import Table, shown

COLUMNS = ["claim", "measure", "claimed to be lower", "mean", "other", "mean", "difference", "seeds", "ordering"]


class Verdict(str, Enum):
    """Whether the first arm is nearer to real video, by the paired difference over seeds."""

    HOLDS = "holds"  # its whole interval is above 0
    OPEN = "as claimed, but the interval holds 0"
    AGAINST = "against the claim, but the interval holds 0"
    REVERSED = "reversed"  # its whole interval is below 0
    FOR = "as claimed, but one seed has no interval"
    NOT_FOR = "against the claim, but one seed has no interval"
    ALIKE = "no difference"


@dataclass(kw_only=True, slots=True)
class Outcome:
    """One claim by one metric."""

    claim: str
    metric: str
    arms: tuple[str, str]
    means: tuple[Repeated, Repeated]
    difference: Repeated  # second arm minus first, seed by seed
    verdict: Verdict


def outcomes(claims: Sequence[ClaimConfig], found: Claims) -> list[Outcome]:
    """Every claim that was run, by each of its metrics, over the seeds that both arms have."""
    results = []
    for claim in claims:
        rows = [row for row in found.rows if row.claim == claim.name]
        first, second = (arm.name for arm in claim.arms)
        for metric in dict.fromkeys(row.metric for row in rows):
            values = {(row.arm, row.seed): row.value for row in rows if row.metric == metric}
            seeds = [seed for arm, seed in values if arm == first and (second, seed) in values]
            pairs = [(values[first, seed], values[second, seed]) for seed in seeds]
            difference = over_seeds([b - a for a, b in pairs])
            results.append(
                Outcome(
                    claim=claim.name,
                    metric=metric,
                    arms=(first, second),
                    means=(over_seeds([a for a, _ in pairs]), over_seeds([b for _, b in pairs])),
                    difference=difference,
                    verdict=verdict_of(difference),
                )
            )
    return results


def verdict_of(difference: Repeated) -> Verdict:
    """What the difference of the other arm and the one that is expected to be lower says."""
    if difference.mean == 0:
        return Verdict.ALIKE
    if difference.low is None or difference.high is None:
        return Verdict.FOR if difference.mean > 0 else Verdict.NOT_FOR
    if difference.mean > 0:
        return Verdict.HOLDS if difference.low > 0 else Verdict.OPEN
    return Verdict.REVERSED if difference.high < 0 else Verdict.AGAINST


def claim_table(results: Sequence[Outcome], found: Claims) -> Table:
    """A line a claim and metric; claims that were not run are lines, too."""
    cells = [
        [
            outcome.claim,
            outcome.metric,
            outcome.arms[0],
            shown(outcome.means[0]),
            outcome.arms[1],
            shown(outcome.means[1]),
            shown(outcome.difference),
            str(outcome.difference.num_seeds),
            outcome.verdict.value,
        ]
        for outcome in results
    ]
    cells += [[claim, "", "", "", "", "", "", "", f"not run: {why}"] for claim, why in found.not_run.items()]
    return Table(columns=COLUMNS, cells=cells)


def write_claims(claims: Sequence[ClaimConfig], found: Claims, folder: Path) -> Table:
    """Writes results.jsonl and the table as table.csv, table.md, table.tex; gives the table back."""
    table = claim_table(outcomes(claims, found), found)
    write_rows(folder / "results.jsonl", found.rows)
    sentences = "".join(f"- {claim.name}: {claim.says}\n" for claim in claims)
    texts = {"csv": table.as_csv(), "md": f"{sentences}\n{table.as_markdown()}", "tex": table.as_latex()}
    for suffix, text in texts.items():
        with atomic_path(folder / f"table.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return table
