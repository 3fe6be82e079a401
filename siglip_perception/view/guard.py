"""Who may talk to the server: this machine's own pages, or those that know its token.

A browser sends any page's requests to 127.0.0.1, so being on this machine is no proof of anything.
Host has to be an address of the server: a foreign name that was made to point here (DNS rebinding)
is not. A socket's Origin has to be the page's own: another site's page may open sockets anywhere.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "siglip_perception_view"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
        " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# WebSocket close codes: RFC 6455, 7.4.1.
POLICY_VIOLATION = 1008


class Guard:
    """Lets a request through to the application, or answers it itself.

    token: that a page has to know, in `?token=` once and in a cookie from then on; "" for none.
    """

    def __init__(self, application: Application, token: str = "") -> None:
        self._application = application
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        refusal = self._refusal(scope, headers)
        if scope["type"] == "websocket":
            if refusal:
                await send({"type": "websocket.close", "code": POLICY_VIOLATION})
                return
            await self._application(scope, receive, send)
            return
        if refusal:
            status, text = refusal
            response = PlainTextResponse(text + "\n", status, HEADERS)
            await response(scope, receive, send)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if self._token and "token" in query:
            # Out of the address bar: it would be copied along with the address.
            redirect = RedirectResponse(scope["path"], 303, HEADERS)
            redirect.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            await redirect(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        await self._application(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not is_own_host(host, loopback_only=not self._token):
            return 421, (
                "This server is asked for under a name that is not its own: use the address that"
                " it printed."
            )
        origin = headers.get("origin")
        own_origin = origin == f"http://{host}"
        if scope["type"] == "websocket" and not own_origin:
            return 403, "A socket is for the page of this server alone."
        if origin is not None and not own_origin:
            return 403, "Another site's page may not ask this server."
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return 405, "Only GET is known here."
        if self._token and not self._knows_token(scope, headers):
            return 401, "Open the whole address that the server printed, with its token."
        return None

    def _knows_token(self, scope: Scope, headers: MutableMapping[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        candidates = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if cookie is not None:
            candidates.append(cookie.value)
        return any(
            hmac.compare_digest(candidate.encode(), self._token.encode())
            for candidate in candidates
        )


def is_own_host(host: str, *, loopback_only: bool) -> bool:
    """Tell whether a Host header names this machine: an IP address, localhost, its own name.

    No name that somebody else's DNS answers for is one of these. loopback_only: only the loopback
    addresses and localhost.
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    bare = name.strip("[]").lower()
    if bare == "localhost":
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        own = socket.gethostname().lower()
        return not loopback_only and bare in (own, f"{own}.local")
    return address.is_loopback or not loopback_only
