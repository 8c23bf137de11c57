"""Load spaCy pipelines."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

DEFAULT_PIPELINE = "en_core_web_sm"
# To save time, the components in a value are excluded if the caller does not need the component in the key. Lemmas
# depend on tags and morphology.
_ONLY_FOR = {
    "parser": ("parser",),
    "lemmatizer": ("lemmatizer", "trainable_lemmatizer", "morphologizer", "attribute_ruler"),
}


class PipelineError(RuntimeError):
    """Raised if a spaCy pipeline is missing or lacks a component. The message says how to fix the configuration."""


@cache
def load_pipeline(name: str | Path = DEFAULT_PIPELINE, *needs: str, setting: str = "pairs.options.pipeline") -> Any:
    """Load a spaCy pipeline by name or folder, once per process.

    Args:
        needs: the components that the caller needs (``tagger``, ``parser``, ``lemmatizer``).
        setting: the configuration key that names the pipeline, for error messages.

    Raises:
        PipelineError: the pipeline is not installed, or lacks a component.
    """
    import spacy

    unused = [part for component, parts in _ONLY_FOR.items() if component not in needs for part in parts]
    try:
        nlp = spacy.load(name, exclude=["ner", "senter", *unused])
    except OSError as error:
        raise PipelineError(
            f"spaCy pipeline {str(name)!r} is not installed: run `python -m spacy download {DEFAULT_PIPELINE}` "
            f"(offline: see docs/own_data.md), or set {setting} to an installed pipeline or its folder"
        ) from error
    if missing := [part for part in needs if not any(part in name for name in nlp.pipe_names)]:
        raise PipelineError(
            f"spaCy pipeline {str(name)!r} has no {' and no '.join(missing)}: set {setting} to a pipeline with "
            f"{' and '.join(missing)}"
        )
    return nlp
