"""The results browser: one HTML file for one run or several runs.

It shows scores with intervals and paired differences, training curves, the items whose answers changed between right
and wrong with their images and scores, and the settings and environment of every arm. See
:mod:`scramble.reporting.pages` for the restrictions on pages.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from scramble.evaluation.items import Benchmark, CaptionChoice, Item
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.statistics import is_few
from scramble.formats.word_diff import word_edits
from scramble.records import RecordError, TwoByTwoItem
from scramble.reporting import changes, charts, comparison, headline, pages
from scramble.reporting.arms import arm_notes, shown_arms
from scramble.reporting.comparison import RUN_SEPARATOR, Folders, ScoreRow, own_baselines, split_run
from scramble.reporting.figures import PANELS
from scramble.reporting.headline import Headline
from scramble.reporting.pages.texts import marked
from scramble.reporting.table import listed_counts, objective_text
from scramble.storage.files import STAGE_FILE, read_json
from scramble.storage.jsonl import read_jsonl

TEMPLATES = Path(__file__).parent / "templates"
CURVES = (
    *PANELS,
    ("rewards/accuracies", "reward accuracy"),
    ("kl", "KL to the reference"),
    ("grad_norm", "gradient norm"),
)


@dataclass(frozen=True)
class Sources:
    """Inputs of the page: result folders by benchmark and method, training folders by arm, data sets by run."""

    folders: Folders
    arms: Mapping[str, Path]
    data: Mapping[str, Path]


def gather(runs: Mapping[Path, Path]) -> Sources:
    """Collect results, arms and data sets of runs, given as run folder -> data set folder.

    With several runs, methods are named ``<run>: <method>``.
    """
    folders: dict[str, dict[str, list[Path]]] = {}
    arms: dict[str, Path] = {}
    data: dict[str, Path] = {}
    for run, name in run_names(list(runs)).items():
        prefix = f"{name}{RUN_SEPARATOR}" if len(runs) > 1 else ""
        results_of_run: list[Path] = []
        for benchmark, methods in comparison.find_methods(run / "evaluation").items():
            for method, method_folders in methods.items():
                folders.setdefault(benchmark, {})[prefix + method] = method_folders
                results_of_run += method_folders
        arms |= {prefix + arm: path for arm, path in shown_arms(run, results_of_run).items()}
        if (runs[run] / STAGE_FILE).exists():
            data[name] = runs[run]
    return Sources(folders, arms, data)


def run_names(runs: Sequence[Path]) -> dict[Path, str]:
    """A short, unique name for each run: the folder's name, with as many parent folders as needed."""
    parts = {run: run.resolve().parts for run in runs}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {run: "/".join(path[-count:]) for run, path in parts.items()}
        if len(set(names.values())) == len(runs):
            break
    return names


def write_browser(
    path: str | Path,
    sources: Sources,
    benchmarks: Mapping[str, Benchmark],
    *,
    title: str,
    baselines: Sequence[str] = ("base", "sft"),
    items: int = 12,
    pixels: int = 160,
    reasons: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write the page.

    Args:
        path: path of the page.
        sources: from :func:`gather`.
        benchmarks: benchmarks by name, for the items' texts and images. For a benchmark that is missing, or has another
            data version than the results, the page shows scores but no items.
        title: title of the page.
        baselines: methods that the others are compared with, within each run.
        items: maximum number of items per comparison and direction; 0 shows none.
        pixels: longer side of the items' images.
        reasons: why benchmarks are missing, for the page.

    Returns:
        The benchmarks whose items cannot be shown, with the reasons.
    """
    rows = comparison.compare(sources.folders, baselines)
    heads = _headlines(rows, sources, baselines)
    lead = next(iter(heads.values()), None)
    if lead is not None:
        rows = headline.lead_first(rows, lead)
    methods = list(dict.fromkeys(row.method for row in rows))
    methods += [name for name in map(charts.method_of, sources.arms) if name not in methods]
    colours = charts.colour_numbers(methods)
    cards = [
        _items(
            name,
            sources.folders[name],
            methods,
            benchmarks.get(name),
            baselines,
            items,
            pixels,
            (reasons or {}).get(name, ""),
        )
        for name in dict.fromkeys(row.benchmark for row in rows)
    ]
    pages.write_page(
        path,
        TEMPLATES,
        "browser.html.j2",
        title=title,
        headlines=heads,
        baselines=[name for name in baselines if any(name in row.differences for row in rows)],
        colours=colours,
        lines=charts.LINES,
        scores=[
            _scores(name, list(group), baselines, lead) for name, group in groupby(rows, key=lambda row: row.benchmark)
        ],
        charts=curves(sources.arms, colours),
        arms={name: colours[charts.method_of(name)] for name in sources.arms},
        items=cards,
        provenance=[_arm(name, folder) for name, folder in sources.arms.items()],
        data=[_data(name, folder) for name, folder in sources.data.items()],
        protocols=_protocols(sources.folders),
    )
    return {group["benchmark"]: group["reason"] for group in cards if group["reason"]}


def _headlines(rows: Sequence[ScoreRow], sources: Sources, baselines: Sequence[str]) -> dict[str, Headline]:
    """The headline of each run by the run's name; the name is empty if there is one run."""
    by_run: dict[str, list[ScoreRow]] = {}
    for row in rows:
        run, method = split_run(row.method)
        by_run.setdefault(run, []).append(dataclasses.replace(row, method=method))
    headlines = {}
    for run, run_rows in by_run.items():
        folder = sources.data.get(run) if run else next(iter(sources.data.values()), None)
        results_of_run = [
            path
            for methods in sources.folders.values()
            for method, paths in methods.items()
            if split_run(method)[0] == run
            for path in paths
        ]
        headlines[run] = headline.build(run_rows, baselines, headline.trained_kinds(folder), arm_notes(results_of_run))
    return headlines


# -------------------------------------------------------------------------------------------------------------- scores


def _scores(
    benchmark: str, rows: Sequence[ScoreRow], baselines: Sequence[str], lead: Headline | None
) -> dict[str, Any]:
    """A benchmark's overall scores, the headline's score first, and its scores by kind, for the template."""
    leading = lead.score if lead is not None and lead.benchmark == benchmark else ""
    whole = [row for row in rows if row.score == leading]
    whole += [row for row in rows if "/" not in row.score and row.score != leading]
    return {
        "benchmark": benchmark,
        "protocol": ", ".join(sorted({row.protocol for row in rows})),
        "n": max((row.n or 0 for row in rows), default=0),
        "scores": _by_score(whole, baselines),
        "parts": _by_score([row for row in rows if "/" in row.score and row.score != leading], baselines),
        "reasons": sorted({f"{row.method}: {row.reason}" for row in rows if row.reason}),
        "notes": comparison.part_notes(rows),
    }


def _by_score(rows: Sequence[ScoreRow], baselines: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"score": score, "rows": [_score_row(row, baselines) for row in group]}
        for score, group in groupby(rows, key=lambda row: row.score)
    ]


def _score_row(row: ScoreRow, baselines: Sequence[str]) -> dict[str, Any]:
    error = row.standard_error
    margin = None if error is None or is_few(row.n) else 1.96 * error
    interval = (0.0, 0.0) if margin is None else (max(0.0, row.value - margin), min(100.0, row.value + margin))
    return {
        "method": row.method,
        "seeds": row.seeds,
        "value": f"{row.value:.1f}",
        "error": comparison.uncertainty(error, row.n),
        "place": round(min(max(row.value, 0), 100), 2),
        "low": round(interval[0], 2),
        "width": round(interval[1] - interval[0], 2),
        "chance": row.chance,
        "differences": {name: _difference(row.differences.get(name), row.score) for name in baselines},
        "comparable": not row.reason,
    }


def _difference(test: Mapping[str, Any] | None, score: str) -> dict[str, str] | None:
    if test is None:
        return None
    return {"text": comparison.shown(test), "sign": comparison.sign(test, score)}


# -------------------------------------------------------------------------------------------------------------- curves


def curves(arms: Mapping[str, Path], colours: Mapping[str, int]) -> list[charts.Chart]:
    """One chart per metric in ``metrics.jsonl`` with one line per arm; benchmark scores during training come last."""
    rows = {arm: list(read_jsonl(folder / "metrics.jsonl")) for arm, folder in arms.items()}
    watched = sorted({key for log in rows.values() for row in log for key in row if charts.is_benchmark_score(key)})
    panels = [(key, f"{title}, training batches") for key, title in CURVES]
    panels += [(key, charts.watched_label(key)) for key in watched if key.count("/") == 1]
    by_arm = {arm: colours[charts.method_of(arm)] for arm in arms}
    all_charts = (
        charts.line_chart(
            title,
            {arm: [(r["step"], r[key]) for r in log if _is_point(r, key)] for arm, log in rows.items()},
            by_arm,
        )
        for key, title in panels
    )
    return [chart for chart in all_charts if chart is not None]


def _is_point(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), (int, float)) and isinstance(row.get("step"), int)


# --------------------------------------------------------------------------------------------------------------- items


def _items(
    name: str,
    folders: Mapping[str, Sequence[Path]],
    order: Sequence[str],
    benchmark: Benchmark | None,
    baselines: Sequence[str],
    count: int,
    pixels: int,
    missing: str,
) -> dict[str, Any]:
    """Changed items, each once with the verdicts of all methods. Only the first seed of a method is shown."""
    methods = {method: folders[method] for method in order if method in folders}
    outcomes = {method: {o.item_id: o for o in results.read_outcomes(seeds[0])} for method, seeds in methods.items()}
    pairs = [
        (before, method)
        for baseline in baselines
        for method in methods
        for before in [own_baselines(method, baselines).get(baseline)]
        if before in methods and outcomes[method]
    ]
    changed = changes.compare(outcomes, pairs, count)
    by_id = {item.item_id: item for item in benchmark.items} if benchmark is not None else {}
    versions = {results.read(folders[0]).benchmark["version"] for folders in methods.values()}
    reason = ""
    if count == 0:
        reason = "items=0"
    elif benchmark is None:
        reason = (
            missing or "its data was not loaded; run browse.py with the same benchmark=[...] and root as evaluate.py"
        )
    elif versions != {benchmark.version}:
        reason = (
            f"the results have data version {', '.join(sorted(versions))}, but the data has version {benchmark.version}"
        )
    cards = []
    if not reason and benchmark is not None:
        shown = [by_id[item_id] for item_id in by_id if item_id in changed.why]
        cards = [_card(item, benchmark, outcomes, changed.why[item.item_id], pixels) for item in shown]
    return {"benchmark": name, "changes": changed.changes, "cards": cards, "reason": reason}


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
            {"method": method, "right": changes.is_right(by_item[item.item_id]), **_detail(item, by_item[item.item_id])}
            for method, by_item in outcomes.items()
            if item.item_id in by_item
        ],
    }


def _image(benchmark: Benchmark, image_id: str, pixels: int) -> str:
    try:
        return pages.thumbnail(benchmark.images[image_id].open(), pixels)
    except (KeyError, RecordError):  # the page shows an empty frame instead
        return ""


def _texts(item: Item) -> dict[str, Any]:
    """Captions with their differences marked, or a question with its options and answer."""
    record = item.record
    if isinstance(record, (TwoByTwoItem, CaptionChoice)):
        true = 0 if isinstance(record, TwoByTwoItem) else record.target
        other = record.captions[1 if true == 0 else 0]
        captions = [
            marked(text, [e.chosen for e in word_edits(text, other if place == true else record.captions[true])])
            for place, text in enumerate(record.captions)
        ]
        return {"captions": captions, "true": None if isinstance(record, TwoByTwoItem) else true, "question": None}
    options = [f"{letter}. {text}" for letter, text in item.options.items()]
    return {
        "captions": [],
        "true": None,
        "question": {"text": record.question, "options": options, "answer": record.answer},
    }


def _detail(item: Item, outcome: Outcome) -> dict[str, Any]:
    """Details of a method's outcome: the comparisons of a 2x2 item, the captions' scores, or the answer."""
    scores = outcome.details.get("scores")
    if isinstance(item.record, TwoByTwoItem) and scores:
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
    trainer, lora = config.get("trainer", {}), (config.get("peft") or {}).get("r")
    return {
        "name": name,
        "status": stage["status"],
        "cells": {
            "model": config.get("model", {}).get("path", ""),
            "objective": objective_text(config),
            "beta": trainer.get("beta", ""),
            "steps": summary.get("steps", ""),
            "batch": trainer.get("global_batch_size", ""),
            "learning rate": trainer.get("learning_rate", ""),
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
    splits = {split: listed_counts(counts) for split, counts in summary.get("splits", {}).items()}
    accuracies = summary.get("transfer") or summary.get("blind") or {}
    return {
        "name": name,
        "kind": stage["config"].get("data", {}).get("kind", ""),
        "method": stage["config"].get("pairs", {}).get("method", ""),
        "splits": splits,
        "blind": {k: v for k, v in accuracies.items() if isinstance(v, (int, float))},
    }


def _protocols(folders: Folders) -> list[dict[str, str]]:
    """All distinct protocols in full, with their benchmarks."""
    protocols: dict[str, dict[str, str]] = {}
    for benchmark, methods in folders.items():
        for result_folders in methods.values():
            protocol = results.read(result_folders[0]).protocol
            text = json.dumps(protocol, indent=1, ensure_ascii=False)
            entry = protocols.setdefault(text, {"name": str(protocol["name"]), "all": text, "benchmarks": ""})
            names = entry["benchmarks"].split(", ") if entry["benchmarks"] else []
            entry["benchmarks"] = ", ".join(dict.fromkeys([*names, benchmark]))
    return list(protocols.values())
