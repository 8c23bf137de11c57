"""Define the settings of the models that score pairs, and open the models with their stored scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.pairs.base import ImageText
from scramble.pairs.scoring.score_store import ScoreStore, StoredScorer

SCORERS = ("grammar", "plausibility", "likelihood", "similarity")


@dataclass(frozen=True)
class ScorerSettings:
    """Settings of a model that scores texts: arguments of its ``load_*`` function in :mod:`scramble.pairs.scoring`.

    If ``new`` is not None, the model is replaced by a tiny random model of the same architecture.
    """

    path: str
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    batch_size: int = 64
    new: Mapping[str, Any] | None = None

    def stored(self, name: str, store: ScoreStore, split: Path, content: Callable[[Any], object]) -> StoredScorer[Any]:
        """Return the scorer ``name`` of :data:`SCORERS`. Its model is loaded only if a score is not in the store."""
        model = (name, "new" if self.new is not None else self.path, self.revision, self.dtype)
        return StoredScorer(store, model, lambda: _load(name, self, split.parent / "new_scorers" / name), content)


def image_text_content(item: ImageText) -> object:
    """Return the part of a content key that identifies an image and a text: the hash of the image, and the text."""
    return item[0].sha256, item[1]


def _load(name: str, settings: ScorerSettings, new_folder: Path) -> Callable[[Any], Sequence[float]]:
    # Import lazily: torch and transformers take seconds to import, and the store of a resumed run may contain all
    # scores.
    from scramble.models.tiny.scorers import save_tiny_scorer
    from scramble.pairs.scoring.image_similarity import load_similarity
    from scramble.pairs.scoring.text_scorers import load_grammar, load_likelihood, load_plausibility

    if settings.new is not None:
        settings = dataclasses.replace(settings, path=str(save_tiny_scorer(name, new_folder)), revision=None)
    options = {key: value for key, value in dataclasses.asdict(settings).items() if key != "new"}
    if name == "similarity":
        return load_similarity(**options)
    return {"grammar": load_grammar, "plausibility": load_plausibility, "likelihood": load_likelihood}[name](**options)
