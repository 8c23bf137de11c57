"""Computes the figures, ratios and tables of benchmarks/preference_step.py."""

from __future__ import annotations

import argparse
import statistics
from typing import Any, Protocol

PEERS = ("trl", "trl-answers", "rows", "swift", "llamafactory")


class Measured(Protocol):
    """Defines the attributes that contain the measurements of a side."""

    facts: dict[str, Any]
    seconds: list[float]
    cpu_seconds: list[float]


def figures(args: argparse.Namespace, side: Measured, pairs: int) -> dict[str, Any]:
    """Return the measurements of one side."""
    facts, seconds = side.facts, side.seconds[args.warmup :]
    median = statistics.median(seconds)
    measured: dict[str, Any] = {
        "seconds_per_step": round(median, 4),
        "cpu_seconds_per_step": round(statistics.median(side.cpu_seconds[args.warmup :]), 4),
        "all_seconds": [round(value, 4) for value in seconds],
        "all_cpu_seconds": [round(value, 4) for value in side.cpu_seconds[args.warmup :]],
        "losses": [round(value, 6) for value in facts["losses"]],
        "lora_weights": facts["lora_weights"],
        "pairs_per_second": round(pairs / median, 4),
        "peak_bytes": facts["device_peak"] or facts["peak"],
        "peak_bytes_above_loaded": facts["device_peak"] or facts["peak"] - facts["loaded"],
    }
    if "reference_seconds" in facts:
        measured["reference_seconds_per_pair"] = round(facts["reference_seconds"] / facts["pairs"], 4)
        measured["features_seconds_per_pair"] = round(facts["features_seconds"] / facts["pairs"], 4)
        measured["features_bytes"] = facts["features_bytes"]
    measured |= {key: facts[key] for key in ("image_tokens", "sequence_tokens_per_step") if key in facts}
    return measured | _floor(facts, median)


def _floor(facts: dict[str, Any], median: float) -> dict[str, Any]:
    """Return the number of operations of a step, and the fraction of the machine's speed that the step reaches. On a
    GPU, the fraction is the model FLOP utilisation. On a CPU, it is the lower bound of the step time divided by the
    step time.
    """
    work = {key: facts[key] for key in ("flop", "flop_without_tower", "flop_per_second") if key in facts}
    if "flop_per_second" in facts:
        work["utilisation"] = round(facts["flop"] / median / facts["flop_per_second"], 3)
    if "floor_seconds" in facts:
        parts = facts["floor_seconds"]
        work["floor_seconds"] = {name: round(value, 4) for name, value in parts.items()}
        work["floor_total"] = round(sum(parts.values()), 4)
        work["floor_fraction"] = round(sum(parts.values()) / median, 3)
    return work


def common_facts(result: dict[str, Any]) -> None:
    """Compute the token rate of each side and the lower bound without the tower from the facts that the side
    ``scramble`` reports, and add them to the result.
    """
    first = result["scramble"]
    if "failed" in first:
        raise SystemExit(f"this project's side failed: {first['failed']}")
    tokens = result["sequence_tokens_per_step"] = first.pop("sequence_tokens_per_step")
    result["image_tokens"] = first.pop("image_tokens")
    for side in result.values():
        if isinstance(side, dict) and "seconds_per_step" in side:
            side["sequence_tokens_per_second"] = round(tokens / side["seconds_per_step"], 1)
    with_features = result.get("scramble-features")
    if with_features and "floor_seconds" in first and "seconds_per_step" in with_features:
        total = first["floor_total"] - first["floor_seconds"]["tower"]
        with_features["floor_fraction"] = round(total / with_features["seconds_per_step"], 3)
    elif with_features and "flop_per_second" in first and "seconds_per_step" in with_features:
        rate = first["flop_without_tower"] / with_features["seconds_per_step"]
        with_features["utilisation"] = round(rate / first["flop_per_second"], 3)


def loss_difference(result: dict[str, Any]) -> dict[str, float]:
    """Return the largest loss difference over all steps between ``scramble`` and each of the other sides."""
    losses = {name: side["losses"] for name, side in result.items() if isinstance(side, dict) and "losses" in side}
    first = losses["scramble"]
    return {
        name: round(max(abs(a - b) for a, b in zip(first, values, strict=True)), 6)
        for name, values in losses.items()
        if name != "scramble"
    }


def compare(result: dict[str, Any], pairs: int, clock: str) -> dict[str, Any]:
    """Return the ratios of speed and memory between each of this project's sides and each peer in its faster setting.

    The ratios to the fastest of all peers are included. Speed is compared for steps after the caches are built, and for
    one and three epochs including the time to build the caches.
    ``clock`` is the measurement that determines which setting is faster. On a CPU, it is "cpu_seconds_per_step",
    because other work hardly changes the CPU time.
    """
    measured = {name: side for name, side in result.items() if isinstance(side, dict) and "seconds_per_step" in side}
    ours = {name: side for name, side in measured.items() if name.startswith("scramble")}
    ratios: dict[str, Any] = {}
    fastest: list[str] = []
    for peer in PEERS:
        names = [name for name in (peer, f"{peer}-checkpointing") if name in measured]
        if names:
            best = min(names, key=lambda name: measured[name][clock])
            fastest.append(best)
            ratios |= {f"{name} to {best}": _ratios(side, measured[best], pairs) for name, side in ours.items()}
    if fastest:
        best = min(fastest, key=lambda name: measured[name][clock])
        for name, side in ours.items():
            ratios[f"{name} to the fastest peer measured here"] = {"peer": best, **_ratios(side, measured[best], pairs)}
    return ratios


def _ratios(ours: dict[str, Any], theirs: dict[str, Any], pairs: int) -> dict[str, float]:
    fill = (ours["reference_seconds_per_pair"] + ours["features_seconds_per_pair"]) * pairs
    step = ours["seconds_per_step"]
    return {
        "warm_steps": round(theirs["seconds_per_step"] / step, 2),
        "warm_steps_cpu_time": round(theirs["cpu_seconds_per_step"] / ours["cpu_seconds_per_step"], 2),
        "one_epoch_with_fill": round(theirs["seconds_per_step"] / (step + fill), 2),
        "three_epochs_with_fill": round(3 * theirs["seconds_per_step"] / (3 * step + fill), 2),
        "peak_memory": round(ours["peak_bytes"] / theirs["peak_bytes"], 3),
        "peak_memory_above_loaded": round(ours["peak_bytes_above_loaded"] / theirs["peak_bytes_above_loaded"], 3),
    }


def table(report: dict[str, Any]) -> str:
    """Return a report as text, with one line per side and one line per ratio."""
    lines = []
    results = [report["result"]] if "result" in report else report["by_captions"] + report.get("by_image_tokens", [])
    for result in results:
        lines.append(
            f"{report['shape']['name']}, pairs per image: {result['captions']}, image tokens: {result['image_tokens']}"
        )
        for name, side in result.items():
            if isinstance(side, dict) and "failed" in side:
                lines.append(f"  {name:26} failed: {side['failed'][:80]}")
            elif isinstance(side, dict) and "seconds_per_step" in side:
                rate = f", MFU {side['utilisation']:.3f}" if "utilisation" in side else ""
                lines.append(
                    f"  {name:26} {side['seconds_per_step']:8.3f} s/step, CPU {side['cpu_seconds_per_step']:7.3f} s"
                    f" {side['pairs_per_second']:8.2f} pairs/s {side['peak_bytes'] / 1e9:6.2f} GB{rate}"
                )
        for name, reason in result["skipped"].items():
            lines.append(f"  {name:26} skipped: {reason}")
        if "loss_difference" in result:
            name, value = max(result["loss_difference"].items(), key=lambda item: item[1], default=("", 0.0))
            lines.append(f"  the losses of all sides agree within {value:.1e} (largest difference: {name})")
        for name, ratio in result.get("ratios", {}).items():
            peer = f" ({ratio['peer']})" if "peer" in ratio else ""
            lines.append(
                f"  {name}{peer}: {ratio['warm_steps']}x, CPU time {ratio['warm_steps_cpu_time']}x, with cache build "
                f"{ratio['one_epoch_with_fill']}x over one epoch and {ratio['three_epochs_with_fill']}x over three, "
                f"peak memory {ratio['peak_memory']}"
            )
    return "\n".join(lines)
