"""Stage 3: score the base model and the arms of a run on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.app import environment
from scramble.console import counter, say
from scramble.stages import StageError
from scramble.store import STAGE_FILE, read_json

if TYPE_CHECKING:
    from scramble.evaluation.results import Result
    from scramble.models import Loaded

BASE = "base"


def evaluate(
    run: str | Path,
    *,
    model: Mapping[str, Any],
    benchmarks: Mapping[str, Mapping[str, Any]],
    arms: Sequence[str] | str = "all",
    protocol: Mapping[str, Any],
    limit: int | None = None,
    batch_tokens: int = 8192,
) -> dict[str, list[Result]]:
    """Score arms into ``<run>/evaluation/<arm>/<benchmark>/``; replies on disk are not asked for again.

    Args:
        run: the run folder.
        model: the base model's ``path`` and loading options.
        benchmarks: benchmark name -> options (``root``, ...).
        arms: folders below ``<run>/train``; ``base`` is the model as it is; ``all`` is base and every finished arm.
        protocol: ``name`` of a protocol (``default`` takes each benchmark's own), and settings to change in it.
        limit: at most so many items a benchmark, whole groups.
    Returns:
        For each arm its results, in the order of ``benchmarks``.
    """
    from scramble.evaluation import runner
    from scramble.evaluation.benchmarks import load_benchmark

    run = Path(run)
    chosen = _arms(run, arms)
    loaded_benchmarks = [load_benchmark(name, **options) for name, options in benchmarks.items()]
    process, wait = runner.data_parallel()
    here = environment()
    models = _Models(model)
    results: dict[str, list[Result]] = {}
    for arm in chosen:
        where = _where(run, arm, model)
        identity = runner.identify(
            where["path"], adapter=where.get("adapter"), revision=model.get("revision"), name=arm,
            dtype=model.get("dtype", "auto"), settings=_settings(model),
        )  # fmt: skip
        results[arm] = runner.evaluate(
            models.loader(where), loaded_benchmarks, protocol, run / "evaluation" / arm, model_id=identity,
            limit=limit, batch_tokens=batch_tokens, environment=here, process=process, wait=wait, progress=counter,
        )  # fmt: skip
        for result in results[arm]:
            say(f"{arm}: {_headline(result)}")
    return results


class _Models:
    """Loads what an arm needs; the base is loaded once and adapters take turns on it."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._options = {k: v for k, v in model.items() if k not in ("name", "path", "new")}
        self._loaded: tuple[str, Loaded] | None = None

    def loader(self, where: Mapping[str, str]) -> Any:
        return lambda: self._load(where)

    def _load(self, where: Mapping[str, str]) -> Loaded:
        import dataclasses

        from scramble.models import load
        from scramble.models.loading import put_on_adapter
        from scramble.preference.weights import check_base, weights_key

        if self._loaded is None or self._loaded[0] != where["path"]:
            self._loaded = (where["path"], load(where["path"], **self._options))
        base = self._loaded[1]
        plain = base.backbone.model
        if hasattr(base.model, "unload"):
            plain = base.model.unload()
        if "adapter" in where:
            check_base(where["adapter"], weights_key(plain))
            plain = put_on_adapter(plain, where["adapter"])
        plain.eval()
        self._loaded = (where["path"], dataclasses.replace(base, model=plain))
        return self._loaded[1]


def _arms(run: Path, arms: Sequence[str] | str) -> list[str]:
    finished = [path.parent.name for path in sorted((run / "train").glob(f"*/{STAGE_FILE}"), key=_order)
                if read_json(path)["status"] == "finished"]  # fmt: skip
    if arms == "all":
        return [BASE, *finished]
    wanted = [arms] if isinstance(arms, str) else list(arms)
    if unknown := [arm for arm in wanted if arm != BASE and arm not in finished]:
        raise StageError(
            f"{run}/train has no finished arm {', '.join(unknown)}; it has {', '.join(finished) or 'none'}: "
            "train it first (scripts/train.py), or name others (arms=[...])"
        )
    return wanted


def _order(marker: Path) -> float:
    return marker.parent.stat().st_ctime


def _where(run: Path, arm: str, model: Mapping[str, Any]) -> dict[str, str]:
    if arm == BASE:
        return {"path": str(model["path"])}
    folder = run / "train" / arm
    if (folder / "model").is_dir():
        return {"path": str(folder / "model")}
    return {"path": str(model["path"]), "adapter": str(folder / "adapter")}


def _settings(model: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in model.items() if k not in ("name", "path", "revision", "dtype", "new", "device")}


def _headline(result: Result) -> str:
    overall = [(name, score) for name, score in result.scores.items() if "/" not in name]
    shown = ", ".join(f"{name} {score['value']:.1f}" for name, score in overall)
    return f"{result.benchmark['name']} {shown} (n = {result.rates['n']}, protocol {result.protocol['name']})"
