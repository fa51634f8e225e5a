"""A judge that is slow, busy, broken, empty, expensive or not there."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from loopback_judge import LoopbackJudge, completion, cut, loopback_judge, raw, status

from reca.evaluation.judge_client import (
    Asker,
    JudgeClient,
    JudgeConfig,
    JudgeError,
    NoReplyError,
    Question,
    wait_before,
)

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


def config(url: str, **changes: Any) -> JudgeConfig:
    quick = {"model": "m", "key_variable": "JUDGE_KEY", "first_wait_s": 0.0, "attempts": 3, "timeout_s": 5.0}
    return JudgeConfig(base_url=url, **{**quick, **changes})


async def ask(asker: Asker, question: Question) -> str:
    try:
        return await asker.ask(question)
    except NoReplyError as error:
        return f"no reply: {error}"


def run(judge: LoopbackJudge, cache: Path, *texts: str, **changes: Any) -> list[str]:
    client = JudgeClient(config(judge.url, **changes), str(cache))
    return client.run([Question(text) for text in texts], ask)


def test_a_question_becomes_one_request(tmp_path: Path) -> None:
    with loopback_judge(lambda body: "Score: 4") as judge:
        client = JudgeClient(config(judge.url, temperature=0.0), str(tmp_path))
        assert client.run([Question("rate it", (b"png",), system="be strict")], ask) == ["Score: 4"]
    system, user = judge.asked[0]["messages"]
    assert system == {"role": "system", "content": "be strict"}
    assert user["content"][0] == {"type": "text", "text": "rate it"}
    assert user["content"][1]["image_url"]["url"] == "data:image/png;base64,cG5n"
    assert (judge.asked[0]["model"], judge.asked[0]["temperature"], judge.asked[0]["max_tokens"]) == ("m", 0.0, 1400)
    assert judge.keys == [f"Bearer {KEY}"]


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    with loopback_judge(lambda body: "x") as judge:
        run(judge, tmp_path, "a", "b", "a")
        assert len(judge.asked) == 2
        client = JudgeClient(config(judge.url), str(tmp_path))
        assert client.run([Question(text) for text in "abba"], ask) == ["x"] * 4
        assert (len(judge.asked), client.requests, client.reused) == (2, 0, 4)
        # Another model, setting, picture, system text or turn is another question; another address is not.
        run(judge, tmp_path, "a", model="n")
        run(judge, tmp_path, "a", temperature=0.0)
        client.run([Question("a", (b"p",)), Question("a", system="s"), Question("a", turn=1)], ask)
        assert len(judge.asked) == 7
    with loopback_judge(lambda body: "y") as judge:
        assert run(judge, tmp_path, "a") == ["x"]
        assert judge.asked == []


@pytest.mark.parametrize(
    "trouble",
    [
        lambda body: status(429),
        lambda body: status(429, **{"Retry-After": "0"}),
        lambda body: status(500),
        lambda body: status(503),
        lambda body: cut("Score: 4"),
        lambda body: raw("<html>gateway</html>"),
        lambda body: raw('{"choices": []}'),
        lambda body: "",
        lambda body: "  \n",
        lambda body: raw('{"choices": [{"message": {}}]}'),
    ],
)
def test_busy_and_broken_answers_are_asked_again(trouble: Any, tmp_path: Path) -> None:
    with loopback_judge(trouble, trouble, lambda body: "Score: 4") as judge:
        assert run(judge, tmp_path, "a") == ["Score: 4"]
        assert len(judge.asked) == 3
    with loopback_judge(trouble) as judge:
        reply = run(judge, tmp_path / "other", "a")[0]
        assert reply.startswith("no reply: ")
        assert "3 attempts" in reply
        # What went wrong is not kept.
        judge.behaviours = [lambda body: "late"]
        assert run(judge, tmp_path / "other", "a") == ["late"]


def test_waits_grow_and_heed_the_endpoint() -> None:
    told = config("x", first_wait_s=1.0, most_wait_s=20.0)
    assert [wait_before(told, attempt, 0.0, 1.0) for attempt in (1, 2, 3, 9)] == [1, 2, 4, 20]
    assert wait_before(told, 3, 0.0, 0.5) == 2
    assert wait_before(told, 1, 7.0, 0.5) == 7
    assert wait_before(told, 1, 3600.0, 0.5) == 20


def test_a_stopped_run_does_not_wait(tmp_path: Path) -> None:
    def behave(body: dict[str, Any]) -> Any:
        return status(503) if body["messages"][0]["content"][0]["text"] == "busy" else status(401, "no")

    with loopback_judge(behave) as judge, pytest.raises(JudgeError, match="refuses the key"):
        run(judge, tmp_path, "busy", "locked", first_wait_s=1e6, most_wait_s=1e6)


def test_a_slow_judge_is_given_up_and_asked_again(tmp_path: Path) -> None:
    with loopback_judge(lambda body: None, lambda body: "at last") as judge:
        assert run(judge, tmp_path, "a", timeout_s=0.2) == ["at last"]
        judge.behaviours = [lambda body: None]
        assert "no reply within 0.05 s" in run(judge, tmp_path, "b", timeout_s=0.05, attempts=1)[0]


def test_a_refusal_is_an_answer(tmp_path: Path) -> None:
    refusal = completion(None, refusal="I cannot judge this.")
    with loopback_judge(lambda body: raw(json.dumps(refusal))) as judge:
        assert run(judge, tmp_path, "a", "a") == ["I cannot judge this."] * 2
        assert len(judge.asked) == 1


def test_a_refused_question_is_given_up_alone(tmp_path: Path) -> None:
    def behave(body: dict[str, Any]) -> Any:
        return status(400, "picture too large") if "big" in str(body) else "fine"

    with loopback_judge(behave) as judge:
        assert run(judge, tmp_path, "big", "small") == ["no reply: status 400: picture too large", "fine"]
        assert len(judge.asked) == 2


@pytest.mark.parametrize(
    ("code", "said", "message"),
    [
        (401, f"Incorrect API key provided: {KEY}", r"refuses the key in 'JUDGE_KEY' \(status 401\).*: \*\*\*"),
        (403, "no", "refuses the key"),
        (404, "no such model", "knows no model 'm'"),
        (308, "moved", "answers with a redirect"),
        (429, '{"error": {"code": "insufficient_quota"}}', "the account is spent"),
    ],
)
def test_what_no_waiting_mends_stops_the_run(code: int, said: str, message: str, tmp_path: Path) -> None:
    with loopback_judge(lambda body: "fine", lambda body: status(code, said)) as judge:
        with pytest.raises(JudgeError, match=message) as error:
            run(judge, tmp_path / "two", *map(str, range(20)), concurrency=2)
        assert KEY not in str(error.value)
        assert len(judge.asked) <= 3
    # One at a time, as two at once reach the judge in any order.
    with loopback_judge(lambda body: "fine", lambda body: status(code, said)) as judge:
        with pytest.raises(JudgeError, match=message):
            run(judge, tmp_path / "one", *map(str, range(20)), concurrency=1)
        assert len(judge.asked) == 2
        # The first answer was kept.
        judge.behaviours = [lambda body: "again"]
        assert run(judge, tmp_path / "one", "0", "1") == ["fine", "again"]


def test_no_judge_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback_judge(lambda body: "x") as judge:
        gone = judge.url
    with pytest.raises(JudgeError, match=r"judge unreachable at http://127\..*3 attempts; start it"):
        JudgeClient(config(gone), str(tmp_path)).run([Question("a")], ask)
    with pytest.raises(JudgeError, match="is no URL"):
        JudgeClient(config("nowhere"), str(tmp_path)).run([Question("a")], ask)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(JudgeError, match="environment variable JUDGE_KEY is not set"):
        JudgeClient(config(gone), str(tmp_path))
    with loopback_judge(lambda body: "x") as judge:
        assert run(judge, tmp_path, "a", key_variable="") == ["x"]
        assert judge.keys == [None]


def test_no_more_requests_at_once_than_told(tmp_path: Path) -> None:
    with loopback_judge(lambda body: "x") as judge:
        assert run(judge, tmp_path, *map(str, range(40)), concurrency=3) == ["x"] * 40
        assert judge.most_under_way <= 3
        assert len(judge.asked) == 40


def test_the_spending_cap_holds(tmp_path: Path) -> None:
    # Each request costs 1000 * 2 / 1e6 + 100 * 10 / 1e6 = 0.003.
    prices = {"price_in": 2.0, "price_out": 10.0}
    texts = [str(number) for number in range(50)]
    with loopback_judge(lambda body: "x") as judge:
        with pytest.raises(JudgeError, match=r"spending cap 0\.02 reached"):
            run(judge, tmp_path, *texts, concurrency=8, most_cost=0.02, **prices)
        assert 1 <= len(judge.asked) <= 6
        before = len(judge.asked)
        with pytest.raises(JudgeError, match="replies so far are kept"):
            run(judge, tmp_path, *texts, concurrency=8, most_cost=0.02, **prices)
        assert before < len(judge.asked) <= before + 6
        client = JudgeClient(config(judge.url, **prices), str(tmp_path))
        assert len(client.run([Question(text) for text in texts], ask)) == 50
        assert len(judge.asked) == 50
        assert client.cost == pytest.approx(0.003 * client.requests)
    with pytest.raises(JudgeError, match="needs the prices"):
        JudgeClient(config("http://x", most_cost=1.0), str(tmp_path))
    with pytest.raises(JudgeError, match="concurrency 0, attempts 3: both must be at least 1"):
        JudgeClient(config("http://x", concurrency=0), str(tmp_path))
    with (
        loopback_judge(lambda body: raw('{"choices": [{"message": {"content": "x"}}]}')) as judge,
        pytest.raises(JudgeError, match="reports no token usage"),
    ):
        run(judge, tmp_path, "new", most_cost=1.0, **prices)


def test_a_killed_run_continues(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    async def dies(asker: Asker, question: Question) -> str:
        if question.text == "13":
            raise KilledError
        return await asker.ask(question)

    questions = [Question(str(number)) for number in range(20)]
    with loopback_judge(lambda body: "x") as judge:
        with pytest.raises(KilledError):
            JudgeClient(config(judge.url, concurrency=1), str(tmp_path)).run(questions, dies)
        assert len(judge.asked) == 13
        # A reply that was cut while it was written counts as none.
        half = next(path for path in tmp_path.rglob("*.json"))
        half.write_bytes(half.read_bytes()[:10])
        assert run(judge, tmp_path, *(q.text for q in questions)) == ["x"] * 20
        assert len(judge.asked) == 21


def test_the_key_is_put_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        loopback_judge(lambda body: "x", lambda body: status(500, f"key {KEY} failed")) as judge,
    ):
        client = JudgeClient(config(judge.url), str(tmp_path))
        replies = client.run([Question("a"), Question("b")], ask)
    assert "key *** failed" in " ".join(replies)
    assert KEY not in " ".join([caplog.text, repr(client.config), *replies])
    assert all(KEY not in path.read_text() for path in tmp_path.rglob("*.json"))
    assert KEY not in str(judge.asked)


CHILD = """
import sys
from reca.evaluation.judge_client import JudgeClient, JudgeConfig, Question

config = JudgeConfig(base_url=sys.argv[1], model="m", key_variable="", concurrency=2)
JudgeClient(config, sys.argv[2]).run([Question(str(n)) for n in range(30)], lambda asker, q: asker.ask(q))
"""


def test_after_kill_9_nothing_answered_is_asked_again(tmp_path: Path) -> None:
    reached = threading.Event()

    def behave(body: dict[str, Any]) -> str | None:
        if len(judge.asked) <= 10:
            return "x"
        reached.set()
        return None

    with loopback_judge(behave) as judge:
        child = subprocess.Popen([sys.executable, "-c", CHILD, judge.url, str(tmp_path)], cwd=Path(__file__).parents[2])
        try:
            assert reached.wait(60)
        finally:
            child.kill()
            child.wait()
        judge.behaviours = [lambda body: "x"]
        assert run(judge, tmp_path, *map(str, range(30)), key_variable="") == ["x"] * 30
        assert len(set(judge.texts())) == 30
        # Lost are at most the two that were under way.
        assert len(judge.asked) <= 30 + 2
