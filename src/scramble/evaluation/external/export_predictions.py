"""Export predictions for evaluation harnesses and servers: VLMEvalKit, lmms-eval, EvalAI (VQAv2), MMBench.

A cell of an xlsx file can contain at most 32,767 characters. A longer prediction raises an error in this format,
because predictions are never truncated.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from scramble.evaluation.items import EvaluationError, Item, name_hint
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.records import Question
from scramble.storage.files import atomic_path, write_json, write_text
from scramble.storage.hashing import content_key

CELL_LIMIT = 32767
PREDICTION_FORMATS = ("vlmevalkit", "lmms-eval", "evalai", "mmbench", "every_eval_ever")
"""Formats of predictions. :mod:`scramble.evaluation.external.every_eval_ever` writes ``every_eval_ever``, which also
contains the scores.
"""


def check_formats(names: Sequence[str]) -> None:
    """Raise EvaluationError if a format is unknown."""
    if unknown := [name for name in names if name not in PREDICTION_FORMATS]:
        raise EvaluationError(
            f"export_predictions: unknown format {unknown[0]!r} {name_hint(unknown[0], PREDICTION_FORMATS)}"
        )


def write(
    name: str, folder: str | Path, model: str, task: str, items: Sequence[Item], outcomes: Sequence[Outcome]
) -> Path | None:
    """Write predictions in one format below ``folder``. Return None if the format does not support these items: every
    format requires questions, and EvalAI requires numeric question ids.

    Raises:
        EvaluationError: a text is too long for the format.
    """
    if not all(isinstance(item.record, Question) for item in items):
        return None
    if name == "evalai" and not all(item.item_id.isdecimal() for item in items):
        return None
    if name == "lmms-eval":
        write_lmms_eval(path := Path(folder) / f"samples_{task}.jsonl", task, items, outcomes)
    elif name == "evalai":
        write_evalai(path := Path(folder) / "evalai.json", items, outcomes)
    elif name == "mmbench":
        write_mmbench(path := Path(folder) / f"{model}_{task}.xlsx", rows(items, outcomes))
    else:
        write_vlmevalkit(path := Path(folder) / f"{model}_{task}.tsv", rows(items, outcomes))
    return path


def rows(items: Sequence[Item], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the rows of question items with VLMEvalKit's columns: index, question, A.., answer, category,
    prediction.
    """
    table = []
    for item, outcome in zip(items, outcomes, strict=True):
        assert isinstance(item.record, Question)  # write() skips all other items
        prediction = outcome.details.get("response", outcome.prediction)
        table.append(
            {
                "index": item.item_id,
                "question": item.record.question,
                **item.options,
                "answer": item.record.answer,
                "category": item.kind,
                "prediction": "" if prediction is None else str(prediction),
            }
        )
    return table


def write_vlmevalkit(path: str | Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Write VLMEvalKit's prediction file ``<model>_<dataset>.tsv`` (PRED_FORMAT=tsv) or ``.xlsx``. The suffix of
    ``path`` selects the format.
    """
    if Path(path).suffix == ".xlsx":
        write_xlsx(path, table)
        return
    columns = _columns(table)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_text(path, text.getvalue())


def write_lmms_eval(path: str | Path, task: str, items: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
    """Write a file in the format of lmms-eval's ``<date>_samples_<task>.jsonl``, with one row per item."""
    lines = []
    for number, (row, outcome) in enumerate(zip(rows(items, outcomes), outcomes, strict=True)):
        doc = {key: value for key, value in row.items() if key != "prediction"}
        sample = {
            "doc_id": number,
            "doc": doc,
            "target": row["answer"],
            "arguments": {},
            "resps": [[row["prediction"]]],
            "filtered_resps": [row["prediction"]],
            "doc_hash": content_key(doc),
            "task": task,
            **outcome.values,
        }
        lines.append(json.dumps(sample, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def write_evalai(path: str | Path, items: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
    """Write EvalAI's VQAv2 submission: a JSON list of ``question_id`` (int) and ``answer``."""
    pairs = zip(items, outcomes, strict=True)
    write_json(path, [{"question_id": int(item.item_id), "answer": o.prediction or ""} for item, o in pairs])


def write_mmbench(path: str | Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Write the xlsx file for the MMBench server: index, question, A, B, C, D, prediction (without the answer)."""
    columns = ("index", "question", "A", "B", "C", "D", "prediction")
    write_xlsx(path, [{column: row.get(column, "") for column in columns} for row in table])


def write_xlsx(path: str | Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Write one sheet of text cells. Raises EvaluationError if a cell is too long for xlsx."""
    columns = _columns(table)
    lines = [columns, *([str(row.get(column, "")) for column in columns] for row in table)]
    for line in lines:
        for column, cell in zip(columns, line, strict=True):
            if len(cell) > CELL_LIMIT:
                raise EvaluationError(
                    f"{column} of {line[0]!r} has {len(cell)} characters, but a cell of an xlsx file holds at most "
                    f"{CELL_LIMIT}: write a .tsv file (export_predictions=[vlmevalkit])"
                )
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in _XLSX.items():
            book.writestr(name, content)
        book.writestr("xl/worksheets/sheet1.xml", _sheet(lines))


def _columns(table: Sequence[Mapping[str, Any]]) -> list[str]:
    if not table:
        raise EvaluationError("there are no predictions to write: repeat the evaluation")
    return list(dict.fromkeys(column for row in table for column in row))


def _sheet(lines: Iterable[Sequence[str]]) -> str:
    cells = (
        "<row>"
        + "".join(f'<c t="inlineStr"><is><t xml:space="preserve">{_xml(cell)}</t></is></c>' for cell in line)
        + "</row>"
        for line in lines
    )
    return f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>{"".join(cells)}</sheetData></worksheet>'


def _xml(text: str) -> str:
    return escape("".join(c for c in text if c >= " " or c in "\n\t"))


_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_RELATIONS = "application/vnd.openxmlformats-package.relationships+xml"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def _relation(kind: str, target: str) -> str:
    link = f'<Relationship Id="rId1" Type="{_OFFICE}/{kind}" Target="{target}"/>'
    return f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{link}</Relationships>'


_XLSX = {
    "[Content_Types].xml": f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types">'
    f'<Default Extension="rels" ContentType="{_RELATIONS}"/><Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/></Types>',
    "_rels/.rels": _relation("officeDocument", "xl/workbook.xml"),
    "xl/workbook.xml": f'{_HEAD}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": _relation("worksheet", "worksheets/sheet1.xml"),
}
