"""List all pair methods by name.

To add a method, subclass :class:`scramble.pairs.method.PairMethod` and add a line to :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.pairs.answers.answer_methods import CorrectnessAnswers, DropoutAnswers
from scramble.pairs.audit.refined_pairs import RefinedPairs
from scramble.pairs.base import Skip
from scramble.pairs.captions.caption_methods import CotCaptions, RuleCaptions, WorldCaptions
from scramble.pairs.method import WHOLE, PairMethod, PairMethodError
from scramble.pairs.mixing import MixedPairs
from scramble.pairs.rationales.rationale_method import SceneAlignRationales
from scramble.pairs.scoring.stored_models import ScorerSettings
from scramble.pairs.steps.balanced_pairs import BalancedPairs
from scramble.pairs.steps.excluded_images import ExcludedImages
from scramble.pairs.steps.filtered_pairs import Filter, FilteredPairs
from scramble.pairs.steps.scored_pairs import ScoredPairs
from scramble.records import PreferencePair
from scramble.storage.tables import read_table, table_path


class GivenPairs(PairMethod):
    """A pair method that yields the pairs that the data set already contains.

    Args:
        ignored: settings of other methods, which have no effect.
    """

    def __init__(self, *, seed: int, shard: tuple[int, int] = WHOLE, **ignored: Any) -> None:
        super().__init__(seed=seed, shard=shard)

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        if not table_path(split, PreferencePair).exists():
            raise PairMethodError(
                f"{split} contains no pairs, which pairs=given needs: use data that comes with pairs (data=pairs), or "
                "choose another pair method"
            )
        yield from read_table(split, PreferencePair)


METHODS: dict[str, type[PairMethod]] = {
    "world": WorldCaptions,
    "rules": RuleCaptions,
    "cot": CotCaptions,
    "scenealign": SceneAlignRationales,
    "correctness": CorrectnessAnswers,
    "dropout_ntp": DropoutAnswers,
    "mix": MixedPairs,
    "given": GivenPairs,
}
PAIR_STEPS = ("exclude_benchmarks", "scores", "filters", "balance", "refine")  # sections of the steps, in order


def make_method(pairs: Mapping[str, Any], *, seed: int, shard: tuple[int, int] = WHOLE) -> PairMethod:
    """Create the pair method of a configuration's section ``pairs`` with its steps and, for a mix, its parts.

    The steps run in this order: images of benchmarks are excluded (``exclude_benchmarks``), and pairs are scored
    (``scores``), filtered (``filters``), balanced on two score gaps (``balance``) and refined against text-only
    classifiers (``refine``). A step is omitted if its section is null or empty.

    Raises:
        PairMethodError: the name of the method is unknown, or the settings contradict each other.
    """
    settings = {key: value for key, value in pairs.items() if key not in ("method", "audit", *PAIR_STEPS)}
    name = pairs["method"]
    if name not in METHODS:
        raise PairMethodError(f"unknown pair method {name!r}: choose one of {', '.join(METHODS)}")
    if name == "mix":
        parts = settings["parts"].items()
        settings["parts"] = {part: make_method(section, seed=seed, shard=shard) for part, section in parts}
    return _with_steps(METHODS[name](seed=seed, shard=shard, **settings), pairs)


def _with_steps(method: PairMethod, pairs: Mapping[str, Any]) -> PairMethod:
    if benchmarks := pairs.get("exclude_benchmarks"):
        named = benchmarks if isinstance(benchmarks, Mapping) else dict.fromkeys(benchmarks)
        method = ExcludedImages(method, named)
    scorers = {name: ScorerSettings(**scorer) for name, scorer in (pairs.get("scores") or {}).items() if scorer}
    if scorers:
        method = ScoredPairs(method, scorers)
    if filters := pairs.get("filters"):
        method = FilteredPairs(method, [Filter(**each) for each in filters])
    balance = pairs.get("balance")
    if balance is not None:
        method = BalancedPairs(method, **balance)
    refine = pairs.get("refine")
    return method if refine is None else RefinedPairs(method, **refine)
