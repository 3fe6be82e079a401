"""The server of the page: its files, and a socket for each page that is open."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from siglip_perception.errors import PerceptionError
from siglip_perception.images import overlay
from siglip_perception.view.engine import Engine
from siglip_perception.view.guard import Application, Guard
from siglip_perception.view.requests import Instruct, Request, Show, Shown, parse_request
from siglip_perception.view.updates import Seen, Update, error_text

DEFAULT_PORT = 8710
MAX_PAGES = 32
# An instruction has at most 1 KiB; what is longer is answered in words, up to this.
MAX_MESSAGE_BYTES = 2**18
# Frames that a page may have to draw at a time: the next is on its way while it draws one.
FRAMES_AHEAD = 2
# A page that has not drawn a frame for so long has lost it: it gets the next, in seconds.
LOST_FRAME_S = 3.0
TOO_MANY = 1013  # "try again later", of the IANA registry of close codes
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}


class ViewServerError(PerceptionError):
    """The server cannot listen where it should."""


def listen(host: str, port: int) -> socket.socket:
    """Bind a TCP socket; port 0 for any free one. ViewServerError where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ViewServerError(
            f"There is no address {host!r} to listen on ({error}): name one of this machine's"
            " addresses with --host."
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        raise ViewServerError(
            f"Port {port} of {host} cannot be used ({reason}): name another with --port, or 0 for"
            " any free one."
        ) from error
    return bound


def page_address(bound: socket.socket, token: str) -> str:
    """Return the address of the page, with the token if there is one."""
    host, port = bound.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def new_token() -> str:
    """Make a token that nobody guesses: 128 bits."""
    return secrets.token_urlsafe(16)


class OpenPage:
    """One open page: the newest update of each kind that it has not been sent yet."""

    def __init__(self) -> None:
        self.waiting: dict[str, Update] = {}
        self.answers: list[str] = []
        self.news = asyncio.Event()
        self.panels: frozenset[str] = frozenset()
        self.drawing: deque[int] = deque()
        self.sent_at = 0.0

    def due(self, now: float) -> Update | None:
        """The next update to send: the state at once, a frame once earlier ones are drawn."""
        if "state" in self.waiting:
            return self.waiting.pop("state")
        if len(self.drawing) >= FRAMES_AHEAD:
            if now - self.sent_at < LOST_FRAME_S:
                return None
            self.drawing.clear()
        return self.waiting.pop("frame", None)

    def sent(self, update: Update, now: float) -> None:
        """Take note that the page is being sent a frame."""
        self.drawing.append(update.frame)
        self.sent_at = now

    def drew(self, frame: int) -> None:
        """Take note that the page has drawn this frame, and so what was sent before it."""
        while self.drawing and self.drawing[0] <= frame:
            self.drawing.popleft()


class ViewServer:
    """Sends an engine's updates to all pages, and their requests to the engine.

    make_engine: takes the function that publishes updates. token: see Guard.
    """

    def __init__(
        self, make_engine: Callable[[Callable[[Update], None]], Engine], token: str = ""
    ) -> None:
        self._pages: set[OpenPage] = set()
        self._newest: dict[str, Update] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._server: uvicorn.Server | None = None
        self.engine = make_engine(self._publish)
        files = _page_files()
        routes = [
            Route("/", lambda request: files["index.html"]()),
            Route("/static/{name}", lambda request: _static(files, request)),
            Route("/seen.png", self._seen_png),
            Route("/seen.json", self._seen_json),
            WebSocketRoute("/stream", self._stream),
        ]
        self.application: Application = Guard(Starlette(routes=routes), token)

    def serve(self, bound: socket.socket, started: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGINT or stop(); starts and stops the engine. started: once it answers."""
        asyncio.run(self._serve(bound, started))

    def stop(self) -> None:
        """End serve(); any thread."""
        if self._server is not None:
            self._server.should_exit = True

    async def _serve(self, bound: socket.socket, started: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            self.application,
            log_level="warning",
            lifespan="off",
            access_log=False,
            server_header=False,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            h11_max_incomplete_event_size=2**15,
            limit_concurrency=8 * MAX_PAGES,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        bound.listen(config.backlog)
        self.engine.start()
        self._loop.call_soon(started)
        try:
            await self._server.serve(sockets=[bound])
        finally:
            await asyncio.to_thread(self.engine.stop)

    def _publish(self, update: Update) -> None:
        """Hand an update to every page; the engine's thread."""
        with self._lock:
            self._newest[update.kind] = update
            loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._deliver, update)

    def _deliver(self, update: Update) -> None:
        for page in self._pages:
            page.waiting[update.kind] = update
            page.news.set()

    async def _stream(self, websocket: WebSocket) -> None:
        await websocket.accept()
        if len(self._pages) >= MAX_PAGES:
            sentence = f"{MAX_PAGES} pages are open already: close one, and load this one again."
            await websocket.send_text(error_text(sentence))
            await websocket.close(TOO_MANY)
            return
        page = OpenPage()
        with self._lock:
            page.waiting.update(self._newest)
        page.news.set()
        self._pages.add(page)
        self._tell_audience()
        writer = asyncio.create_task(self._write(websocket, page))
        try:
            while True:
                self._take(page, await websocket.receive_text())
        except (WebSocketDisconnect, KeyError):  # KeyError: a message of bytes
            pass
        finally:
            writer.cancel()
            self._pages.discard(page)
            self._tell_audience()

    async def _write(self, websocket: WebSocket, page: OpenPage) -> None:
        """Send what waits, the newest of each kind: a slow page misses frames, and delays none."""
        loop = asyncio.get_running_loop()
        try:
            while websocket.application_state is WebSocketState.CONNECTED:
                # Python 3.10's asyncio has a TimeoutError of its own.
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(page.news.wait(), LOST_FRAME_S)
                page.news.clear()
                while page.answers:
                    await websocket.send_text(page.answers.pop(0))
                while (update := page.due(loop.time())) is not None:
                    if isinstance(update.data, bytes):
                        page.sent(update, loop.time())
                        await websocket.send_bytes(update.data)
                    else:
                        await websocket.send_text(update.data)
        except (WebSocketDisconnect, RuntimeError):
            return  # closed in mid-frame; the reader ends the page

    def _take(self, page: OpenPage, text: str) -> None:
        try:
            request: Request = parse_request(text)
            if isinstance(request, Instruct):
                _check_instruction(request.text)
        except PerceptionError as error:
            page.answers.append(error_text(str(error)))
            page.news.set()
            return
        if isinstance(request, Shown):
            page.drew(request.frame)
            page.news.set()
        elif isinstance(request, Show):
            page.panels = request.panels
            self._tell_audience()
        else:
            self.engine.ask(request)

    def _tell_audience(self) -> None:
        panels = [page.panels for page in self._pages]
        self.engine.audience(frozenset().union(*panels) if panels else None)

    async def _seen_png(self, request: HttpRequest) -> Response:
        seen = self.engine.seen
        if seen is None:
            return PlainTextResponse("There is no picture yet.\n", 404)
        data = await asyncio.to_thread(_png, seen)
        return Response(data, media_type="image/png", headers=_attachment(seen, "png"))

    async def _seen_json(self, request: HttpRequest) -> Response:
        seen = self.engine.seen
        if seen is None:
            return PlainTextResponse("There is no picture yet.\n", 404)
        text = json.dumps(_seen_json(seen), ensure_ascii=False, indent=2) + "\n"
        return Response(text, media_type="application/json", headers=_attachment(seen, "json"))


def _check_instruction(text: str) -> None:
    """Raise InstructionError for one that is too long, to the page that asked alone."""
    from siglip_perception.language.instruction import sanitize

    sanitize(text)


def _page_files() -> Mapping[str, Callable[[], Response]]:
    """The page's files, read once: no request can name any other."""
    folder = resources.files("siglip_perception.view") / "static"
    files: dict[str, Callable[[], Response]] = {}
    for entry in folder.iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in _TYPES:
            data, kind = entry.read_bytes(), _TYPES[suffix]
            files[entry.name] = lambda data=data, kind=kind: Response(data, media_type=kind)  # type: ignore[misc]
    return files


def _static(files: Mapping[str, Callable[[], Response]], request: HttpRequest) -> Response:
    make = files.get(request.path_params["name"])
    return PlainTextResponse("There is no such file.\n", 404) if make is None else make()


def _attachment(seen: Seen, suffix: str) -> dict[str, str]:
    """Header by which a browser saves the answer; of digits alone, whatever the source's name."""
    name = f"seen-{seen.index:06d}.{suffix}"
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def _png(seen: Seen) -> bytes:
    """The picture in full size, marked as the overlay topic is."""
    image = seen.image if seen.grounding is None else overlay.draw(seen.image, seen.grounding)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _seen_json(seen: Seen) -> dict[str, Any]:
    """The objects as `siglip-perception ground --json` gives them, and which frame they are of."""
    from siglip_perception.perception import grounding_as_json

    height, width = seen.image.shape[:2]
    facts = {
        "frame": seen.index,
        "time_s": round(seen.time_s, 6),
        "source": seen.name,
        "width": width,
        "height": height,
    }
    answer = None if seen.grounding is None else grounding_as_json(seen.grounding)
    return {**facts, "seen": answer}
