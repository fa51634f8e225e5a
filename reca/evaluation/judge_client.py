"""A judge behind an OpenAI-compatible endpoint (`POST BASE_URL/chat/completions`), hosted or served by vLLM.

Every reply is kept under the digest of what was asked, so a run that was stopped continues where it was and a second
run asks nothing. Busy or broken answers are asked again with growing waits; what no waiting mends stops the run with a
mend. The key is read from the environment, sent to the endpoint, and put nowhere else.
"""

import asyncio
import base64
import contextlib
import os
import random
from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b
from typing import Any, TypeVar

import aiohttp
import msgspec

from reca.evaluation.judge_replies import Reply, ReplyCache

J = TypeVar("J")
R = TypeVar("R")

BUSY = frozenset({408, 409, 425, 429})
"""Statuses, besides 500 and above, that another try may mend."""

SPENT = "insufficient_quota"
"""What a hosted endpoint says, with status 429, when no waiting helps."""

SNIPPET = 200
"""Characters of an error reply that go into a message."""


class JudgeError(RuntimeError):
    """The judge cannot be used at all; what it has answered so far is kept."""


class NoReplyError(RuntimeError):
    """One question got no usable reply."""


class JudgeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which judge, and how hard to press it.

    Attributes:
        base_url: up to and without `/chat/completions`, such as `http://127.0.0.1:8000/v1`.
        model: name that the endpoint knows; part of every score's label and of every kept reply's digest.
        key_variable: environment variable that holds the key; empty when the endpoint wants none.
        temperature: of the reply; None leaves it to the endpoint.
        max_tokens: most tokens of a reply.
        concurrency: requests under way at once.
        timeout_s: seconds that one request may take.
        attempts: times that a busy or broken endpoint is asked before the question is given up.
        first_wait_s: seconds before the second attempt; doubled each time.
        most_wait_s: longest wait, in seconds.
        price_in: price of a million tokens asked, in any currency.
        price_out: price of a million tokens replied.
        most_cost: spending cap in the same currency, over this run's requests; None for no cap.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float | None = None
    max_tokens: int = 1400
    concurrency: int = 8
    timeout_s: float = 120.0
    attempts: int = 6
    first_wait_s: float = 1.0
    most_wait_s: float = 60.0
    price_in: float = 0.0
    price_out: float = 0.0
    most_cost: float | None = None


class Question(msgspec.Struct, frozen=True):
    """One question to the judge.

    Attributes:
        text: what is asked.
        pictures: PNG bytes, in order.
        system: instruction before the conversation; None for none.
        turn: 0, or the number of earlier replies that could not be read; a new turn is a new question.
    """

    text: str
    pictures: tuple[bytes, ...] = ()
    system: str | None = None
    turn: int = 0


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None


class _BusyError(Exception):
    """Worth another try; `wait_s` is what the endpoint asks for."""

    def __init__(self, reason: str, wait_s: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait_s, self.unreachable = wait_s, unreachable


def wait_before(config: JudgeConfig, attempt: int, asked_s: float, share: float) -> float:
    """Seconds to wait before an attempt.

    Args:
        config: first and longest wait.
        attempt: 1 for the second attempt; the wait doubles each time.
        asked_s: what the endpoint asked for (`Retry-After`); never less, but at most the longest wait.
        share: 0.5 to 1, so that requests that failed together do not come again together.
    """
    return min(config.most_wait_s, max(asked_s, config.first_wait_s * 2 ** (attempt - 1) * share))


class JudgeClient:
    """Asks questions, keeps replies, counts requests and cost.

    Args:
        config: the judge.
        cache: folder of kept replies, path or fsspec URL.

    Attributes:
        requests: requests sent so far.
        reused: replies taken from the cache.
        cost: money spent, by the configured prices.

    Raises:
        JudgeError: when the key's variable is not set, a cap is set without prices, or nothing could ever be asked.
    """

    def __init__(self, config: JudgeConfig, cache: str) -> None:
        self.config, self.cache = config, ReplyCache(cache)
        self.requests, self.reused, self.cost = 0, 0, 0.0
        self._key = os.environ.get(config.key_variable, "").strip() if config.key_variable else ""
        if config.key_variable and not self._key:
            raise JudgeError(
                f"environment variable {config.key_variable} is not set; put the key of {config.base_url} there (on "
                "every node), name another variable, or give an empty name when the endpoint wants no key: --context "
                "key_variable="
            )
        if config.most_cost is not None and not config.price_in + config.price_out > 0:
            raise JudgeError("a spending cap needs the prices of a million tokens; give price_in and price_out")
        if config.concurrency < 1 or config.attempts < 1:
            raise JudgeError(f"concurrency {config.concurrency}, attempts {config.attempts}: both must be at least 1")
        self._under_way, self._dearest = 0, 0.0

    def run(self, jobs: Iterable[J], work: Callable[["Asker", J], Awaitable[R]]) -> list[R]:
        """Work on all jobs, `concurrency` at a time; results in the order of the jobs.

        Args:
            jobs: anything; read one by one, as workers become free.
            work: asks what it needs to through the `Asker` and makes a result of the replies.

        Raises:
            JudgeError: the first one met, after the requests under way have been answered and kept.
        """
        return asyncio.run(self._run(jobs, work))

    async def _run(self, jobs: Iterable[J], work: Callable[["Asker", J], Awaitable[R]]) -> list[R]:
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        results: dict[int, R] = {}
        stopped: list[JudgeError] = []
        queue = enumerate(jobs)

        async def worker(asker: Asker) -> None:
            for number, job in queue:
                try:
                    results[number] = await work(asker, job)
                except JudgeError as error:
                    stopped.append(error)
                    asker.stop.set()
                if stopped:
                    return

        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            asker = Asker(self, session)
            await asyncio.gather(*(worker(asker) for _ in range(self.config.concurrency)))
        if stopped:
            raise stopped[0]
        return [results[number] for number in sorted(results)]

    def payload(self, question: Question) -> dict[str, Any]:
        """Body of the request."""
        pictures = [base64.b64encode(picture).decode() for picture in question.pictures]
        content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
        content += [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{p}"}} for p in pictures]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if question.system is not None:
            messages.insert(0, {"role": "system", "content": question.system})
        body: dict[str, Any] = {"model": self.config.model, "messages": messages, "max_tokens": self.config.max_tokens}
        return body if self.config.temperature is None else {**body, "temperature": self.config.temperature}

    def digest(self, question: Question) -> str:
        """blake2b-128 of the request body and the turn; the address of the endpoint is no part of it."""
        asked = msgspec.json.encode([self.payload(question), question.turn], order="deterministic")
        return blake2b(asked, digest_size=16).hexdigest()

    def hidden(self, text: str) -> str:
        """A text of the endpoint, short, on one line and without the key."""
        short = " ".join(text.replace(self._key, "***").split() if self._key else text.split())
        return short[:SNIPPET]

    def admit(self) -> bool:
        """Book a request under the cap: the dearest reply so far is set aside for each one under way.

        Returns:
            False while the first reply, which shows what one costs, is under way.

        Raises:
            JudgeError: when the cap is reached.
        """
        cap = self.config.most_cost
        if cap is not None:
            if self._under_way and not self._dearest:
                return False
            if self.cost + (self._under_way + 1) * self._dearest > cap or self.cost >= cap:
                raise JudgeError(
                    f"spending cap {cap:g} reached: {self.cost:.4g} spent on {self.requests} requests; raise most_cost "
                    "and run again, replies so far are kept"
                )
        self._under_way += 1
        self.requests += 1
        return True

    def settle(self, reply: Reply | None) -> None:
        """End a booking.

        Raises:
            JudgeError: when there is a cap and the endpoint does not report its tokens.
        """
        self._under_way -= 1
        if reply is None:
            return
        if reply.tokens_in is None and self.config.most_cost is not None:
            raise JudgeError(
                f"{self.config.base_url} reports no token usage, so the spending cap cannot be kept; drop it"
            )
        cost = (reply.tokens_in or 0) * self.config.price_in + (reply.tokens_out or 0) * self.config.price_out
        self.cost += cost / 1e6
        self._dearest = max(self._dearest, cost / 1e6)


class Asker:
    """Asks questions of one run.

    Args:
        client: the judge.
        session: open connections with the key in their headers.

    Attributes:
        stop: set when the run is over; nobody waits any longer.
    """

    def __init__(self, client: JudgeClient, session: aiohttp.ClientSession) -> None:
        self._client, self._session = client, session
        self._locks: dict[str, asyncio.Lock] = {}
        self._settled = asyncio.Event()
        self.stop = asyncio.Event()

    async def ask(self, question: Question) -> str:
        """The judge's reply, kept or new.

        Raises:
            NoReplyError: when this question is refused by the endpoint, or every attempt failed.
            JudgeError: when no question can be answered: no connection, key or model refused, spending cap reached.
        """
        digest = self._client.digest(question)
        async with self._locks.setdefault(digest, asyncio.Lock()):
            # In a thread: the cache may be far away.
            if (kept := await asyncio.to_thread(self._client.cache.get, digest)) is not None:
                self._client.reused += 1
                return kept.text
            return (await self._insist(question, digest)).text

    async def _insist(self, question: Question, digest: str) -> Reply:
        config = self._client.config
        jitter = random.Random(digest)
        last = _BusyError("not asked")
        for attempt in range(config.attempts):
            if attempt:
                pause = wait_before(config, attempt, last.wait_s, jitter.uniform(0.5, 1.0))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), pause)
            if self.stop.is_set():
                raise NoReplyError("the run was stopped")
            try:
                return await self._request(question, digest)
            except _BusyError as error:
                last = error
        tried = f"{last}, {config.attempts} attempts"
        if last.unreachable:
            raise JudgeError(f"judge unreachable at {config.base_url}: {tried}; start it, or mend the address")
        raise NoReplyError(tried)

    async def _request(self, question: Question, digest: str) -> Reply:
        while not self._client.admit():
            self._settled.clear()
            await self._settled.wait()
        reply: Reply | None = None
        try:
            reply = await self._post(question)
            await asyncio.to_thread(self._client.cache.put, digest, reply)
            return reply
        finally:
            self._client.settle(reply)
            self._settled.set()

    async def _post(self, question: Question) -> Reply:
        url = f"{self._client.config.base_url.rstrip('/')}/chat/completions"
        try:
            # No redirects: the key goes to the configured address only.
            asked = self._session.post(url, json=self._client.payload(question), allow_redirects=False)
            async with asked as response:
                body = await response.read()
                status, wait = response.status, response.headers.get("Retry-After", "")
        except TimeoutError as error:
            raise _BusyError(f"no reply within {self._client.config.timeout_s:g} s") from error
        except aiohttp.ClientPayloadError as error:
            raise _BusyError("the reply broke off") from error
        except aiohttp.ServerDisconnectedError as error:
            raise _BusyError("the endpoint hung up") from error
        except aiohttp.InvalidURL as error:
            raise JudgeError(f"base_url '{self._client.config.base_url}' is no URL") from error
        except aiohttp.ClientError as error:
            raise _BusyError(self._client.hidden(str(error)), unreachable=True) from error
        return self._read(status, body, float(wait) if wait.isdecimal() else 0.0)

    def _read(self, status: int, body: bytes, wait_s: float) -> Reply:
        config, said = self._client.config, self._client.hidden(body.decode(errors="replace"))
        if status in (401, 403):
            raise JudgeError(f"{config.base_url} refuses the key in '{config.key_variable}' (status {status}): {said}")
        if 300 <= status < 400:
            raise JudgeError(
                f"{config.base_url} answers with a redirect (status {status}); give the address it leads to"
            )
        if status == 404:
            raise JudgeError(f"{config.base_url} knows no model '{config.model}' or no chat completions: {said}")
        if status == 429 and SPENT in said:
            raise JudgeError(f"{config.base_url}: the account is spent: {said}")
        if status in BUSY or status >= 500:
            raise _BusyError(f"status {status}: {said}", wait_s)
        if status != 200:
            raise NoReplyError(f"status {status}: {said}")
        try:
            found = msgspec.json.decode(body, type=_Completion)
        except msgspec.DecodeError as error:
            raise _BusyError(f"not a chat completion: {error}") from error
        text = (found.choices[0].message.content or found.choices[0].message.refusal) if found.choices else None
        if not text or not text.strip():
            raise _BusyError("an empty reply")
        usage = found.usage
        counts = (None, None) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
        return Reply(text, found.model, *counts)
