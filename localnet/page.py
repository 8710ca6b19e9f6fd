"""The run's page on this machine: a folder of static files, served on loopback while it runs.

A child process renders the folder, so that a rendering that fails or is slow costs the run nothing
but its share of the machine, at the lowest priority.
"""

import signal
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

from localnet.commands import SITE_FOLDER, site_command
from localnet.config import LocalnetConfig
from localnet.processes import Children

LAST_LIMIT_S: Final = 60.0
"""How long the launcher waits for the last rendering, after the run."""
WAITING: Final = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<link rel="icon" href="data:,"><title>A localnet starts</title></head>
<body><p>The page of this run comes once the first window has been voted on.</p></body></html>
"""


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder; says nothing on the terminal."""

    def log_message(self, *_arguments: object) -> None:
        """Each request of a page that loads itself again would be a line."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # pages change in each window
        super().end_headers()


class PageServer:
    """Serves a folder on 127.0.0.1, at a port of the system's choice; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError if folder or port is refused."""
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / "index.html"
        if not index.exists():
            index.write_text(WAITING, encoding="utf-8")
        handler = partial(_Handler, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> "PageServer":
        Thread(target=self._server.serve_forever, name="page", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class RunPage:
    """The page of a localnet: rendered beside the run, served until the launcher ends."""

    def __init__(
        self,
        config: LocalnetConfig,
        children: Children,
        chain_url: str,
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._children, self._chain_url = config, children, chain_url
        self._server = PageServer(config.out / SITE_FOLDER)
        self._child = children.start(site_command(config, chain_url, watch=True))
        tell(f"the run's page: {self._server.url}")

    def __enter__(self) -> "RunPage":
        self._server.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.__exit__(*exception)

    def finish(self) -> None:
        """Render once more, with the pay of the last weights; a failure is in logs/site.log."""
        self._child.signal(signal.SIGTERM)
        self._child.wait(LAST_LIMIT_S)
        last = self._children.start(site_command(self._config, self._chain_url, watch=False))
        last.wait(LAST_LIMIT_S)
