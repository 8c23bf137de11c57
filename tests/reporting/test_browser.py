"""The results browser: its content, escaping of texts, and rendering in a real browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from scramble import world
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import Benchmark
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result
from scramble.pipeline import StageError
from scramble.pipeline.browse import browse
from scramble.records import Question, TwoByTwoItem
from scramble.reporting import changes, charts, comparison
from scramble.reporting.browser import gather, run_names, write_browser
from scramble.storage.files import write_json
from scramble.storage.tables import read_table, write_table

SCRIPT = "<script>document.title='owned'</script>"
IMAGE = "<img src=x onerror=\"document.title='owned'\">"
METHODS = ("base", "sft-seed0", "mpo-seed0")
NAMES = ("world_winoground", "world_vqa")


def outcomes_of(benchmark: Benchmark, shift: int) -> list[Outcome]:
    """Artificial outcomes: with ``shift`` s, the items whose number modulo 3 is s are wrong."""
    actual = []
    for number, item in enumerate(benchmark.items):
        right = number % 3 != shift
        if isinstance(item.record, TwoByTwoItem):
            values = dict.fromkeys(("text", "image", "group"), float(right))
            table = [[-115.25, -118.5], [-116.75, -114.0]] if right else [[-118.5, -115.25], [-118.5, -115.25]]
            actual.append(
                Outcome(
                    item.item_id, item.kind, "", item.tags, item.item_id, values, None, "", details={"scores": table}
                )
            )
        else:
            assert isinstance(item.record, Question)
            answer = item.record.answer if right else f"wrong {SCRIPT}"
            actual.append(
                Outcome(item.item_id, item.kind, "", (), item.image_ids[0], {"accuracy": float(right)}, answer, answer)
            )
    return actual


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with hostile texts: two benchmarks, three methods, two arms' curves."""
    run = tmp_path_factory.mktemp("runs") / "a <b>run</b>"
    world.generate(run / "data", seed=0, n_train=4, n_val=4, n_test=80, quads_val=1, quads_test=2)
    test = run / "data" / "test"
    quads = [
        replace(q, captions=(q.captions[0] + SCRIPT, q.captions[1] + IMAGE)) for q in read_table(test, TwoByTwoItem)
    ]
    write_table(test, TwoByTwoItem, quads)
    questions = [replace(q, question=q.question + SCRIPT) for q in read_table(test, Question)]
    write_table(test, Question, questions)
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
    return browse([run], run / "report" / "browser.html", benchmarks=options(run))


def test_texts_stay_texts_and_nothing_is_fetched(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<script>") == 1  # the page's own
    assert SCRIPT not in text and IMAGE not in text and "<b>run</b>" not in text
    assert "&lt;script&gt;" in text
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", text)
    assert "http://" not in text and "https://" not in text
    assert 'src=""' not in text


def test_changes_count_every_item_once(run: Path) -> None:
    benchmark = load_benchmark("world_vqa", run / "data" / "test")
    by_method = {m: {o.item_id: o for o in outcomes_of(benchmark, place)} for place, m in enumerate(METHODS)}
    actual = changes.compare(by_method, [("base", "mpo-seed0")], count=5).changes[0]
    n = len(benchmark.items)
    # By hand: base is wrong where n % 3 == 0, mpo where n % 3 == 2.
    assert (actual.gained, actual.lost) == (len(range(0, n, 3)), len(range(2, n, 3)))
    assert actual.both_wrong == 0 and actual.both_right == len(range(1, n, 3))
    assert len(actual.shown_gained) == len(actual.shown_lost) == 5
    again = changes.compare(by_method, [("base", "mpo-seed0")], count=5).changes[0]
    assert again.shown_gained == actual.shown_gained


def test_several_runs_side_by_side_and_other_data(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second")
    for path in (tmp_path / "second").glob("evaluation/*/world_vqa/result.json"):
        path.write_text(path.read_text().replace("generated-", "other-"))
    sources = gather({folder: folder / "data" for folder in (run, tmp_path / "second")})
    assert f"{run.name}: base" in sources.folders["world_vqa"] and "second: mpo" in sources.folders["world_vqa"]
    out = browse([run, tmp_path / "second"], tmp_path / "both.html", benchmarks=options(run))
    text = out.read_text(encoding="utf-8")
    assert "second: mpo: different data versions" in text
    reason = r"the results have data version generated-\w+, other-\w+, but the data has version generated-"
    assert re.search(reason, text)


def test_without_the_data_there_are_scores_but_no_items(run: Path, tmp_path: Path) -> None:
    write_browser(tmp_path / "page.html", gather({run: run / "data"}), {}, title="no data")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No items are shown: its data was not loaded" in text
    assert 'class="card item"' not in text and 'class="difference' in text


def test_bad_input(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"nothing/evaluation has no results: run scripts/evaluate.py"):
        browse([tmp_path / "nothing"], tmp_path / "page.html", benchmarks={})
    with pytest.raises(StageError, match="a run is named twice"):
        browse([run, run], tmp_path / "page.html", benchmarks={})


def test_the_headline_opens_the_page_and_its_score_comes_first_unfolded(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headline = text.index("world_winoground: both images matched with both captions")
    assert headline < text.index('id="scores"') < text.index("<h3>world_winoground <") < text.index("<h3>world_vqa <")
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


def test_items_of_held_out_pairs_are_kept_and_a_page_without_items_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Items are read from the data of the shown run, not from that of the configuration's run."""
    other = tmp_path / "elsewhere"
    roots = {name: {"root": str(other / "data" / "test")} for name in NAMES}
    out = browse([run], tmp_path / "page.html", run=other, data=other / "data", benchmarks=roots)
    assert 'class="card item"' in out.read_text(encoding="utf-8")
    assert "no items" not in capsys.readouterr().out
    only = {name: roots[name] for name in NAMES[:1]}
    browse([run], out, run=other, data=other / "data", benchmarks=only)
    assert "no items of world_vqa: its data was not loaded; run browse.py with the same" in capsys.readouterr().out
    missing = {NAMES[0]: {"root": str(tmp_path / "none")}}
    browse([run], out, benchmarks=missing)
    assert f"no items of {NAMES[0]}: {tmp_path / 'none'}" in capsys.readouterr().out


def test_several_runs_need_a_name_for_the_page(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "second")
    with pytest.raises(StageError, match=r"several runs need a file name for their page \(out=both.html\)"):
        browse([run, tmp_path / "second"], benchmarks={})
    with pytest.raises(StageError, match=r"runs=\[\] names no run"):
        browse([], benchmarks={})


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
    assert charts.ticks(low, high, 4) == pytest.approx(expected)


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
    assert single is not None and single.lines[0].dot is not None


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


OVERFLOWING = """() => [...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  const inner = e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !(e instanceof SVGElement);
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5
    || inner && getComputedStyle(e).display !== 'inline');
}).map(e => `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`)"""


@pytest.mark.parametrize("width", [400, 1400])
def test_several_runs_fit_the_window(run: Path, tmp_path: Path, chromium, width: int) -> None:
    second = tmp_path / ("a_run_with_a_very_long_name" * 3)
    shutil.copytree(run, second)
    page = browse([run, second], tmp_path / "both.html", benchmarks=options(run))
    context = chromium.new_context(viewport={"width": width, "height": 900})
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate(OVERFLOWING) == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    context.close()


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(page: Path, chromium, width: int, scheme: str) -> None:
    """No console message, no request, images loaded, tables filled, nothing wider than the window, colours readable."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    heard: list[str] = []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else heard.append(r.url))
    tab.goto(page.as_uri())
    assert heard == []
    assert "owned" not in tab.title()
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate(OVERFLOWING) == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("[...document.images].length") > 20
    assert tab.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
    empty = (
        "[...document.querySelectorAll('table.scores td:nth-child(-n+3)')].filter(d => !d.textContent.trim()).length"
    )
    assert tab.evaluate("document.querySelectorAll('table.scores td').length") > 50
    assert tab.evaluate(empty) == 0
    assert tab.evaluate("document.querySelectorAll('.chart polyline').length") == 4
    ink, paper = (
        sum(int(v) for v in re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.body).{name}"))[:3])
        for name in ("color", "backgroundColor")
    )
    assert (ink < paper) == (scheme == "light") and abs(ink - paper) > 450
    shown = "[...document.querySelectorAll('.items')].map(g => [...g.children].filter(c => !c.hidden).length)"
    everything = tab.evaluate(shown)
    tab.click(".filters button[data-kind='lost']")
    assert 0 < tab.evaluate(shown)[0] < everything[0]
    tab.hover(".chart svg")
    assert "step" in tab.inner_text(".chart .tip")
    assert heard == []
    context.close()
