import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from report_sample import make_report, png

from pipelines.report import (
    MAX_BYTES,
    Accounting,
    Difference,
    GateRow,
    GridRow,
    Measure,
    Picture,
    PictureGrid,
    ReportData,
    ReportError,
    ScoreRow,
    duration,
    findings,
    flatten,
    interval,
    render_report,
    signed,
    summary,
)
from pipelines.report_figures import MINUS

PROBE = """<script>addEventListener("load", () => document.body.append(JSON.stringify({
  pictures: document.images.length, drawn: [...document.images].filter(i => i.naturalWidth > 0).length,
  alts: [...document.images].filter(i => i.alt).length, tables: document.querySelectorAll("table").length,
  svgs: document.querySelectorAll("svg").length,
  scale: Math.min(...[...document.querySelectorAll("svg")].map(s => s.clientWidth / s.viewBox.baseVal.width)),
  wide: document.documentElement.scrollWidth > innerWidth })))</script>"""


BAD_ROW = GridRow("a dog", (Picture(b"GIF?"),))


@pytest.fixture(scope="module")
def report_data() -> ReportData:
    return make_report()


@pytest.fixture(scope="module")
def page(report_data: ReportData) -> str:
    return render_report(report_data)


def overall(report: ReportData, before: float, after: float, low: float, high: float) -> ReportData:
    row = ScoreRow("overall", 600, before, after, Difference(after - before, low, high))
    return replace(report, scores=replace(report.scores, overall=row))


def typed(text: str) -> str:
    """Text with the minus signs and spaces of a keyboard."""
    return text.replace(MINUS, "-").replace("\u00a0", " ")


def with_prompts(report: ReportData, pictures: list[bytes]) -> ReportData:
    rows = tuple(GridRow(f"prompt {i}", (Picture(data), Picture(data))) for i, data in enumerate(pictures))
    return replace(report, prompt_grid=PictureGrid(("base", "RecA"), rows, "made up"))


def test_page_needs_nothing_from_outside(page: str) -> None:
    assert "<script" not in page
    assert re.findall(r"https?:|url\(|@import|<link(?! rel=\"icon\" href=\"data:,\")|<iframe|<object", page) == []
    assert all(source.startswith("data:image/") for source in re.findall(r'\bsrc="([^"]*)"', page))
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) == 24 * 2 + 12 * 3
    assert len(page.encode()) < MAX_BYTES / 2


def test_page_and_summary_show_the_same_figures(page: str, report_data: ReportData) -> None:
    figures = summary(report_data)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["benchmark"] == "MiniGenEval"
    assert figures["scores"]["overall"]["difference"] == {"value": 0.203, "low": 0.164, "high": 0.242}
    for row in [figures["scores"]["overall"], figures["scores"]["strict"], *figures["scores"]["tasks"]]:
        cells = [row["task"] + "</th>", f"<td>{row['prompts']}</td>", f"<td>{row['before']:.3f}</td>"]
        assert re.search(r"\s*".join([*cells, f"<td>{row['after']:.3f}</td>"]), page), row
    for term in figures["loss"].values():
        assert f"{term['first']:.3f} → {term['last']:.3f}" in page
    assert figures["costs"]["executed"] == 4
    assert figures["costs"]["reused_core_s"] == pytest.approx(sum((4.1, 9.4, 6.2, 31.5, 24.0)) * 1.6)
    assert figures["run"]["nodes"][7]["reason"] in page
    assert figures["accounting"][0] == {
        "name": "images",
        "rows_in": 8200,
        "rows_out": 8192,
        "quarantined": {"truncated file": 5, "shorter side below 16 px": 3},
    }


def test_score_is_never_called_geneval(page: str) -> None:
    assert "MiniGenEval" in page
    assert re.findall(r"(?<!Mini)(?<!/)GenEval", page) == []


def test_attribution_stands_under_every_grid(page: str, report_data: ReportData) -> None:
    grids = re.findall(r'<figure class="grid">.*?</figure>\s*(?=</section>|<div|\Z)', page, re.DOTALL)
    assert len(grids) == 2
    assert all(report_data.attribution in grid for grid in grids)


def test_edits_are_shown_where_there_are_some(page: str, report_data: ReportData) -> None:
    assert 'id="editing"' not in page
    plain = summary(report_data)
    assert "edits" not in plain
    assert "edits" not in plain["findings"]
    picture = Picture(png(np.zeros((4, 4, 3), dtype=np.uint8)))
    cells = (
        picture,
        replace(picture, passed=False, note="the dog is still there"),
        replace(picture, passed=True),
        picture,
    )
    edited = replace(
        report_data,
        edits=(Measure("success", 200, 0.2, 0.5, difference=Difference(0.3, 0.2, 0.4)), Measure("done", 200, 0.3, 0.6)),
        edit_grid=PictureGrid(
            ("source", "base", "RecA", "wanted"), (GridRow("remove the dog", cells),), "First edits."
        ),
    )
    (section,) = re.findall(r'<section id="editing".*?</section>', render_report(edited), re.DOTALL)
    assert typed("Editing (success) rose: 0.200 → 0.500, +0.300") in typed(section)
    assert section.count("<img") == 4
    assert "the dog is still there" in section
    assert report_data.attribution in section
    plain = summary(edited)
    assert [row["name"] for row in plain["edits"]] == ["success", "done"]
    assert "edit_grid" not in plain
    with pytest.raises(ReportError, match="grid row 'remove the dog' has 3 pictures for 4 columns"):
        render_report(
            replace(edited, edit_grid=replace(edited.edit_grid, rows=(GridRow("remove the dog", cells[:3]),)))
        )


@pytest.mark.parametrize(
    ("before", "after", "low", "high", "words"),
    [
        (0.41, 0.55, 0.1, 0.18, " rose: 0.410 → 0.550, +0.140 [0.100, 0.180]; the 95 % interval excludes 0"),
        (0.55, 0.41, -0.18, -0.1, " fell: 0.550 → 0.410, -0.140 [-0.180, -0.100]; the 95 % interval excludes 0"),
        (
            0.4,
            0.4,
            -0.02,
            0.04,
            ", no difference shown: 0.400 → 0.400, 0.000 [-0.020, 0.040]; the 95 % interval includes 0",
        ),
        (
            0.4,
            0.41,
            0.0,
            0.04,
            ", no difference shown: 0.400 → 0.410, +0.010 [0.000, 0.040]; the 95 % interval includes 0",
        ),
    ],
)
def test_finding_is_as_plain_when_it_is_bad(
    report_data: ReportData, before: float, after: float, low: float, high: float, words: str
) -> None:
    changed = overall(report_data, before, after, low, high)
    assert typed(findings(changed).overall) == f"MiniGenEval overall{words}"
    assert f"MiniGenEval overall{words}." in typed(render_report(changed))


def test_task_sentence_sorts_by_what_the_intervals_show(report_data: ReportData) -> None:
    assert typed(findings(report_data).tasks) == (
        "Higher: colors +0.760, two objects +0.370, color attribution +0.190. Lower: position -0.140. "
        "No difference shown: counting +0.030, single object +0.010"
    )


def test_findings_without_interval_without_measure_and_with_failed_gate(report_data: ReportData) -> None:
    gates = (GateRow("colors", 0.1, 0.125, passed=False), *report_data.gates)
    plain = replace(report_data, understanding=(), reconstruction=(Measure("PSNR", 9, 10.0, 12.5, "dB"),), gates=gates)
    said = findings(plain)
    assert said.gates == "1 of 3 gates failed: colors"
    assert said.reconstruction == "Reconstruction (PSNR): 10.0 dB → 12.5 dB (no interval)"
    assert said.understanding == "Understanding was not measured"
    assert 'id="understanding"' not in render_report(plain)


def test_text_from_outside_is_escaped(report_data: ReportData) -> None:
    data = with_prompts(report_data, [])
    row = GridRow("<b>a dog & 'cat'</b>", (Picture(png(np.zeros((8, 8, 3), np.uint8))),))
    page = render_report(replace(data, prompt_grid=PictureGrid(('"x"',), (row,), "made up")))
    assert "<b>a dog" not in page
    assert "&lt;b&gt;a dog &amp; &#39;cat&#39;&lt;/b&gt;" in page


def test_large_pictures_shrink_until_the_page_fits(report_data: ReportData) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    page = render_report(with_prompts(report_data, [png(noise)] * 48))
    assert len(page.encode()) < MAX_BYTES
    assert page.count("data:image/jpeg") == 96


def test_page_that_cannot_fit_is_refused(report_data: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = png(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    monkeypatch.setattr("pipelines.report.MAX_BYTES", 60_000)
    small = replace(report_data, reconstruction_grid=PictureGrid((), (), ""))
    with pytest.raises(ReportError, match=r"with pictures of 56 pixels; the limit is 60000\. Give fewer grid rows"):
        render_report(with_prompts(small, [noise] * 12))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accounting": (Accounting("images", 10, 8, {"truncated": 1}),)}, "took 10 rows in, but 9"),
        ({"gates": (GateRow("colors", float("nan"), 0.1, passed=False),)}, r"gates\[0\].value is nan"),
        (
            {"prompt_grid": PictureGrid(("a", "b"), (BAD_ROW,), "")},
            "'a dog' has 1 pictures for 2",
        ),
        ({"prompt_grid": PictureGrid(("a",), (BAD_ROW,), "")}, "picture 'a' of 'a dog'"),
    ],
)
def test_impossible_figures_are_refused_by_name(report_data: ReportData, change: dict[str, object], words: str) -> None:
    with pytest.raises(ReportError, match=words):
        render_report(replace(report_data, **change))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("before", "after", "low", "high"), [(0.4, 1.2, 0.7, 0.9), (0.4, 0.5, 0.2, 0.3)])
def test_impossible_scores_are_refused(
    report_data: ReportData, before: float, after: float, low: float, high: float
) -> None:
    with pytest.raises(ReportError, match="overall"):
        summary(overall(report_data, before, after, low, high))


def test_report_data_survives_json(report_data: ReportData) -> None:
    assert msgspec.json.decode(msgspec.json.encode(report_data), type=ReportData) == report_data


def test_numbers_in_words() -> None:
    assert [duration(s) for s in (8.44, 59.96, 252, 7500)] == ["8.4 s", "60.0 s", "4 min 12 s", "2 h 05 min"]
    assert [typed(signed(v)) for v in (0.0004, -0.0004, -0.25, 0.25)] == ["0.000", "0.000", "-0.250", "+0.250"]
    assert flatten({"a": {"b": [1, 2], "c": None}, "d": 0.5}) == {"a.b": "1, 2", "a.c": "None", "d": "0.5"}
    assert typed(interval(Difference(-0.1, -0.2, -0.05))) == "[-0.200, -0.050]"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not on PATH")
@pytest.mark.parametrize("width", [500, 1200])
def test_page_opens_in_chromium(page: str, tmp_path: Path, width: int) -> None:
    probed = page.replace("img-src", "script-src 'unsafe-inline'; img-src").replace("</body>", PROBE)
    (tmp_path / "report.html").write_text(probed)
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run([*command, (tmp_path / "report.html").as_uri()], capture_output=True, text=True, timeout=60)
    found = re.search(r'\{"pictures".*?\}', shown.stdout)
    assert found is not None, shown.stderr[-2000:]
    seen = json.loads(found[0])
    assert seen["pictures"] == seen["drawn"] == seen["alts"] == 24 * 2 + 12 * 3
    assert seen["tables"] >= 10
    assert seen["svgs"] == 4
    assert not seen["wide"]
    assert seen["scale"] >= 0.7, "words of 12 px in a chart stay readable; what does not fit is scrolled to"
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not on PATH")
def test_chromium_probe_sees_console_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>undefinedFunction()</script>")
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "bad.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert any("CONSOLE" in line for line in shown.stderr.splitlines())
