"""Whether W&B's server can be talked to: a key for it, and an open way."""

import netrc
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PROBE_SECONDS = 3.0


def why_unusable(settings: Any) -> str | None:
    """What keeps W&B from its server, and what to do where that is known; None where nothing does.

    Args:
        settings: W&B's own.
    """
    url = os.environ.get("WANDB_BASE_URL") or str(settings.base_url)
    has_key = bool(os.environ.get("WANDB_API_KEY") or settings.api_key)
    if not (has_key or settings.identity_token_file or netrc_has(url)):
        return f"there is no key for {url}; `wandb login` or WANDB_API_KEY gives one"
    return None if is_reachable(url) else f"{url} cannot be reached"


def is_reachable(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a server, or the proxy on the way to it, takes connections.

    Args:
        url: of the server.
        seconds: to wait, names' look-up included.
    """
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and parts.hostname and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (80 if parts.scheme == "http" else 443)
    is_open = threading.Event()

    def connect() -> None:
        with suppress(OSError), socket.create_connection((parts.hostname, port), timeout=seconds):
            is_open.set()

    # A look-up of a name has no time limit of its own.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(seconds)
    return is_open.is_set()


def netrc_has(url: str) -> bool:
    """Whether a key is kept where ``wandb login`` writes it."""
    named = os.environ.get("NETRC")
    paths = [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]
    for path in paths:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(str(path.expanduser())).authenticators(urlsplit(url).netloc):
                return True
    return False
