"""The results browser: one HTML file of a run, or of several runs side by side.

Scores with intervals and paired differences, training curves, the items that changed from wrong to right and back with
their images and scores, and what made all of it. See :mod:`scramble.pages` for what the page may and may not do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from scramble import pages
from scramble.evaluation import results
from scramble.evaluation.items import Benchmark, CaptionChoice, Item
from scramble.evaluation.outcomes import Outcome
from scramble.pages.texts import marked, word_edits
from scramble.records import Quad, RecordError
from scramble.report import changes, charts, comparison
from scramble.report.comparison import Folders, Row
from scramble.report.figures import PANELS
from scramble.store import STAGE_FILE, read_json, read_jsonl

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = 8
BASE_COLOUR = 0
CURVES = (
    *PANELS,
    ("rewards/accuracies", "reward accuracy"),
    ("kl", "KL to the reference"),
    ("grad_norm", "gradient norm"),
)
RUN_SEPARATOR = ": "


@dataclass(frozen=True)
class Sources:
    """What the page is made of: result folders by benchmark and method, and arms' training folders by name."""

    folders: Folders
    arms: Mapping[str, Path]
    data: Mapping[str, Path]


def gather(runs: Sequence[str | Path]) -> Sources:
    """Results, arms and data sets of runs. With several runs, methods are named ``<run>: <method>``."""
    folders: dict[str, dict[str, list[Path]]] = {}
    arms: dict[str, Path] = {}
    data: dict[str, Path] = {}
    for run in map(Path, runs):
        prefix = f"{run.name}{RUN_SEPARATOR}" if len(runs) > 1 else ""
        for benchmark, methods in comparison.find_methods(run / "evaluation").items():
            for method, found in methods.items():
                folders.setdefault(benchmark, {})[prefix + method] = found
        arms |= {prefix + path.parent.name: path.parent for path in sorted((run / "train").glob(f"*/{STAGE_FILE}"))}
        if (run / "data" / STAGE_FILE).exists():
            data[run.name] = run / "data"
    return Sources(folders, arms, data)


def write_browser(
    path: str | Path,
    sources: Sources,
    benchmarks: Mapping[str, Benchmark],
    *,
    title: str,
    baselines: Sequence[str] = ("base", "sft"),
    items: int = 12,
    pixels: int = 160,
) -> None:
    """Write the page.

    Args:
        benchmarks: by name, for the items' texts and images; a benchmark that is missing, or of another data version
            than the results, has scores but no items.
        baselines: methods that the others are compared with; of several runs, those of the first one.
        items: most items shown for each comparison and direction.
        pixels: longer side of the items' images.
    """
    rows = comparison.compare(sources.folders, baselines)
    methods = list(dict.fromkeys(row.method for row in rows))
    methods += [name for name in map(_method, sources.arms) if name not in methods]
    colours = _colours(methods)
    pages.write_page(
        path,
        TEMPLATES,
        "browser.html.j2",
        title=title,
        baselines=[name for name in baselines if name in methods],
        colours=colours,
        scores=[_scores(name, list(found), baselines) for name, found in groupby(rows, key=lambda row: row.benchmark)],
        charts=curves(sources.arms, colours),
        arms={name: colours[_method(name)] for name in sources.arms},
        items=[
            _items(name, {m: found[m] for m in methods if m in found}, benchmarks.get(name), baselines, items, pixels)
            for name, found in sources.folders.items()
        ],
        provenance=[_arm(name, folder) for name, folder in sources.arms.items()],
        data=[_data(name, folder) for name, folder in sources.data.items()],
        protocols=_protocols(sources.folders),
    )


def _method(arm: str) -> str:
    return re.sub(r"-seed\d+$", "", arm)


def _colours(methods: Sequence[str]) -> dict[str, int]:
    """A colour number a method; ``base`` is grey."""
    others = [name for name in methods if not name.endswith("base")]
    return dict.fromkeys(methods, BASE_COLOUR) | {name: 1 + place % (COLOURS - 1) for place, name in enumerate(others)}


# -------------------------------------------------------------------------------------------------------------- scores


def _scores(benchmark: str, rows: Sequence[Row], baselines: Sequence[str]) -> dict[str, Any]:
    """A benchmark's whole scores, and its scores by kind (behind a fold), as the template shows them."""
    whole = [row for row in rows if "/" not in row.score]
    return {
        "benchmark": benchmark,
        "protocol": ", ".join(sorted({row.protocol for row in rows})),
        "n": max((row.n or 0 for row in rows), default=0),
        "scores": _by_score(whole, baselines),
        "parts": _by_score([row for row in rows if "/" in row.score], baselines),
        "reasons": sorted({f"{row.method}: {row.reason}" for row in rows if row.reason}),
    }


def _by_score(rows: Sequence[Row], baselines: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"score": score, "rows": [_score_row(row, baselines) for row in found]}
        for score, found in groupby(rows, key=lambda row: row.score)
    ]


def _score_row(row: Row, baselines: Sequence[str]) -> dict[str, Any]:
    error = row.standard_error
    interval = (
        (0.0, 0.0) if error is None else (max(0.0, row.value - 1.96 * error), min(100.0, row.value + 1.96 * error))
    )
    return {
        "method": row.method,
        "seeds": row.seeds,
        "value": f"{row.value:.1f}",
        "error": "" if error is None else f"± {error:.1f}",
        "place": round(min(max(row.value, 0), 100), 2),
        "low": round(interval[0], 2),
        "width": round(interval[1] - interval[0], 2),
        "chance": row.chance,
        "differences": {name: _difference(row.differences.get(name)) for name in baselines},
        "comparable": not row.reason,
    }


def _difference(test: Mapping[str, Any] | None) -> dict[str, str] | None:
    if test is None:
        return None
    sign = "" if test["p_value"] >= 0.05 else "good" if test["difference"] > 0 else "bad"
    return {"text": comparison.shown(test), "sign": sign}


# -------------------------------------------------------------------------------------------------------------- curves


def curves(arms: Mapping[str, Path], colours: Mapping[str, int]) -> list[charts.Chart]:
    """One chart a quantity of ``metrics.jsonl``, one line an arm; benchmarks watched while training come last."""
    rows = {arm: list(read_jsonl(folder / "metrics.jsonl")) for arm, folder in arms.items()}
    watched = sorted({key for found in rows.values() for row in found for key in row if key.startswith("eval/")})
    panels = [*CURVES, *((key, key.removeprefix("eval/").replace("/", " ")) for key in watched if key.count("/") == 2)]
    by_arm = {arm: colours[_method(arm)] for arm in arms}
    drawn = (
        charts.line_chart(
            title,
            {arm: [(r["step"], r[key]) for r in found if _is_point(r, key)] for arm, found in rows.items()},
            by_arm,
        )
        for key, title in panels
    )
    return [chart for chart in drawn if chart is not None]


def _is_point(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), (int, float)) and isinstance(row.get("step"), int)


# --------------------------------------------------------------------------------------------------------------- items


def _items(
    name: str,
    methods: Mapping[str, Sequence[Path]],
    benchmark: Benchmark | None,
    baselines: Sequence[str],
    count: int,
    pixels: int,
) -> dict[str, Any]:
    """Items that changed, each once with all methods' verdicts. Of several seeds the first one is shown."""
    outcomes = {method: {o.item_id: o for o in results.read_outcomes(found[0])} for method, found in methods.items()}
    pairs = [(b, method) for b in baselines if b in methods for method in methods if method != b and outcomes[method]]
    pairs = [(b, m) for b, m in pairs if not (m in baselines and list(baselines).index(m) < list(baselines).index(b))]
    found = changes.compare(outcomes, pairs, count)
    known = {item.item_id: item for item in benchmark.items} if benchmark is not None else {}
    versions = {results.read(folders[0]).benchmark["version"] for folders in methods.values()}
    reason = ""
    if benchmark is None:
        reason = "the benchmark's data was not loaded, so its items cannot be shown"
    elif versions != {benchmark.version}:
        reason = (
            f"the results are of data version {', '.join(sorted(versions))}, the data at hand is {benchmark.version}"
        )
    cards = []
    if not reason and benchmark is not None:
        shown = [known[item_id] for item_id in known if item_id in found.why]
        cards = [_card(item, benchmark, outcomes, found.why[item.item_id], pixels) for item in shown]
    return {"benchmark": name, "changes": found.found, "cards": cards, "reason": reason}


def _card(
    item: Item,
    benchmark: Benchmark,
    outcomes: Mapping[str, Mapping[str, Outcome]],
    why: Iterable[tuple[int, str]],
    pixels: int,
) -> dict[str, Any]:
    return {
        "id": item.item_id,
        "kind": item.kind,
        "why": " ".join(f"{number}:{kind}" for number, kind in why),
        "images": [{"id": i, "src": _image(benchmark, i, pixels)} for i in item.image_ids],
        **_texts(item),
        "verdicts": [
            {"method": method, "right": changes.is_right(own[item.item_id]), **_detail(item, own[item.item_id])}
            for method, own in outcomes.items()
            if item.item_id in own
        ],
    }


def _image(benchmark: Benchmark, image_id: str, pixels: int) -> str:
    try:
        return pages.thumbnail(benchmark.images[image_id].open(), pixels)
    except (KeyError, RecordError):  # the page shows a frame in its place
        return ""


def _texts(item: Item) -> dict[str, Any]:
    """Captions with what tells them apart marked, or a question with its options and answer."""
    record = item.record
    if isinstance(record, (Quad, CaptionChoice)):
        true = 0 if isinstance(record, Quad) else record.target
        other = record.captions[1 if true == 0 else 0]
        captions = [
            marked(text, [e.chosen for e in word_edits(text, other if place == true else record.captions[true])])
            for place, text in enumerate(record.captions)
        ]
        return {"captions": captions, "true": None if isinstance(record, Quad) else true, "question": None}
    options = [f"{letter}. {text}" for letter, text in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", record.choices, strict=False)]
    return {
        "captions": [],
        "true": None,
        "question": {"text": record.question, "options": options, "answer": record.answer},
    }


def _detail(item: Item, outcome: Outcome) -> dict[str, Any]:
    """A method's own numbers: the rows of a 2x2 item's scores, captions' scores, or what was answered."""
    scores = outcome.details.get("scores")
    if isinstance(item.record, Quad) and scores:
        (a, b), (c, d) = scores
        tests = [("image 1", a, b), ("image 2", d, c), ("caption 1", a, c), ("caption 2", d, b)]
        return {"tests": [{"name": n, "own": f"{x:.2f}", "other": f"{y:.2f}", "right": x > y} for n, x, y in tests]}
    if isinstance(item.record, CaptionChoice) and scores:
        return {"tests": [], "answer": " / ".join(f"{score:.2f}" for score in scores)}
    status = "" if outcome.status == "ok" else f" ({outcome.status})"
    return {"tests": [], "answer": f"{outcome.details.get('response') or outcome.prediction or 'no answer'}{status}"}


# ---------------------------------------------------------------------------------------------------------- provenance


def _arm(name: str, folder: Path) -> dict[str, Any]:
    stage = read_json(folder / STAGE_FILE)
    config, summary = stage["config"], stage.get("summary") or {}
    environment = read_json(folder / "environment.json") if (folder / "environment.json").exists() else {}
    weights = config.get("objective", {}).get("weights", {})
    lora = (config.get("trainer", {}).get("lora") or {}).get("r")
    return {
        "name": name,
        "status": stage["status"],
        "cells": {
            "model": config.get("model", {}).get("path", ""),
            "objective": " + ".join(f"{weight:g} {loss}" for loss, weight in weights.items()),
            "beta": config.get("objective", {}).get("beta", ""),
            "steps": summary.get("steps", ""),
            "batch": config.get("trainer", {}).get("batch_size", ""),
            "learning rate": config.get("trainer", {}).get("learning_rate", ""),
            "LoRA": "" if lora is None else f"r {lora}",
            "examples": summary.get("examples", ""),
            "seconds": round(summary["seconds"]) if "seconds" in summary else "",
            "commit": (environment.get("git_commit") or "")[:10],
        },
        "all": json.dumps({"config": config, "environment": environment}, indent=1, ensure_ascii=False),
    }


def _data(name: str, folder: Path) -> dict[str, Any]:
    stage = read_json(folder / STAGE_FILE)
    summary = stage.get("summary") or {}
    splits = {
        split: ", ".join(f"{count} {what}" for what, count in found.items() if isinstance(count, int) and count)
        for split, found in summary.get("splits", {}).items()
    }
    return {
        "name": name,
        "kind": stage["config"].get("data", {}).get("kind", ""),
        "method": stage["config"].get("negatives", {}).get("method", ""),
        "splits": splits,
        "blind": {k: v for k, v in (summary.get("blind") or {}).items() if isinstance(v, (int, float))},
    }


def _protocols(folders: Folders) -> list[dict[str, str]]:
    """Each protocol in full, once."""
    found: dict[str, dict[str, str]] = {}
    for benchmark, methods in folders.items():
        for result_folders in methods.values():
            protocol = results.read(result_folders[0]).protocol
            text = json.dumps(protocol, indent=1, ensure_ascii=False)
            entry = found.setdefault(text, {"name": str(protocol["name"]), "all": text, "benchmarks": ""})
            known = entry["benchmarks"].split(", ") if entry["benchmarks"] else []
            entry["benchmarks"] = ", ".join(dict.fromkeys([*known, benchmark]))
    return list(found.values())
