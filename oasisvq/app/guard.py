"""What the server does to the pages it sends: browsers are told to take nothing from elsewhere, uploads touch no disk,
and the theme is dark, as in viewers of scans, until a visitor chooses another in the menu."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import MutableMapping
from typing import Any

from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Receive, Scope, Send

# Bytes. What is larger than this would lie in a temporary file while it arrives; no upload is.
MultiPartParser.spool_max_size = 128 * 2**20

# Streamlit remembers a theme for the address by which a tab was opened, and begins with that of the system. Here a tab
# begins with the theme that the tab before it ended with, and the first of all with the dark one.
THEME = "oasisvq theme"
DARK_FIRST = f"""
try {{
  const mine = `stActiveTheme-${{location.pathname}}-v2`;
  localStorage.setItem(mine, localStorage.getItem("{THEME}") ?? '"Dark"');
  addEventListener("pagehide", () => localStorage.setItem("{THEME}", localStorage.getItem(mine)));
}} catch {{}}
""".strip()
_SCRIPT = f"<script>{DARK_FIRST}</script>".encode()
_HASH = base64.b64encode(hashlib.sha256(DARK_FIRST.encode()).digest()).decode()

# No picture, script or connection of another host, whatever a page is made to show. Styles are Streamlit's own, made in
# the browser; so are the modules of components (blob:). The one script inside Streamlit's index.html, and ours, go by
# their hashes. Not who may show the app in a frame: a Space does.
POLICY = "; ".join(
    (
        "default-src 'self'",
        f"script-src 'self' blob: 'sha256-THxz9J9+wf7rhwR2YkXJoSZ13UCmYyC+3lNDv2+8ugA=' 'sha256-{_HASH}'",
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
    """ASGI middleware: every answer carries HEADERS, every page begins with the script above."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"accept" and b"text/html" in value for name, value in scope.get("headers", ())):
            # A page, in plain text: it is small, and the script goes into it.
            plain = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
            scope = {**scope, "headers": plain}
        begun: MutableMapping[str, Any] | None = None  # the start of a page, held back until its first piece is here

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *HEADERS]
                kept = dict(headers)
                message["headers"] = headers
                if kept.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in kept:
                    begun = message
                    return
            elif message["type"] == "http.response.body" and begun is not None:
                start, begun = begun, None
                body = message.get("body", b"")
                after = body.replace(b"<head>", b"<head>" + _SCRIPT, 1)
                more = len(after) - len(body)
                start["headers"] = [
                    (name, str(int(value) + more).encode() if name == b"content-length" and int(value) else value)
                    for name, value in start["headers"]
                ]
                await send(start)
                message["body"] = after
            await send(message)

        await self.app(scope, receive, guarded)
