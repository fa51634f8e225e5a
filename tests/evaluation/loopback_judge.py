"""An OpenAI-compatible judge on the loopback interface that behaves as it is told, request by request."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Behaviour = Callable[[dict[str, Any]], "str | web.Response | None"]
"""Given the request, a reply's text, or a whole response; None never answers."""

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}


def completion(text: str | None, **message: str) -> dict[str, Any]:
    return {"model": "loopback-1", "choices": [{"message": {"content": text, **message}}], "usage": USAGE}


def status(code: int, text: str = "busy", **headers: str) -> web.Response:
    return web.Response(status=code, text=text, headers=headers)


def raw(body: str) -> web.Response:
    return web.Response(text=body, content_type="application/json")


class LoopbackJudge:
    """Serves `behaviours` in turn, the last one for ever; remembers what it was asked."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("Authorization"))
        behave = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            # Lets other requests in, so that the number under way can be seen.
            await asyncio.sleep(0)
            answer = behave(body)
            if answer is None:
                await asyncio.Event().wait()
        finally:
            self.under_way -= 1
        if isinstance(answer, web.Response):
            return answer
        return web.json_response(completion(answer))

    def texts(self) -> list[str]:
        """Text of each request's last message."""
        return [body["messages"][-1]["content"][0]["text"] for body in self.asked]


@contextmanager
def loopback_judge(*behaviours: Behaviour) -> Iterator[LoopbackJudge]:
    judge = LoopbackJudge()
    judge.behaviours = list(behaviours)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", judge.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        judge.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield judge
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def cut(text: str) -> web.Response:
    """The first half of a completion."""
    whole = json.dumps(completion(text))
    return raw(whole[: len(whole) // 2])
