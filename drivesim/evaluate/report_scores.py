"""The report's sections on scores: a verdict, tables with controls, published results, the card, a protocol each."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from string import Template

import numpy as np

from drivesim.core.wording import number_of
from drivesim.evaluate.diversity import Diversity
from drivesim.evaluate.extractors import FeatureKind
from drivesim.evaluate.protocol import SetCard
from drivesim.evaluate.published import PublishedResult
from drivesim.evaluate.scores import ContentBias, Score, ScoreRow, Scores

_SECTION = Template("""<section class="protocol">
<h2>Scores$under</h2>
<p class="soft">$sets</p>
$verdict
$warnings
<div class="metrics">$scores</div>
$content_bias
$published
<p class="soft">Scores with the comparison key $card_sha256 may be compared.</p>
<details><summary>Protocol card: everything that the scores depend on</summary><pre>$card</pre></details>
</section>
""")


def protocol_section(scores: Scores, is_one_of_several: bool) -> str:
    """All that one protocol says."""
    tables = dict.fromkeys((score.extractor, score.metric) for score in scores.scores)
    under = f" under protocol {scores.card.protocol['name']}" if is_one_of_several else ""
    return _SECTION.substitute(
        under=html.escape(under),
        sets=html.escape(f"{_set(scores.card.generated)} against real {_set(scores.card.real)}"),
        verdict=_verdict(scores),
        warnings="".join(f'<p class="warning">{html.escape(text)}</p>' for text in scores.warnings),
        scores="".join(_metric([s for s in scores.scores if (s.extractor, s.metric) == table]) for table in tables),
        content_bias="".join(_content_bias(entry) for entry in scores.content_bias),
        published=_published(scores.published),
        card=html.escape(json.dumps(scores.card.as_dict(), indent=2, ensure_ascii=False)),
        card_sha256=scores.card_sha256,
    )


def _set(card: SetCard) -> str:
    return f"{card.name} ({number_of(card.num_videos, 'video')}, {number_of(card.num_clips, 'clip')})"


def _verdict(scores: Scores) -> str:
    """One sentence a clip metric: what the generated videos beat. Single frames say nothing of motion."""
    sentences = []
    kinds = {network["name"]: network["kind"] for network in scores.card.extractors}
    for extractor, metric in dict.fromkeys((s.extractor, s.metric) for s in scores.scores if s.num_right):
        rows = {s.row: s for s in scores.scores if (s.extractor, s.metric) == (extractor, metric)}
        controls = [rows[row] for row in (ScoreRow.FROZEN, ScoreRow.SHUFFLED) if row in rows]
        if kinds[extractor] != FeatureKind.CLIP.value or not controls:
            continue
        mine = rows[ScoreRow.GENERATED].value
        parts = [
            f"{'nearer' if mine < control.value else 'not nearer'} than {control.row.value} ({control.value:.4g})"
            for control in controls
        ]
        mark = "good" if all(mine < control.value for control in controls) else "bad"
        text = f"{metric}, to real driving: generated videos ({mine:.4g}) are {', '.join(parts)}."
        sentences.append(f'<p class="{mark}">{html.escape(text)}</p>')
    return "".join(sentences)


def _metric(rows: Sequence[Score]) -> str:
    """The table of one score, with logarithmic bars: a frozen video may be a thousand times farther."""
    smallest = min((score.value for score in rows if score.value > 0), default=1.0)
    longest = max(_bar(score.value, smallest) for score in rows) or 1.0
    cells = "".join(
        f'<tr class="{"mine" if score.row is ScoreRow.GENERATED else "control"}">'
        f"<th>{html.escape(score.row.value)}</th>"
        f'<td class="value">{score.value:.5g}{_spread(score)}</td>'
        f'<td class="interval">{_interval(score)}</td>'
        f'<td class="bar"><i style="width:{100 * _bar(score.value, smallest) / longest:.2f}%"></i></td>'
        f'<td class="count">{_counts(score)}</td></tr>'
        for score in rows
    )
    level = next((f"{score.interval.level:.0%} " for score in rows if score.interval is not None), "")
    what, better = (
        ("score", "higher is better") if rows[0].higher_is_better else ("distance", "lower is nearer to real")
    )
    head = (
        f"<tr><th></th><td>{what}</td><td>at infinitely many, {level}interval</td>"
        f"<td>{better} (logarithmic)</td><td>vectors</td></tr>"
    )
    return f'<section class="metric"><h3>{html.escape(rows[0].metric)}</h3><table>{head}{cells}</table></section>'


def _bar(value: float, smallest: float) -> float:
    """The length of a bar; kernel distances may fall below 0 and then have none."""
    return float(np.log1p(max(value, 0.0) / smallest))


def _spread(score: Score) -> str:
    return "" if score.spread is None else f" &plusmn; {score.spread:.3g}"


def _counts(score: Score) -> str:
    return f"{score.num_left} / {score.num_right}" if score.num_right else f"{score.num_left}"


def _interval(score: Score) -> str:
    """Estimate and ends; a dash where there are too few vectors or drives, which a warning explains."""
    if score.interval is None:
        return "&ndash;"
    return f"{html.escape(score.middle)} <span>[{score.interval.low:.4g}, {score.interval.high:.4g}]</span>"


def _content_bias(entry: ContentBias) -> str:
    """One sentence on what shuffling the generated frames does to a score."""
    text = f"{entry.metric}: shuffling the generated frames changes the score by {entry.rise:+.4g}{entry.in_percent}"
    if entry.interval is not None:
        text += f", at infinitely many clips by {entry.interval.low:+.4g} to {entry.interval.high:+.4g}"
    text += "." if entry.is_seen else "; a metric that sees motion has to rise."
    return f'<p class="{"good" if entry.is_seen else "bad"}">{html.escape(text)}</p>'


def _published(results: Sequence[PublishedResult]) -> str:
    """The table of others' results under the same card; nothing where there are none."""
    if not results:
        return ""
    rows = "".join(
        f"<tr><th>{html.escape(result.model)}</th><td>{html.escape(result.metric)}</td>"
        f'<td class="value">{result.value:g}</td><td>{html.escape(result.data_set)}</td>'
        f"<td>{html.escape('; '.join(filter(None, (result.source, result.note))))}</td></tr>"
        for result in results
    )
    head = "<tr><th></th><td>metric</td><td>published</td><td>data set</td><td>source</td></tr>"
    return f"<h2>Published under this protocol</h2><table>{head}{rows}</table>"


def diversity_section(entries: Sequence[Diversity]) -> str:
    """The section on futures of one start; nothing where there are none."""
    if not entries:
        return ""
    legend = "Line: spread of the futures over time. Dashed: spread of re-encodings of one future, on average."
    head = f'<h2>Do the futures of one start frame differ?</h2><p class="soft">{legend}</p>'
    return head + "".join(_diversity(entry) for entry in entries)


def _diversity(entry: Diversity) -> str:
    """One start frame's futures: numbers and the curve of their spread."""
    text = (
        f"{entry.name} and {entry.num_futures - 1} more of its start frame differ by {entry.futures:.2f} grey levels "
        f"(root mean square over pairs), re-encodings of one by {entry.reencodings:.2f}: {entry.ratio:.3g} times that."
    )
    top = max(max(entry.curve), entry.reencodings, 1e-9)
    steps = max(len(entry.curve) - 1, 1)
    points = " ".join(f"{300 * i / steps:.1f},{58 - 54 * value / top:.1f}" for i, value in enumerate(entry.curve))
    level = 58 - 54 * entry.reencodings / top
    return (
        f'<div class="diversity"><svg viewBox="0 0 300 60" role="img" aria-label="spread over time">'
        f'<line x1="0" x2="300" y1="{level:.1f}" y2="{level:.1f}"/><polyline points="{points}"/></svg>'
        f"<p>{html.escape(text)}</p></div>"
    )
