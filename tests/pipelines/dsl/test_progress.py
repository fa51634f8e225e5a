import io

import pytest

from pipelines.dsl import progress
from pipelines.dsl.progress import Display
from pipelines.dsl.stage import StageContext
from pipelines.dsl.text import scalars, seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_are_throttled_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    display = Display(stream)
    display.event("start train")
    for second in range(12):
        now = 100.0 + second
        display.show({"train": (f"update {second}", float(second)), "quiet": ("", 0.0), "same": ("waits", 0.0)})
    assert stream.getvalue().splitlines() == [
        "start train",
        "  train: update 0",
        "  same: waits",
        "  train: update 5",
        "  train: update 10",
    ]


def test_the_last_line_of_a_stage_is_printed_however_soon_it_comes() -> None:
    stream = io.StringIO()
    display = Display(stream)
    display.show({"train": ("placing workers", 1.0)})
    display.settle("train", "update 1/1")
    display.settle("train", "")
    display.show({"encode": ("8 images", 1.0)})
    display.settle("encode", "8 images")
    assert stream.getvalue().splitlines() == ["  train: placing workers", "  train: update 1/1", "  encode: 8 images"]


def test_a_line_sent_too_soon_is_held_and_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    table: dict[bytes, bytes] = {}

    class Table:
        @staticmethod
        def _internal_kv_put(key: bytes, value: bytes, overwrite: bool, namespace: bytes) -> None:
            table[key] = value

    monkeypatch.setattr(progress, "_table", lambda: Table)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)
    report = progress.Reporter("run/train")
    report("first")
    report("second")
    report("third")
    assert table == {b"run/train": b"first"}
    report.flush()
    assert table == {b"run/train": b"third"}


def test_a_terminal_shows_the_running_stages_in_place() -> None:
    stream = Terminal()
    display = Display(stream)
    display.show({"train": ("update 1", 61.0), "encode": ("", 2.0)})
    assert stream.getvalue() == "  train: update 1 [1 min 01 s]\n  encode: running [2.0 s]\n"
    display.event("done  encode")
    assert stream.getvalue().endswith("[2.0 s]\n\x1b[2A\x1b[Jdone  encode\n")
    display.close()
    assert stream.getvalue().endswith("done  encode\n"), "nothing is left to erase"


def test_a_progress_line_names_its_fields() -> None:
    lines: list[str] = []
    context = StageContext("train", None, "", None, None, lines.append)  # type: ignore[arg-type]
    context.progress("training", update=3, rate=0.123456, note="ok")
    assert lines == ["training update=3 rate=0.1235 note=ok"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 01 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations(value: float, text: str) -> None:
    assert seconds(value) == text


def test_scalars_of_an_artifact() -> None:
    assert scalars({"rows": 3, "loss": 0.123456, "name": "x", "parts": (1,)}) == "  rows=3 loss=0.1235"
    assert scalars({"name": "x"}) == ""
