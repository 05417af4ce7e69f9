"""What the server does to keep to itself: browsers are told to take nothing from elsewhere, uploads touch no disk."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Receive, Scope, Send

# Bytes. What is larger than this would lie in a temporary file while it arrives; no upload is.
MultiPartParser.spool_max_size = 128 * 2**20

# No picture, script or connection of another host, whatever a page is made to show. Styles are Streamlit's own, made in
# the browser; so are the modules of components (blob:). The one script inside Streamlit's index.html goes by its hash.
# Not who may show the app in a frame: a Space does.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' blob: 'sha256-THxz9J9+wf7rhwR2YkXJoSZ13UCmYyC+3lNDv2+8ugA='",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


class Guarded:
    """ASGI middleware: every answer carries HEADERS."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, guarded)
