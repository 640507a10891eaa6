"""Who may ask the app what: its own page, for what that needs, and nothing on it comes from elsewhere."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NEEDED = re.compile(
    r"/((theme\.css|favicon\.ico|manifest\.json)?|(assets|static)/.*"
    r"|gradio_api/(upload|upload_progress|queue/(join|data)|(heartbeat/|file=).*))"
)
"""Paths that the page asks for. Gradio answers others: one runs FFmpeg, as it is, on what comes in."""
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Gradio's page holds its settings in scripts, and compiles its templates."""
_HEADERS = {"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


class Guard:
    """Middleware that refuses other paths and other pages, and tells the browser to load nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A clip that is opened by its address is no page of this app: an SVG may hold scripts.
                policy = "sandbox" if "file=" in scope["path"] else _POLICY
                MutableHeaders(scope=message).update(_HEADERS | {"Content-Security-Policy": policy})
            await send(message)

        answer = self.app
        if scope["type"] != "lifespan":
            headers = Headers(scope=scope)
            if "origin" in headers and headers["origin"].partition("://")[2] != headers["host"]:
                answer = PlainTextResponse("This was sent by another page.", 403)
            elif not _NEEDED.fullmatch(scope["path"]):
                answer = PlainTextResponse("There is nothing here.", 404)
        await answer(scope, receive, send_guarded)
