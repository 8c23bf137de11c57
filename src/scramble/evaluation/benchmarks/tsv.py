"""Benchmarks in VLMEvalKit's TSV format: multiple choice, yes/no and open answers.

The benchmark ``tsv`` reads any file in this format, and its results are named after the file (``tsv-MyBench`` for
``MyBench.tsv``). ``benchmark.tsv.kind`` is ``choice``, ``yes_no``, ``open`` or ``free`` (graded by a judge). If this
key is not set, the kind is ``choice`` for a file with the columns A and B, ``yes_no`` for a file whose answers are all
yes or no, and ``open`` for any other file. The following files have separate benchmark names:

| name | Paper | file | scores |
|---|---|---|---|
| mmbench | Liu et al., ECCV 2024 (arXiv 2307.06281) | MMBench_*.tsv, CCBench.tsv | circular accuracy, accuracy |
| mmstar | Chen et al., NeurIPS 2024 (2403.20330) | MMStar.tsv | accuracy |
| scienceqa | Lu et al., NeurIPS 2022 (2209.09513) | ScienceQA_TEST.tsv, _VAL.tsv | accuracy |
| ai2d | Kembhavi et al., ECCV 2016 (1603.07396) | AI2D_TEST.tsv, AI2D_TEST_NO_MASK.tsv | accuracy |
| realworldqa | xAI 2024 (none) | RealWorldQA.tsv | accuracy |
| hrbench | Wang et al., AAAI 2025 (2408.15556) | hr_bench_4k.tsv, hr_bench_8k.tsv | accuracy (mean over cycles) |
| vstar | Wu and Xie, CVPR 2024 (2312.14135) | VStarBench.tsv | accuracy |
| blink | Fu et al., ECCV 2024 (2404.12390) | BLINK.tsv | mean over subtasks, accuracy |
| chartqa | Masry et al., ACL Findings 2022 (2203.10244) | ChartQA_TEST.tsv | relaxed accuracy |
| docvqa | Mathew et al., WACV 2021 (2007.00398) | DocVQA_VAL.tsv | ANLS |

The benchmarks ``seed``, ``mmvet`` and ``pope`` can also read their TSV files
(``benchmark.seed.root=SEEDBench_IMG.tsv``). Counts: not checked; the data version contains the file name, the number of
items and a hash of the file. Chance: computed from the numbers of options (for the circular accuracy, under independent
guesses). Human: not checked. The kind of an item is its category. Its tags are ``l2:<l2-category>``,
``cycle:<cycle_category>`` and, if the file has several splits, ``split:<split>``.

Tests compare the prompts, the images and the exact-matching scores with those of VLMEvalKit on recorded examples.
There are three differences from VLMEvalKit:

* Texts such as ``NA`` and ``None`` remain options, and numbers are not reformatted. ``cells=pandas`` reads cells as
  VLMEvalKit does.
* If two rows have the same ``image_path``, each row uses its own image.
* Replies that no rule can parse are never sent to a judge.

lmms-eval parses the replies to four of these benchmarks by separate rules. ``protocol.letter_parser=lmms_vstar``
selects the rule for V*. The rules for the other three benchmarks are ``lmms_blink``, ``lmms_hrbench`` and
``lmms_scienceqa``.
"""

from __future__ import annotations

import ast
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Literal, cast

from scramble.evaluation.benchmarks import lettered
from scramble.evaluation.benchmarks.data import check_option
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.benchmarks.tsv_rows import TsvFile, TsvRow, as_pandas, read_tsv
from scramble.evaluation.benchmarks.versions import changed_options
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.grading.open_answers import VLMEVALKIT_RULES
from scramble.records import LETTERS, Question

log = logging.getLogger(__name__)

Kind = Literal["choice", "yes_no", "open", "free"]
ITEM_KINDS: tuple[Kind, ...] = ("choice", "yes_no", "open", "free")
METRICS = ("vqa", *VLMEVALKIT_RULES)
CELLS = ("text", "pandas")
ROTATION = 10**6
"""Distance between the indices of a question's rotations in VLMEvalKit (index, index + 10^6, index + 2 * 10^6, ...)."""
ANNOTATORS = 4
"""If each row has at least this many answers, the answers are treated as the answers of different annotators (metric
``vqa``), and otherwise as accepted spellings.
"""


@dataclass(frozen=True)
class Form:
    """The conversion of a file's rows to items. ``letters`` are the option columns of the header. ``by_split`` is true
    if the file has several splits, which are then scored separately.
    """

    kind: Kind
    metric: str
    letters: tuple[str, ...]
    has_answers: bool
    by_split: bool


def load(
    root: str | Path,
    *,
    images: str | Path | None = None,
    kind: str | None = None,
    metric: str | None = None,
    cells: str = "text",
    partial: bool = False,
) -> Benchmark:
    """Load a TSV file. The name of the benchmark contains the name of the file, so that the results of several files
    are stored side by side.

    Args:
        root: the file, or a folder with one TSV file.
        images: folder of images that are given as paths (default: the file's folder).
        kind: ``choice``, ``yes_no``, ``open`` or ``free``. If it is None, the kind is derived from the columns and
            answers.
        metric: metric of open answers: ``vqa`` (accuracy against annotators), ``relaxed`` (numbers may differ by 5 %),
            ``anls`` or ``accuracy`` (equal text). The default is ``vqa`` if each row has at least four answers, and
            ``accuracy`` otherwise.
        cells: ``text``, or ``pandas`` to read cells as VLMEvalKit does.
        partial: skip rows that cannot be used.
    """
    benchmark = load_tsv("tsv", root, images=images, kind=kind, metric=metric, cells=cells, partial=partial)
    changed = changed_options(kind=(kind, None), metric=(metric, None), cells=(cells, "text"))
    return replace(benchmark, name=f"tsv-{_file('tsv', root).stem}", version=benchmark.version + changed)


def load_tsv(
    name: str,
    root: str | Path,
    *,
    images: str | Path | None = None,
    kind: str | None = None,
    metric: str | None = None,
    cells: str = "text",
    partial: bool = False,
    scoring: str | None = None,
) -> Benchmark:
    """Load a TSV file as the benchmark ``name``, as in :func:`load`. ``scoring`` replaces the default scoring of the
    file's kind.
    """
    for key, value, allowed in (("kind", kind, ITEM_KINDS), ("metric", metric, METRICS), ("cells", cells, CELLS)):
        if value is not None:
            check_option(name, key, value, allowed)
    path = _file(name, root)
    bad = RejectedRows(name, path)
    file = read_tsv(name, path, Path(images or path.parent), bad)
    if cells == "pandas":
        as_pandas(file.rows)
    form = _form(name, file, kind, metric)
    groups = _rotations(file.rows) if form.kind == "choice" else {}
    items: list[Item] = []
    for row in file.rows:
        with bad.row(row.index):
            items.extend(_items(row, form, groups.get(row.index, "")))
    bad.finish(len(items), partial)
    if file.without_image:
        log.warning(f"{name}: {file.without_image} rows of {path} have no image and are skipped, as in VLMEvalKit")
    scorings = {"choice": "circular" if groups else "plain", "yes_no": "pope"}
    mark = "partial-" if bad.rejected else ""
    return Benchmark(
        name,
        f"{path.stem}-{mark}{len(items)}-{file.digest[:8]}",
        check_items(name, items),
        file.images,
        scoring or scorings.get(form.kind, "plain"),
        chance=_chance(items, form.kind) if form.has_answers else {},
        default_protocol="vlmevalkit_prompts",
    )


def is_tsv(root: str | Path) -> bool:
    """Return whether a benchmark's root is a TSV file for :func:`load_tsv` instead of a file in the benchmark's own
    format.
    """
    return Path(root).suffix.lower() == ".tsv"


def _file(name: str, root: str | Path) -> Path:
    root = Path(root)
    if root.is_file():
        return root
    files = sorted(root.glob("*.tsv"))
    if len(files) != 1:
        what = f"contains {len(files)} TSV files" if root.is_dir() else "does not exist"
        raise EvaluationError(f"{name}: {root} {what}: set benchmark.{name}.root to the path of one TSV file")
    return files[0]


def _form(name: str, file: TsvFile, kind: str | None, metric: str | None) -> Form:
    """Return the conversion of a file's rows to items. Raises EvaluationError if the file lacks the columns of its
    kind.
    """
    if "AA" in file.columns:
        raise EvaluationError(
            f"{name}: {file.path} has the option AA, but options beyond Z are not supported: remove these options"
        )
    letters = tuple(sorted(column for column in file.columns if column in LETTERS))
    has_answers = "answer" in file.columns and any(row.cells["answer"].strip() for row in file.rows)
    answers = [_answers(row.cells["answer"]) for row in file.rows] if has_answers else []
    if kind is None:
        flat = {answer.strip().lower() for listed in answers for answer in listed}
        kind = "choice" if {"A", "B"} <= set(letters) else "yes_no" if flat and flat <= {"yes", "no"} else "open"
    if kind == "choice" and (missing := {"A", "B"} - set(letters)):
        raise EvaluationError(
            f"{name}: {file.path} has only the columns {', '.join(file.columns)[:200]}, but multiple-choice questions "
            f"also need {' and '.join(sorted(missing))}: check benchmark.{name}.kind"
        )
    if not has_answers:
        log.warning(f"{name}: {file.path} has no answers, so predictions are written without a score")
    if metric is None:
        metric = "vqa" if answers and min(map(len, answers)) >= ANNOTATORS else "accuracy"
    by_split = len({row.cells.get("split", "").strip() for row in file.rows}) > 1
    return Form(cast(Kind, kind), metric, letters, has_answers, by_split)


def _answers(cell: str) -> tuple[str, ...]:
    """Return the accepted answers in a cell: the elements of a list literal, or the cell itself."""
    if cell.strip().startswith("["):
        try:
            listed = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return (cell,)
        if isinstance(listed, list) and listed:
            return tuple(str(answer) for answer in listed)
    return (cell,)


def _rotations(rows: Iterable[TsvRow]) -> dict[str, str]:
    """Return a dictionary from the index of a row to its group, which consists of the rows that rotate the options of
    one question. The dictionary is empty if no question has two rows.
    """
    groups: dict[str, str] = {}
    questions: dict[str, str] = {}
    for row in rows:
        if not re.fullmatch(r"\d{1,12}", row.index):
            return {}
        group = groups[row.index] = str(int(row.index) % ROTATION)
        if questions.setdefault(group, row.cells["question"]) != row.cells["question"]:
            return {}  # the file only happens to have large indices
    return groups if len(set(groups.values())) < len(groups) else {}


# ------------------------------------------------------------------------------------------------------------- items


def _items(row: TsvRow, form: Form, group: str) -> list[Item]:
    """Return the items of a row: one item, or one per category if a yes/no row has several categories
    (``random,popular``, as in POPE).
    """
    cells, where = row.cells, f"index {row.index}"
    if not (question := cells["question"]).strip():
        raise EvaluationError(f"{where} has no question: correct this row")
    if form.has_answers and not cells["answer"].strip() and form.kind in ("choice", "yes_no"):
        raise EvaluationError(f"{where} has no answer: correct this row")
    category = cells.get("category", "").strip()
    details: dict[str, object] = {} if form.has_answers else {"rule": "unscored"}
    if hint := cells.get("hint", "").strip():
        details["hint"] = hint
    if form.kind == "choice":
        return [_choice(row, form, group, category, details)]
    if form.kind == "yes_no":
        answer = cells["answer"].strip().lower() if form.has_answers else ""
        if answer not in ("yes", "no") and form.has_answers:
            raise EvaluationError(
                f"{where}: the answer {cells['answer']!r:.60} is neither yes nor no: correct this row"
            )
        kinds = category.split(",") if re.fullmatch(r"\w+(,\w+)+", category) else [category]
        ids = [f"{kind}/{row.index}" if len(kinds) > 1 else row.index for kind in kinds]
        return [
            Item(
                Question(key, row.image_ids, question, answer, kind), "yes_no", tags=_tags(cells, form), details=details
            )
            for key, kind in zip(ids, kinds, strict=True)
        ]
    answers = _answers(cells["answer"]) if form.has_answers else ("",)
    if form.kind == "free":
        record = Question(row.index, row.image_ids, question, answers[0])
        return [Item(record, "free", tags=tuple(part.strip() for part in category.split(",") if part.strip()))]
    record = Question(row.index, row.image_ids, question, answers[0], category, answers)
    return [Item(record, "short", tags=_tags(cells, form), details={"rule": form.metric, **details})]


def _choice(row: TsvRow, form: Form, group: str, category: str, details: dict[str, object]) -> Item:
    options = {letter: row.cells[letter] for letter in form.letters if row.cells[letter].strip()}
    answer = row.cells["answer"].strip().strip("().").upper() if form.has_answers else ""
    if not options:
        raise EvaluationError(f"index {row.index} has no options: correct this row")
    if form.has_answers and answer not in options:
        listed = ", ".join(options)
        raise EvaluationError(
            f"index {row.index}: the answer {row.cells['answer']!r:.40} is not one of {listed}: correct this row"
        )
    letters = "".join(options)
    if not LETTERS.startswith(letters):
        details["letters"] = letters
    record = Question(
        row.index, row.image_ids, row.cells["question"], answer, category, choices=tuple(options.values())
    )
    return Item(record, "letter", group=group, tags=_tags(row.cells, form), details=details)


def _tags(cells: Mapping[str, str], form: Form) -> tuple[str, ...]:
    """Return the tags of a row. If the file has several splits, the split is also combined with the category and with
    every other tag, because VLMEvalKit reports scores by split.
    """
    values = {
        key: cells.get(column, "").strip() for key, column in (("l2", "l2-category"), ("cycle", "cycle_category"))
    }
    tags = [f"{key}:{value}" for key, value in values.items() if value]
    if form.by_split and (split := cells.get("split", "").strip()):
        category = [cells["category"].strip()] if cells.get("category", "").strip() else []
        tags += [f"split:{split}", *(f"split:{split}/{part}" for part in (*category, *tags))]
    return tuple(tags)


def _chance(items: Sequence[Item], kind: Kind) -> dict[str, float]:
    """Return the chance levels in percent, overall and by category and tag."""
    if kind == "yes_no":
        return {"accuracy": 50.0}
    if kind != "choice":
        return {}
    categories: defaultdict[str, list[float]] = defaultdict(list)
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        categories[item.kind].append(100 / len(item.options))
        if item.group:
            groups[item.group].append(item)
    circular = ((group[0], 100 * prod(1 / len(item.options) for item in group)) for group in groups.values())
    return {
        **lettered.chance(items),
        "accuracy_macro": fmean(map(fmean, categories.values())),
        **lettered.levels("circular_accuracy", circular),
    }


def _named(name: str, *, kind: Kind, metric: str | None = None, scoring: str | None = None) -> Callable[..., Benchmark]:
    def loader(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
        return load_tsv(name, root, images=images, kind=kind, metric=metric, partial=partial, scoring=scoring)

    return loader


load_mmbench = _named("mmbench", kind="choice")
load_mmstar = _named("mmstar", kind="choice")
load_scienceqa = _named("scienceqa", kind="choice")
load_ai2d = _named("ai2d", kind="choice")
load_realworldqa = _named("realworldqa", kind="choice")
load_hrbench = _named("hrbench", kind="choice")
load_vstar = _named("vstar", kind="choice")
load_blink = _named("blink", kind="choice", scoring="macro")
load_chartqa = _named("chartqa", kind="open", metric="relaxed")
load_docvqa = _named("docvqa", kind="open", metric="anls")
