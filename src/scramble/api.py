"""Makes pairs, scores answers and evaluates models from Python.

All functions are available from the package itself, as in ``scramble.make_pairs``; see docs/python.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from scramble.project import CONFIGS, choices_of, shipped
from scramble.storage.hashing import content_key

if TYPE_CHECKING:
    from PIL import Image

    from scramble.models import VLM

__all__ = ["evaluate", "make_pairs", "score"]

ImageLike: TypeAlias = "Image.Image | str | Path"
"""A PIL image, or the path of an image file."""
Rows = Iterable[Mapping[str, Any]]
"""Rows with the keys ``image`` (a PIL image or a path) and ``caption`` (a string or a list of strings)."""


def make_pairs(
    out: str | Path,
    data: str | Path | Rows,
    method: str = "rules",
    *,
    seed: int = 0,
    data_settings: Mapping[str, Any] | None = None,
    method_settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Create a data set of preference pairs, with separate images for training, validation and test.

    If ``out`` is the finished folder of an earlier call with the same data and settings, the folder is reused.

    Args:
        out: the folder; the pairs are written to ``<out>/train``, ``<out>/val`` and ``<out>/test``.
        data: rows, a path or a source. Each row has the keys ``image`` (a PIL image or a path) and ``caption`` (a
            string or a list of strings), like the rows of a ``datasets`` data set with these columns. A path names a
            table of captions, or a folder of images with captions in a layout that docs/own_data.md lists. A source is
            the name of a file in ``configs/data`` (``coco``, ``world_quickstart``, ...). The source ``pairs`` reads a
            file of preference pairs.
        method: name of a pair method in ``configs/pairs``. ``rules`` needs a spaCy pipeline. ``given`` uses the pairs
            of the source.
        seed: seed of the splits and of the choice of negatives.
        data_settings: settings that override the source's file in ``configs/data``, for example ``{"test_fraction":
            0.2}``. For rows and paths, this file is ``image_folder.yaml``.
        method_settings: settings that override the method's file in ``configs/pairs``, for example ``{"per_caption":
            2}``.

    Returns:
        A summary with the counts per split (``splits``), the number of rejected rows (``rejected_rows``) and the
        text-only accuracies of the audit.

    Raises:
        ConfigError: a source, method or setting is unknown, or a required setting has no value.
        SourceError: the data cannot be read, or too many rows are unusable.
        StoreError: the folder was created with different data or settings.
        ValueError: there are no rows, or a row lacks the key ``image`` or ``caption``.

    Examples:
        >>> import scramble
        >>> scenes = {"n_train": 16, "n_val": 4, "n_test": 4, "quads_val": 0, "quads_test": 2}
        >>> summary = scramble.make_pairs("pairs", "world", "world", data_settings=scenes)
        >>> summary["splits"]["train"]["images"]
        16
    """
    from scramble.app import plain_sections
    from scramble.config.validation import validate
    from scramble.pipeline.generate import generate

    source, settings = "image_folder", dict(data_settings or {})
    if not isinstance(data, str | Path):
        settings = {"images": "."} | settings | {"path": _write_rows(Path(out), data), "id_column": "id"}
    elif isinstance(data, Path) or (data not in choices_of("data") and Path(_path(data)).exists()):
        settings["path"] = _path(data)
    else:
        source = data
    cfg = _compose({"data": source, "pairs": method}, {"data": settings, "pairs": method_settings or {}})
    cfg.run.data = str(out)
    validate(cfg, "generate", ())
    values = plain_sections(cfg, "data", "pairs")
    return generate(out, data=values["data"], pairs=values["pairs"], seed=seed)


def score(
    vlm: VLM,
    image: ImageLike | None,
    prompt: str,
    answers: Sequence[str],
    *,
    per_token: bool = False,
    score_end: bool = True,
) -> list[float]:
    """Return the log-probability of each answer to a prompt about an image.

    If the model's family supports token tries, one forward pass scores all answers.

    Args:
        vlm: the model; see :func:`scramble.models.load_vlm`.
        image: a PIL image or a path; None for a prompt without an image.
        prompt: the question, without image placeholders and without the chat template.
        answers: the texts to score.
        per_token: return the mean over the tokens of each answer instead of the sum.
        score_end: count the end-of-turn token as part of each answer, as in training.

    Returns:
        Log-probabilities in nats, one per answer, in the order of ``answers``.

    Raises:
        ValueError: an answer is empty, or ``answers`` is a single string.
        RecordError: the image cannot be read.
        EvaluationError: the prompt and one of the answers together have more tokens than the model has positions.
        ModelError: the prompt or an answer contains a control token of the model.

    Examples:
        >>> import scramble
        >>> vlm = scramble.load_vlm("data/tiny_internvl")
        >>> captions = ["a red circle is left of a blue square", "a blue square is left of a red circle"]
        >>> true, swapped = scramble.score(vlm, "data/example/01.png", "Describe the image.", captions)
        >>> true > swapped
        True
    """
    from scramble.evaluation.items import Query
    from scramble.evaluation.prompts import QueryEncoder, score_queries

    if isinstance(answers, str):
        raise ValueError(f"answers={answers!r} is a single string: pass a list of strings")
    for number, answer in enumerate(answers):
        if not answer.strip():
            raise ValueError(f"answers[{number}]={answer!r} is empty: pass only answers that contain text")
    if not answers:
        return []
    vlm.model.eval()
    encoder = QueryEncoder(vlm.family, vlm.processor, vlm.family.max_length(vlm.backbone.model.config))
    query = Query("score", (), prompt, tuple(answers), score_end=score_end)
    (scores,) = score_queries(vlm, encoder, [([query], [] if image is None else [_open(image)])])
    return [each.mean if per_token else each.sum for each in scores]


def evaluate(
    vlm: VLM,
    benchmarks: str | Sequence[str] | Mapping[str, str | Path | Mapping[str, Any]],
    out: str | Path,
    *,
    protocol: str | Mapping[str, Any] = "default",
    limit: int | None = None,
    batch_tokens: int | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Evaluate a model on benchmarks.

    Later calls reuse the replies and results, which are stored in ``<out>/<benchmark>/``.

    Args:
        vlm: the model; ``load_vlm(path, adapter=...)`` loads a model with an adapter.
        benchmarks: one or several names in ``configs/benchmark``, or a mapping from each name to the folder of the
            benchmark's files or to the benchmark's options. ``heldout_pairs`` and the benchmarks of the embedded world
            need the folder of one split of a data set, for example ``{"heldout_pairs": "pairs/test"}``.
        out: folder of the results. To compare the arms of a run with ``scripts/report.py``, choose
            ``<run>/evaluation/<arm>``.
        protocol: name of a protocol in ``configs/protocol``, or ``{"name": ..., ...}`` with changed settings;
            ``default`` selects the benchmark's own protocol.
        limit: maximum number of items per benchmark, exceeded if necessary to keep groups of items complete.
        batch_tokens: maximum number of positions in one forward pass; None means 1,024 on a CPU and 8,192 on a GPU.

    Returns:
        A dictionary from the name of each benchmark to its scores. Each score is a dictionary with ``value``,
        ``standard_error``, ``low`` and ``high`` (95 % interval) and ``chance``, all in percent, and with the number of
        items ``n``; see :mod:`scramble.evaluation.scoring.results`. As in tables, the interval is clipped to [0, 100],
        and ``standard_error``, ``low`` and ``high`` are None for fewer than 10 items.

    Raises:
        EvaluationError: a benchmark, option or protocol is unknown, or a benchmark's data is missing or damaged,
            or ``out`` contains scores of other data, another protocol or another model.

    Examples:
        >>> import scramble
        >>> scenes = {"n_train": 16, "n_val": 4, "n_test": 4, "quads_val": 0, "quads_test": 2}
        >>> _ = scramble.make_pairs("pairs", "world", "world", data_settings=scenes)
        >>> vlm = scramble.load_vlm("data/tiny_internvl")
        >>> scores = scramble.evaluate(vlm, {"world_winoground": "pairs/test"}, "scores/base")
        >>> group = scores["world_winoground"]["group"]
        >>> group["n"], round(group["chance"], 1), 0 <= group["value"] <= 100
        (18, 16.7, True)
    """
    from scramble.console import counter
    from scramble.evaluation import runner
    from scramble.evaluation.benchmarks import load_benchmark
    from scramble.pipeline.provenance import environment
    from scramble.training.weights import adapter_key, processor_key, weights_key

    named = [benchmarks] if isinstance(benchmarks, str) else benchmarks
    options = named if isinstance(named, Mapping) else dict.fromkeys(named)
    loaded = [
        load_benchmark(name, **(given if isinstance(given, Mapping) else {"root": given}))
        for name, given in options.items()
    ]
    vlm.model.eval()
    model = vlm.backbone.model
    # Identify the model by its weights in memory, because training may have changed the weights after loading.
    key = content_key(weights_key(model), adapter_key(model), processor_key(vlm))
    identity = runner.ModelId(vlm.path, key, vlm.revision, vlm.adapter, Path(out).name, str(model.dtype))
    results = runner.evaluate(
        vlm,
        loaded,
        protocol,
        out,
        model_id=identity,
        limit=limit,
        batch_tokens=batch_tokens,
        environment=environment(),
        progress=counter,
    )
    return {
        result.benchmark["name"]: {name: _table_values(each) for name, each in result.scores.items()}
        for result in results
    }


def _table_values(score: Mapping[str, Any]) -> dict[str, Any]:
    """Return a score as it appears in tables.

    The interval is clipped to [0, 100]. For fewer than 10 items, ``standard_error``, ``low`` and ``high`` are None.
    """
    from scramble.evaluation.scoring.statistics import is_few

    if is_few(score["n"]):
        return {**score, "standard_error": None, "low": None, "high": None}
    if score["low"] is None:  # all items belong to one cluster
        return dict(score)
    return {**score, "low": max(score["low"], 0.0), "high": min(score["high"], 100.0)}


# ------------------------------------------------------------------------------------------------------- configuration


def _compose(choices: Mapping[str, str], settings: Mapping[str, Mapping[str, Any]]) -> Any:
    """Compose the configuration of ``scripts/generate.py``.

    ``choices`` selects the file of each group, and ``settings`` replaces values in these files.

    Raises ConfigError if a choice is unknown, or if a required setting has no value.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    from scramble.config.overrides import expand_home_in_values
    from scramble.field_checks import ConfigError, hint

    for group, name in choices.items():
        if name not in (available := choices_of(group)):
            what = "pair method" if group == "pairs" else "source or path"
            raise ConfigError([f"there is no {what} {name!r}; {hint(name, available)}"])
    arguments = {"data": "data_settings", "pairs": "method_settings"}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("generate", [f"{group}={name}" for group, name in choices.items()])
    with open_dict(cfg):
        for group, changes in settings.items():
            plain = {key: str(value) if isinstance(value, Path) else value for key, value in changes.items()}
            cfg[group] = OmegaConf.merge(cfg[group], plain)
            if missing := sorted(OmegaConf.missing_keys(cfg[group])):
                key = missing[0].removeprefix(f"{group}.")
                raise ConfigError([f"{group}={choices[group]} needs {arguments[group]}={{'{key}': ...}}"])
    expand_home_in_values(cfg)
    return cfg


# -------------------------------------------------------------------------------------------------------------- images


def _open(image: ImageLike) -> Image.Image:
    """Return an upright RGB image, which all processors accept.

    Raises RecordError if the file cannot be read, and ValueError if ``image`` is neither a PIL image nor a path.
    """
    from PIL.Image import Image

    from scramble.pixels import upright_rgb
    from scramble.records import ImageFile

    if isinstance(image, str | Path):
        return ImageFile(path=_path(image)).open()
    if not isinstance(image, Image):
        raise ValueError(f"image must be a PIL image or a path, not {type(image).__name__}")
    return upright_rgb(image)


def _path(path: str | Path) -> str:
    """Expand ``~`` in a path, and find files that ship with the project (:func:`scramble.project.shipped`)."""
    return shipped(str(Path(path).expanduser()))


def _write_rows(out: Path, rows: Rows) -> Path:
    """Write rows to a caption file in ``<out>/source``, and return the path of this file.

    Images in memory are written to PNG files in the same folder. The name of each file depends on its content, so that
    new rows never overwrite the rows of a finished data set.
    """
    from scramble.storage.files import write_text

    lines = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not {"image", "caption"} <= row.keys():
            raise ValueError(f"data[{number}] must be a mapping with the keys 'image' and 'caption'")
        image = row["image"]
        if isinstance(image, str | Path):
            name, identity = _path(image), str(image)
        else:
            name = _write_image(out / "source", image)
            identity = Path(name).stem
        lines.append(json.dumps({"image": name, "caption": row["caption"], "id": identity}, ensure_ascii=False))
    if not lines:
        raise ValueError("data has no rows: pass at least one row with the keys 'image' and 'caption'")
    text = "\n".join(lines) + "\n"
    path = out / "source" / f"{content_key(text)}.jsonl"
    if not path.exists():
        write_text(path, text)
    return path


def _write_image(folder: Path, image: Image.Image) -> str:
    """Write an image to a PNG file named after a hash of its pixels, and return the absolute path of the file."""
    from scramble.storage.files import atomic_path

    upright = _open(image)
    path = folder.absolute() / f"{content_key(upright.size, hashlib.sha256(upright.tobytes()).hexdigest())}.png"
    if not path.exists():
        with atomic_path(path) as temporary:
            upright.save(temporary, "PNG")
    return str(path)
