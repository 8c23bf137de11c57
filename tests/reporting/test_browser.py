"""Tests the results browser: its content, escaping of texts, and its pages in a real browser."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scramble import world
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import Benchmark, CaptionChoice, Item
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result
from scramble.pipeline import StageError
from scramble.pipeline.browse import browse
from scramble.records import ImageRecord, PreferencePair, Question, TwoByTwoItem
from scramble.reporting import charts, comparison
from scramble.reporting.browser.items import is_right, margin_of, marked_captions, targets
from scramble.reporting.browser.pairs import text_only_scores
from scramble.reporting.browser.runs import differing, flat
from scramble.reporting.browser.site import SiteOptions, write_site
from scramble.reporting.browser.sources import Sources, gather, run_names
from scramble.storage.files import StoreError, write_json
from scramble.storage.tables import read_table, write_table

SCRIPT = "<script>document.title='owned'</script>"
IMAGE = "<img src=x onerror=\"document.title='owned'\">"
METHODS = ("base", "sft-seed0", "mpo-seed0")
NAMES = ("world_winoground", "world_vqa")


def outcomes_of(benchmark: Benchmark, shift: int) -> list[Outcome]:
    """Return artificial outcomes: with ``shift`` s, the items whose number modulo 3 is s are wrong."""
    actual = []
    for number, item in enumerate(benchmark.items):
        right = number % 3 != shift
        if isinstance(item.record, TwoByTwoItem):
            values = dict.fromkeys(("text", "image", "group"), float(right))
            tokens = {f"{item.item_id}/0": [[["a", -0.25], [SCRIPT, -6.0]], [["b", -3.0]]]} if shift else None
            table = [[-115.25, -118.5], [-116.75, -114.0]] if right else [[-118.5, -115.25], [-118.5, -115.25]]
            actual.append(
                Outcome(
                    item.item_id,
                    item.kind,
                    "",
                    item.tags,
                    item.item_id,
                    values,
                    None,
                    "",
                    details={"scores": table} | ({"token_logprobs": tokens} if tokens else {}),
                )
            )
        else:
            assert isinstance(item.record, Question)
            answer = item.record.answer if right else f"wrong {SCRIPT}"
            actual.append(
                Outcome(item.item_id, item.kind, "", (), item.image_ids[0], {"accuracy": float(right)}, answer, answer)
            )
    return actual


def pair(number: int, image_id: str) -> PreferencePair:
    chosen, rejected = (f"a {colour} cup number {number} {SCRIPT}" for colour in ("red", "blue"))
    scores = {"grammar.chosen": 0.25, "grammar.rejected": 0.5}
    return PreferencePair(f"pair{number}", (image_id,), "Describe.", chosen, rejected, "replace-colour", scores=scores)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with hostile texts, two benchmarks, three methods and the curves of two arms."""
    run = tmp_path_factory.mktemp("runs") / "a <b>run</b>"
    world.build_world(run / "data", seed=0, n_train=6, n_val=4, n_test=80, quads_val=1, quads_test=2)
    test = run / "data" / "test"
    quads = [
        replace(q, captions=(q.captions[0] + SCRIPT, q.captions[1] + IMAGE)) for q in read_table(test, TwoByTwoItem)
    ]
    write_table(test, TwoByTwoItem, quads)
    questions = [replace(q, question=q.question + SCRIPT) for q in read_table(test, Question)]
    write_table(test, Question, questions)
    train = run / "data" / "train"
    ids = [record.image_id for record in read_table(train, ImageRecord)]
    write_table(train, PreferencePair, [pair(number, ids[number % len(ids)]) for number in range(24)])
    write_json(run / "data" / "stage.json", {"status": "finished", "config": {"data": {"kind": SCRIPT}}, "summary": {}})
    for place, method in enumerate(METHODS):
        for name in NAMES:
            benchmark = load_benchmark(name, test)
            actual = outcomes_of(benchmark, place)
            result = Result(
                {"name": name, "version": benchmark.version, "scoring": "plain", "items": len(actual), "limit": None},
                {"path": "tiny", "name": method},
                {"name": "world", "version": 1},
                scores("plain", actual),
                rates(actual),
            )
            results.write(run / "evaluation" / method / name, result, actual)
        if method != "base":
            arm = run / "train" / method
            trainer = {"loss_type": ["sft"], "global_batch_size": 4}
            config = {"objective": {"name": "sft"}, "trainer": trainer, "peft": {"r": 8}}
            write_json(arm / "stage.json", {"status": "finished", "config": config, "summary": {"steps": 50}})
            rows = [{"step": s, "loss": 2.0 / s, "rewards/margins": s * (place - 1) / 10} for s in range(1, 51)]
            (arm / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 51, "loss": NaN}\n')
    return run


def options(run: Path) -> dict[str, dict[str, str]]:
    return {name: {"root": str(run / "data" / "test")} for name in NAMES}


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return browse([run], benchmarks=options(run))


def received(folder: Path, name: str) -> Any:
    """Return the content of a file in ``data/``, which must be one call with JSON."""
    text = (folder / "data" / f"{name}.js").read_text(encoding="ascii")
    match = re.fullmatch(r'Browser\.receive\("([\w-]+)", (.*)\);\n', text, re.S)
    assert match[1] == name
    return json.loads(match[2])


def rows_of(folder: Path, benchmark: str) -> list[dict[str, Any]]:
    file = next(entry["file"] for entry in received(folder, "site")["items"] if entry["name"] == benchmark)
    return received(folder, file)["rows"]


def test_texts_stay_texts_and_nothing_is_fetched(run: Path, page: Path) -> None:
    assert page == run / "report" / "browser" / "index.html"
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert re.findall(r"<script[^>]*>", text) == re.findall(r'<script src="assets/\w+\.js">', text)
    assert SCRIPT not in text and IMAGE not in text and "<b>run</b>" not in text
    assert "&lt;script&gt;" in text
    for name in NAMES:
        count = len(load_benchmark(name, run / "data" / "test").items)
        assert f'{name} <span class="soft">{count:,} items · protocol' in text
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#|assets/)""", text)
    for file in [page, *(page.parent / "assets").iterdir()]:
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", file.read_text())
    assert SCRIPT in "".join(rows_of(page.parent, NAMES[0])[0]["captions"][0])


def test_every_item_is_shown_with_all_arms(run: Path, page: Path) -> None:
    for name in NAMES:
        benchmark = load_benchmark(name, run / "data" / "test")
        rows = rows_of(page.parent, name)
        assert [row["id"] for row in rows] == [item.item_id for item in benchmark.items]
        for number, row in enumerate(rows):  # see outcomes_of: the method at index s is wrong where n % 3 == s
            assert [result["right"] for result in row["results"]] == [number % 3 != place for place in range(3)]
            assert all((page.parent / "images" / image).stat().st_size for image in row["images"])
    site = received(page.parent, "site")
    assert [arm["name"] for arm in site["items"][0]["arms"]] == ["base", "sft", "mpo"]
    quad = rows_of(page.parent, NAMES[0])[0]["results"]
    # By hand from outcomes_of: min(-115.25, -114) - max(-118.5, -116.75), and min(-118.5, -115.25) - (-115.25).
    assert [result["margin"] for result in quad] == [-3.25, 1.5, 1.5]
    question = rows_of(page.parent, NAMES[1])[0]
    assert question["results"][0]["reply"] == f"wrong {SCRIPT}" and "margin" not in question["results"][0]


@pytest.mark.parametrize(
    ("values", "true", "margin"),
    [
        ([-3.0, -1.0, -2.5], [0], -2.0),
        ([-1.0, -3.0, -2.5], [0], 1.5),
        ([-1.0, -4.0, -2.5], [0, 1], -1.5),  # of two true captions the less likely one counts
        ([-1.0], [0], None),
        ([-1.0, -2.0], [], None),
        ([[4.0, 1.0], [2.0, 3.0]], [], 1.0),
    ],
)
def test_margins(values: list[Any], true: list[int], margin: float | None) -> None:
    assert margin_of(values, true) == margin


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"text": 1.0, "group": 0.0}, False),
        ({"accuracy": 0.6}, True),
        ({"score": 0.03, "hallucination_rate": 0.0}, True),
        ({"hal": 1.0}, False),
        ({}, None),
    ],
)
def test_what_counts_as_right(values: dict[str, float], right: bool | None) -> None:
    assert is_right(Outcome("i", "", "", (), "", values, None, "")) is right


def test_right_candidates() -> None:
    record = Question("q", ("i",), "Is it red?", "Yes")
    assert targets(Item(record, "yes_no")) == [0]
    assert targets(Item(replace(record, answer="B", choices=("cat", "dog")), "letter")) == [1]
    assert targets(Item(record, "closed", details={"candidates": ["No", "Yes"]})) == [1]
    assert targets(Item(record, "free")) == []
    assert targets(Item(CaptionChoice("c", ("i",), ("a", "b", "c"), target=2), "captions")) == [2]


def test_swapped_phrases_are_marked_alike() -> None:
    """One phrase was moved: it is marked in both captions, without the spaces around it."""
    captions = ("left of an orange star a blue ring", "left of a blue ring an orange star")
    for true in (0, 1):
        first, second = marked_captions(captions, true)
        assert first[1::2] == second[1::2] and len(first[1::2]) == 1
        assert first[1] == first[1].strip() and ["".join(parts) for parts in (first, second)] == list(captions)


def test_pairs_have_marked_words_and_a_text_only_score(run: Path, page: Path) -> None:
    (split,) = received(page.parent, "site")["pairs"]
    rows = received(page.parent, split["file"])["rows"]
    assert (split["name"], split["count"], split["total"]) == (f"{run.name} train", 24, 24)
    assert rows[0]["chosen"][:3] == ["a ", "red", f" cup number 0 {SCRIPT}"]
    assert rows[0]["rejected"][1] == "blue"
    assert rows[0]["scores"] == {"grammar.chosen": 0.25, "grammar.rejected": 0.5}
    assert all(row["text_only"] > 0 for row in rows)  # the colour alone identifies the chosen text
    assert split["fitted_on"] == "these pairs, out of fold"


def test_text_only_scores_use_pairs_of_other_images_if_there_are_enough() -> None:
    others = [pair(number, f"other{number}") for number in range(30)]
    values, fitted_on = text_only_scores([pair(0, "image")], others)
    assert values[0] > 0 and fitted_on == "30 pairs of other images"
    assert text_only_scores([pair(0, "image")], others[:5]) == ([], "")


def test_settings_that_differ() -> None:
    arms = {
        "a": dict(flat({"trainer": {"beta": 0.1, "loss": ["sft"]}, "seed": 0})),
        "b": dict(flat({"trainer": {"beta": 0.2, "loss": ["sft"]}})),
    }
    assert differing(arms) == [("trainer.beta", ["0.1", "0.2"]), ("seed", ["0", ""])]


def test_limits_of_items_and_pairs(run: Path, tmp_path: Path) -> None:
    out = browse([run], tmp_path / "few", benchmarks=options(run), items=5, pairs_per_split=3)
    site = received(out.parent, "site")
    assert [entry["count"] for entry in site["items"]] == [5, 5] and site["items"][0]["total"] > 5
    assert [(entry["count"], entry["total"]) for entry in site["pairs"]] == [(3, 24)]
    none = browse([run], tmp_path / "few", benchmarks=options(run), items=0, pairs_per_split=0)  # the same folder again
    assert received(none.parent, "site") == {"items": [], "pairs": []}
    assert not list((out.parent / "images").iterdir()) and len(list((out.parent / "data").iterdir())) == 1


def test_a_published_folder_is_ready_for_hub_and_github(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "CNAME").write_text("example.org")
    for file in ("images/logo.png", "data/mine.js"):
        (folder / file).parent.mkdir()
        (folder / file).write_text("of another page")
    browse([run], folder, benchmarks=options(run), items=1, pairs_per_split=0)
    assert (folder / "README.md").read_text().startswith(f'---\ntitle: "Results of {run.name}"\nsdk: static\n')
    assert all((folder / name).exists() for name in (".nojekyll", "CNAME", "images/logo.png", "data/mine.js"))
    (folder / "README.md").write_text("mine")
    browse([run], folder, benchmarks=options(run), items=1, pairs_per_split=0)
    assert (folder / "README.md").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("<title>another page</title>")
    with pytest.raises(StoreError, match=r"index.html was not written by .*: choose another folder \(publish=...\)"):
        browse([run], other, benchmarks=options(run))


def test_several_runs_side_by_side_and_other_data(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second", ignore=shutil.ignore_patterns("report"))
    for path in (tmp_path / "second").glob("evaluation/*/world_vqa/result.json"):
        path.write_text(path.read_text().replace("generated-", "other-"))
    sources = gather({folder: folder / "data" for folder in (run, tmp_path / "second")})
    assert f"{run.name}: base" in sources.folders["world_vqa"] and "second: mpo" in sources.folders["world_vqa"]
    out = browse([run, tmp_path / "second"], tmp_path / "both", benchmarks=options(run))
    assert "second: mpo: the data versions differ" in out.read_text(encoding="utf-8")
    entries = {entry["name"]: entry for entry in received(out.parent, "site")["items"]}
    others = ", ".join(f"second: {method}" for method in ("base", "sft", "mpo"))
    assert entries["world_vqa"]["note"] == f"Arms that were evaluated on other data are not shown: {others}."
    assert not entries["world_winoground"]["note"]
    rows = rows_of(out.parent, "world_vqa")
    assert len(rows[0]["results"]) == 3 and rows[0]["question"]
    assert len(rows_of(out.parent, "world_winoground")[0]["results"]) == 6


def test_other_data_than_all_results(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    for path in (tmp_path / "run").glob("evaluation/*/world_vqa/result.json"):
        path.write_text(path.read_text().replace("generated-", "other-"))
    out = browse([tmp_path / "run"], benchmarks=options(run))
    reason = r"the results are for data version other-\w+, but the loaded data has version generated-"
    assert re.search(f"the items of world_vqa are shown without texts and images: {reason}", capsys.readouterr().out)
    rows = rows_of(out.parent, "world_vqa")
    assert len(rows[0]["results"]) == 3 and "question" not in rows[0] and "images" not in rows[0]


def test_bad_input(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"nothing/evaluation has no results: run scripts/evaluate.py"):
        browse([tmp_path / "nothing"], tmp_path / "site", benchmarks={})
    with pytest.raises(StageError, match="a run is named twice"):
        browse([run, run], tmp_path / "site", benchmarks={})
    shutil.copytree(run / "evaluation", tmp_path / "second" / "evaluation")
    with pytest.raises(StageError, match="several runs need a folder for their website: set publish=<folder>"):
        browse([run, tmp_path / "second"], benchmarks={})
    with pytest.raises(StageError, match=r"publish is empty: set publish to a folder"):
        browse([run], "", benchmarks={})
    (tmp_path / "page" / "index.html").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"index.html was not written by .*: choose another folder \(publish="):
        browse([run], tmp_path / "page", benchmarks={})
    with pytest.raises(StageError, match=r"runs=\[\] names no run"):
        browse([], benchmarks={})


def test_the_headline_opens_the_page_and_its_score_comes_first_unfolded(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    main = text.index("world_winoground: both images and both captions matched correctly")
    assert main < text.index("<h2>world_winoground <") < text.index("<h2>world_vqa <")
    assert text.index("group</td>") < text.index("text</td>") < text.index("<details")


def test_each_run_is_compared_with_its_own_baselines(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second")
    for folder in (tmp_path / "second" / "evaluation" / "base").iterdir():  # in this run the base is as good as mpo
        shutil.rmtree(folder)
        shutil.copytree(run / "evaluation" / "mpo-seed0" / folder.name, folder)
    folders = gather({folder: folder / "data" for folder in (run, tmp_path / "second")}).folders
    rows = comparison.compare(folders, ["base", "sft"])
    actual = {row.method: row for row in rows if (row.benchmark, row.score) == ("world_vqa", "accuracy")}
    first, second = actual[f"{run.name}: mpo"], actual["second: mpo"]
    assert list(second.differences) == ["base", "sft"]
    assert second.differences["base"]["difference"] == 0
    assert first.differences["base"]["difference"] == pytest.approx(first.value - actual[f"{run.name}: base"].value)
    assert not actual["second: base"].differences  # sft minus base is shown, base minus sft is not
    named = comparison.compare(folders, [f"{run.name}: mpo"])
    assert all(f"{run.name}: mpo" in row.differences for row in named if row.method != f"{run.name}: mpo")


def test_runs_of_one_name_get_as_much_of_their_paths_as_it_takes(tmp_path: Path) -> None:
    names = run_names([tmp_path / "a" / "mine", tmp_path / "b" / "mine"])
    assert list(names.values()) == ["a/mine", "b/mine"]
    assert list(run_names([tmp_path / "a" / "mine"]).values()) == ["mine"]


def test_items_are_read_from_the_data_of_the_shown_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The items are not read from the data of the configuration's run."""
    other = tmp_path / "elsewhere"
    roots = {name: {"root": str(other / "data" / "test")} for name in NAMES}
    out = browse([run], tmp_path / "site", run=other, data=other / "data", benchmarks=roots)
    assert "captions" in rows_of(out.parent, NAMES[0])[0]
    assert "without texts" not in capsys.readouterr().out
    browse([run], out.parent, run=other, data=other / "data", benchmarks={NAMES[0]: roots[NAMES[0]]})
    printed = capsys.readouterr().out
    assert (
        "the items of world_vqa are shown without texts and images: its data was not loaded; run scripts/browse.py"
        in printed
    )
    browse([run], out.parent, benchmarks={NAMES[0]: {"root": str(tmp_path / "none")}})
    assert f"items of {NAMES[0]} are shown without texts and images: {tmp_path / 'none'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0.0, 0.5, 1.0]),
        (-3, 9, [-5.0, 0.0, 5.0, 10.0]),
        (2, 2, [1.5, 2.0, 2.5]),
        (0.1, 0.13, [0.1, 0.11, 0.12, 0.13]),
    ],
)
def test_ticks_are_round_and_span_the_data(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_lines_that_coincide_are_drawn_wide_before_narrow() -> None:
    """For every pair of colour numbers, both lines are visible where they coincide."""
    order = sorted(range(len(charts.LINES)), key=charts.drawing_order)
    drawn = [charts.LINES[number] for number in order]
    assert len(set(charts.LINES[1:])) == len(charts.LINES) - 1
    for (below, _), (above, dashes) in itertools.pairwise(drawn):
        assert above < below or dashes or above == below == charts.LINES[0][0]  # the base has no line
    points = [(0.0, 1.0), (1.0, 2.0)]
    chart = charts.line_chart("loss", {"mpo": points, "sft": points}, {"sft": 1, "mpo": 3})
    assert chart is not None and [line.label for line in chart.lines] == ["sft", "mpo"]
    single = charts.line_chart("loss", {"mpo": points[:1]}, {"mpo": 3})
    assert single is not None and len(single.lines[0].dots) == 1


def test_few_steps_have_marks_and_whole_numbers() -> None:
    few = charts.line_chart("loss", {"mpo": [(1.0, 2.0), (2.0, 1.0)]}, {})
    assert few is not None and [text for _, text in few.x_ticks] == ["1", "2"] and len(few.lines[0].dots) == 2
    many = charts.line_chart("loss", {"mpo": [(float(step), 1.0) for step in range(40)]}, {})
    assert many is not None and many.lines[0].dots == ()


def test_a_chart_keeps_its_ends_and_drops_what_is_not_finite() -> None:
    points = [(float(step), 1.0 / step) for step in range(1, 2001)] + [(2001.0, float("nan"))]
    chart = charts.line_chart("loss", {"a": points, "b": [(1.0, float("inf"))]}, {"a": 2})
    assert chart is not None and [line.label for line in chart.lines] == ["a"]
    assert len(chart.series[0]["at"]) <= charts.MOST_POINTS + 1
    assert chart.series[0]["at"][0][0] == 1 and chart.series[0]["at"][-1][0] == 2000
    assert charts.line_chart("none", {"b": [(1.0, float("nan"))]}, {}) is None


@pytest.fixture(scope="module")
def chromium():
    path = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if path is None:
        pytest.skip("needs Chromium on the machine (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e .[dev])")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


# Elements outside the window, or with content wider than themselves, unless they scroll or end in an ellipsis.
OVERFLOWING = """() => [...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  if (!box.width || style.textOverflow === 'ellipsis' || scrolls(e)) return false;
  for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) if (scrolls(p)) return false;
  const inner = e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !(e instanceof SVGElement);
  return box.right > innerWidth + 0.5 || box.left < -0.5 || inner && style.display !== 'inline';
}).map(e => `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`)"""


class Tab:
    """A page in Chromium that collects console messages and requests to other hosts."""

    def __init__(self, chromium, width: int = 1400, scheme: str = "light") -> None:
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", self._request)

    def _request(self, request) -> None:
        if not request.url.startswith(("file:", "data:", "http://127.0.0.1")):
            self.messages.append(request.url)

    def open(self, address: str, selector: str = "main") -> None:
        self.page.goto(address)
        self.page.wait_for_selector(f"{selector} >> visible=true")

    def text(self, selector: str) -> str:
        return self.page.inner_text(f"{selector} >> visible=true")

    def until(self, expression: str) -> None:
        """Wait until an expression is true; the page's policy forbids playwright's own function for this."""
        deadline = time.monotonic() + 10
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(20)

    def overflowing(self) -> list[str]:
        return self.page.evaluate(OVERFLOWING)


@pytest.fixture
def tab(chromium) -> Iterator[Tab]:
    tab = Tab(chromium)
    yield tab
    assert tab.messages == []
    tab.context.close()


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_pages_in_a_browser(page: Path, chromium, width: int, scheme: str) -> None:
    """There is no console message and no request, images are loaded, nothing is wider than the window, and colours are
    readable."""
    tab = Tab(chromium, width, scheme)
    for view in ("scores", "items", "pairs", "training", "runs"):
        tab.open(f"{page.as_uri()}#{view}", f"#page-{view}")
        tab.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert tab.overflowing() == [], view
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        assert tab.page.inner_text("nav [aria-current]").lower().startswith(view)
    for view in ("items", "pairs"):
        tab.open(f"{page.as_uri()}#{view}", "a.row")
        tab.page.keyboard.press("j")
        tab.until("[...document.images].every(i => i.complete)")
        broken = "[...document.images].filter(i => i.src && i.checkVisibility() && !i.naturalWidth).length"
        assert tab.page.evaluate(broken) == 0
        assert tab.overflowing() == [], view
    ink, paper = (
        sum(int(v) for v in re.findall(r"\d+", tab.page.evaluate(f"getComputedStyle(document.body).{name}"))[:3])
        for name in ("color", "backgroundColor")
    )
    assert (ink < paper) == (scheme == "light") and abs(ink - paper) > 450
    assert "owned" not in tab.page.title()
    assert tab.messages == []
    tab.context.close()


def test_filters_order_and_keys(run: Path, page: Path, tab: Tab) -> None:
    """The task of the guide: find the item that is right with the control and wrong with MPO with the largest change of
    the margin, and its link."""
    items = len(load_benchmark(NAMES[0], run / "data" / "test").items)
    tab.open(f"{page.as_uri()}#items", "a.row")
    count = "#page-items .count"
    assert tab.text(count) == f"{items} of {items}"
    outcome = tab.page.locator("#page-items select[aria-label=outcome]")
    # By hand from outcomes_of: sft is wrong where n % 3 == 1, mpo where n % 3 == 2.
    lost = len(range(2, items, 3))
    options = outcome.locator("option").all_inner_texts()
    assert f"right → wrong ({lost})" in options and f"wrong → right ({len(range(1, items, 3))})" in options
    outcome.select_option("lost")
    tab.page.select_option("#page-items select[aria-label=order]", "change-up")
    assert tab.text(count) == f"{lost} of {items}"
    tab.page.evaluate("document.activeElement.blur()")
    tab.page.keyboard.press("j")
    first = tab.text("#page-items .id")
    assert f"#item=world_winoground/{first}&" in tab.page.url and "outcome=lost" in tab.page.url
    assert "−3.25" in tab.text("#page-items .arms") and "✗ wrong" in tab.text("#page-items .arms")
    link = tab.page.url
    tab.page.keyboard.press("j")
    assert tab.text("#page-items .id") != first
    tab.page.keyboard.press("k")
    assert tab.page.url == link
    tab.page.keyboard.press("z")
    assert tab.page.evaluate("document.querySelector('#zoom img').naturalWidth") > 0
    tab.page.keyboard.press("ArrowRight")
    assert tab.text("#zoom .soft") == "image 2 of 2"
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("Escape")
    assert not tab.page.is_visible("#page-items .detail")
    tab.page.keyboard.press("?")
    assert tab.page.is_visible("#help")
    tab.page.keyboard.press("?")
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("owned c")  # in every caption (SCRIPT); c is text here and not a key
    assert tab.text(count) == f"{lost} of {items}" and tab.page.input_value("#page-items input") == "owned c"
    tab.page.keyboard.type("xyz")
    assert tab.text("#page-items .note") == "No items match the search and the filters."
    tab.open("about:blank", "html")
    tab.open(link, "#page-items .detail")  # the link opens the item with its filters
    assert tab.text("#page-items .id") == first and tab.text(count) == f"{lost} of {items}"


def test_log_probabilities_of_tokens_on_demand(page: Path, tab: Tab) -> None:
    """Two of the three arms stored log-probabilities. The page loads the file when it shows the log-probabilities."""
    first = rows_of(page.parent, NAMES[0])[0]["id"]
    tab.open(f"{page.as_uri()}#item={NAMES[0]}/{first}", "#page-items .detail")
    requested: list[str] = []
    tab.page.on("request", lambda request: requested.append(Path(request.url).name))
    tab.page.click("text=Log-probabilities of tokens")
    tab.page.wait_for_selector(".token")
    assert requested == ["tokens-0-0.js"]
    assert tab.text(".tokens h3") == "image 1"
    assert tab.page.locator(".tokens p").count() == 4  # two candidates of two arms
    assert tab.page.locator(".token").all_text_contents()[:2] == ["a", SCRIPT]
    assert [tab.page.locator(".token").nth(n).get_attribute("class") for n in range(2)] == ["token t1", "token t5"]
    assert "−6.25" in tab.text(".tokens p >> nth=0")


def test_a_link_to_an_item_of_another_benchmark_and_a_wrong_link(page: Path, tab: Tab) -> None:
    row = rows_of(page.parent, NAMES[1])[3]
    tab.open(f"{page.as_uri()}#item={NAMES[1]}/{row['id']}", "#page-items .detail")
    assert tab.text("#page-items .question") == row["question"]  # with the text of SCRIPT
    tab.open("about:blank", "html")
    tab.open(f"{page.as_uri()}#item={NAMES[1]}/nothing", "#page-items .note")
    assert tab.text("#page-items .note") == f"There is no item {NAMES[1]}/nothing on this page."


def test_pairs_and_curves_in_a_browser(page: Path, tab: Tab) -> None:
    tab.open(f"{page.as_uri()}#pairs&q=number+13", "a.row")
    assert tab.text("#page-pairs .count") == "1 of 24"
    tab.page.click("a.row >> visible=true")
    tab.page.wait_for_selector("#page-pairs .detail")
    assert tab.page.locator("#page-pairs .detail mark").all_inner_texts() == ["red", "blue"]
    assert "#pair=" in tab.page.url
    tab.page.keyboard.press("4")
    tab.page.wait_for_selector("#page-training >> visible=true")
    tab.page.hover(".chart svg >> nth=0")
    tip = tab.text(".chart .tip >> nth=0")
    assert "step 2" in tip and "sft-seed0" in tip and "mpo-seed0" in tip
    tab.page.click(".legend button >> nth=0")
    tab.page.hover(".chart svg >> nth=0", position={"x": 100, "y": 60})
    assert "sft-seed0" not in tab.text(".chart .tip >> nth=0")


@pytest.mark.parametrize("width", [400, 1400])
def test_several_runs_fit_the_window(run: Path, tmp_path: Path, chromium, width: int) -> None:
    second = tmp_path / ("a_run_with_a_very_long_name" * 3)
    shutil.copytree(run, second, ignore=shutil.ignore_patterns("report"))
    page = browse([run, second], tmp_path / "both", benchmarks=options(run))
    tab = Tab(chromium, width)
    for view in ("scores", "items", "training", "runs"):
        tab.open(f"{page.as_uri()}#{view}", f"#page-{view}")
        assert tab.overflowing() == [], view
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    arms = [f"select[aria-label='{label}']" for label in ("arm", "compared with")]
    chosen = [tab.page.input_value(f"#page-items {arm}") for arm in arms]
    assert chosen == [f"{second.name}: mpo", f"{second.name}: sft"]
    assert tab.messages == []
    tab.context.close()


def test_a_web_server_can_serve_the_folder(page: Path, tab: Tab) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page.parent))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.open(f"http://127.0.0.1:{server.server_address[1]}/#items", "a.row img")
        tab.until("document.querySelector('a.row img').naturalWidth > 0")
        server.shutdown()


@pytest.mark.full
def test_five_thousand_items_are_fast(tmp_path: Path, tab: Tab, capsys: pytest.CaptureFixture[str]) -> None:
    """The page opens within 2 s, and searches and filters within 100 ms, with four arms, replies of 20 words and 500
    images.
    """
    world.build_world(tmp_path / "data", seed=0, n_train=4, n_val=4, n_test=500, quads_val=1, quads_test=1)
    small = load_benchmark("world_vqa", tmp_path / "data" / "test")
    words = "cat dog tree car house red blue green small large left right above below".split()  # noqa: SIM905
    items = tuple(
        Item(Question(f"q{n}", item.image_ids, f"What is {words[n % 14]} {n}?", "cat", item.kind), "short")
        for n, item in zip(range(5000), itertools.cycle(small.items))
    )
    benchmark = replace(small, items=items)
    folders: dict[str, list[Path]] = {}
    for place, method in enumerate(("base", "sft", "dpo", "mpo")):
        outcomes = [
            Outcome(
                i.item_id,
                i.kind,
                "",
                (),
                "",
                {"accuracy": float((n + place) % 3 > 0)},
                "x",
                "y",
                details={
                    "response": " ".join(words[(n + k + place) % 14] for k in range(20)),
                    "scores": [-1.0 * (n % 7), -2.0],
                },
            )
            for n, i in enumerate(items)
        ]
        result = Result(
            {"name": "world_vqa", "version": small.version, "scoring": "plain", "items": 5000, "limit": None},
            {"path": "tiny", "name": method},
            {"name": "world", "version": 1},
            scores("plain", outcomes),
            rates(outcomes),
        )
        folders[method] = [tmp_path / "evaluation" / method / "world_vqa"]
        results.write(folders[method][0], result, outcomes)
    start = time.perf_counter()
    write_site(
        tmp_path / "site",
        Sources({"world_vqa": folders}, {}, {}),
        {"world_vqa": benchmark},
        title="5,000 items",
        options=SiteOptions(),
    )
    writing = time.perf_counter() - start
    start = time.perf_counter()
    tab.open(f"{(tmp_path / 'site' / 'index.html').as_uri()}#items", "a.row")
    opening = time.perf_counter() - start
    timed = """([selector, event, value]) => {
      const field = document.querySelector(selector), start = performance.now();
      field.value = value; field.dispatchEvent(new Event(event)); document.body.offsetHeight;
      return performance.now() - start;
    }"""
    times = {}
    for name, call in {
        "search": ["#page-items input", "input", "green 17"],
        "search for a frequent word": ["#page-items input", "input", "cat"],
        "filter": ["#page-items select[aria-label=outcome]", "change", "lost"],
        "order": ["#page-items select[aria-label=order]", "change", "change-up"],
    }.items():
        times[name] = tab.page.evaluate(timed, call)
    scroll = """(async () => {
      const list = document.querySelector('.rows'), start = performance.now();
      list.scrollTop = 1e5;
      await new Promise(requestAnimationFrame);
      document.body.offsetHeight;
      return performance.now() - start;
    })()"""
    times["scroll"] = tab.page.evaluate(scroll)
    tab.page.evaluate("document.querySelector('.rows').scrollTop = 1e9")
    tab.until("document.querySelector('a.row:last-child').getBoundingClientRect().bottom < innerHeight + 1")
    assert tab.page.locator("a.row").count() < 60
    with capsys.disabled():
        listed = ", ".join(f"{name} {value:.0f} ms" for name, value in times.items())
        print(f"\n5,000 items: written in {writing:.1f} s, opened in {opening:.2f} s; {listed}")
    assert opening < 2
    assert max(times.values()) < 100, times
