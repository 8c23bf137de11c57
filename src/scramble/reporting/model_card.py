"""Writes model cards, which state the base model, the training data with its audit, the settings, the scores with
intervals, and the licences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scramble
from scramble.formats.card import HOMEPAGE, cell, citations, contamination, source_licence, without_folders
from scramble.models.hub import is_hub_id
from scramble.reporting.comparison import ScoreRow, score_text, shown
from scramble.reporting.table import listed_counts, objective_text
from scramble.storage.arm_names import method_of

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"


@dataclass(frozen=True)
class Trained:
    """The records of an arm.

    Attributes:
        config, summary: from the arm's ``stage.json``.
        data: the ``stage.json`` of the training data.
        environment: the arm's ``environment.json``.
        adapter: whether the shared folder contains an adapter. Otherwise, it contains a full model.
        commands: the script commands that generated the data and trained the arm; empty if these steps were run from
            Python.
        base_licence: licence of the base model; None if unknown.
        own_licence: licence of the data, for data whose source has no known licence.
    """

    arm: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    adapter: bool
    commands: tuple[str, ...]
    base_licence: str | None
    own_licence: str | None


def model_card(
    name: str,
    trained: Trained,
    rows: Sequence[ScoreRow],
    *,
    license: str,
    notes: str,
) -> str:
    """Return the card as Markdown with the hub's metadata block.

    Args:
        name: title of the card.
        trained: records of the arm.
        rows: the scores of the arm and of the base (:func:`scramble.reporting.comparison.compare` with baseline
            ``base``).
        license: the hub's identifier of the licence. The licence of the base model also applies to a tuned model.
        notes: text to add to the card.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    base = public_name(str(trained.config["model"]["path"]))
    source = str(trained.data["config"]["data"].get("kind", ""))
    method = method_of(trained.arm)
    overall = [row for row in rows if row.method == method and "/" not in row.score]
    data = ModelCardData(
        license=license,
        base_model=base,
        library_name="peft" if trained.adapter else "transformers",
        pipeline_tag="image-text-to-text",
        tags=["preference-tuning", *sorted(trained.config["trainer"]["loss_type"]), "scramble"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=row.benchmark,
                dataset_name=row.benchmark,
                metric_type=row.score,
                metric_value=round(row.value, 2),
                metric_name=f"{row.score} (percent)",
            )
            for row in overall
        ]
        or None,
    )
    text = TEMPLATE.read_text(encoding="utf-8")
    card = ModelCard.from_template(
        data,
        template_str=text,
        name=name,
        base=base,
        adapter=trained.adapter,
        homepage=HOMEPAGE,
        version=scramble.__version__,
        settings=_settings(trained),
        data=_data(trained.data),
        notes=notes.strip(),
        rows=[_score(row, rows) for row in overall],
        protocols=sorted({f"{r.benchmark}: {r.protocol}" for r in overall}),
        environment=_environment(trained.environment),
        commands=list(dict.fromkeys(map(without_folders, trained.commands))),
        licences=[
            (f"base model `{cell(base)}`", cell(trained.base_licence or "not stated: see the model's page")),
            (f"training data `{cell(source)}`", cell(source_licence(source, trained.own_licence))),
        ],
        contamination=contamination(trained.data),
        citations=citations(),
    )
    return str(card)


def public_name(model: str) -> str:
    """Return the hub id of a model, or the name of its folder without the parent folders."""
    return model if is_hub_id(model) and not Path(model).exists() else Path(model).name


def _settings(trained: Trained) -> list[tuple[str, str]]:
    trainer, lora = trained.config["trainer"], trained.config.get("peft")
    settings = {
        "objective": objective_text(trained.config),
        "beta": trainer.get("beta"),
        "steps": trained.summary.get("steps"),
        "pairs per step": trainer.get("global_batch_size"),
        "learning rate": trainer.get("learning_rate"),
        "schedule": trainer.get("lr_scheduler_type"),
        "LoRA": None if lora is None else f"r {lora.get('r')}, alpha {lora.get('lora_alpha')}",
        "trained parameters": trained.summary.get("trained_parameters"),
        "training seed": trainer.get("seed"),
    }
    return [
        (key, cell(f"{value:g}" if isinstance(value, float) else value))
        for key, value in settings.items()
        if value is not None
    ]


def _data(stage: Mapping[str, Any]) -> dict[str, Any]:
    config, summary = stage["config"], stage.get("summary") or {}
    train = summary.get("splits", {}).get("train", {})
    text_only = summary.get("transfer") or summary.get("blind") or {}
    return {
        "source": cell(config["data"].get("kind", "")),
        "method": cell(config["pairs"].get("method", "")),
        "counts": listed_counts(train),
        "text_only": {cell(k): v for k, v in text_only.items()},
        "is_transfer": bool(summary.get("transfer")),
    }


def _score(row: ScoreRow, rows: Sequence[ScoreRow]) -> list[str]:
    base = next((r for r in rows if (r.benchmark, r.score, r.method) == (row.benchmark, row.score, "base")), None)
    return [
        cell(row.benchmark),
        cell(row.score),
        str(row.n or ""),
        score_text(row.value, row.standard_error, row.n),
        "" if base is None else f"{base.value:.1f}",
        shown(row.differences.get("base")),
    ]


def _environment(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages", {})
    names = [f"{name} {packages[name]}" for name in ("torch", "transformers", "trl", "peft") if name in packages]
    commit = environment.get("git_commit")
    return ", ".join([*names, *([f"commit {commit[:10]}"] if commit else [])])
