"""A real browser for tests: Playwright drives Debian's Chromium, and nothing leaves this machine.

def test_a_page(page):          # the fixture of conftest.py: the test fails for requests to the outside and for uncaught errors
    page.goto(path.as_uri())
    page.keyboard.press("ArrowRight")
    assert axe(page, ".eslab-stepper") == []
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--force-color-profile=srgb",  # a colour read from a picture is the colour that was asked for
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",  # what escapes the routes, a prefetch say, finds no name
]
OUTSIDE = re.compile(r"^(?!(https?|wss?)://(127\.0\.0\.1|localhost|\[::1\])([:/]|$))(?!(file|data|blob|about|chrome-error):)")
WAIT_MS = 30_000  # JupyterLab on a busy machine; a page of ours answers in milliseconds


def executable() -> str | None:
    return os.environ.get("ESLAB_TEST_CHROMIUM") or shutil.which("chromium")


def missing() -> str | None:
    """Why no browser can be started here, or None."""
    absent = [name for name in ("playwright", "axe_playwright_python") if not importlib.util.find_spec(name)]
    if absent:
        return f"no {' and no '.join(absent)} here; pip install '.[test]'"
    if not (path := executable()):
        return "no chromium here; apt install chromium, or set ESLAB_TEST_CHROMIUM=/path/to/it"
    return None if Path(path).exists() else f"ESLAB_TEST_CHROMIUM={path} does not exist"


@dataclass
class Watched:
    """What a page did that it should not have. A test that provokes it takes it out: `watched.outside.clear()`."""

    outside: list[str] = field(default_factory=list)  # requests that would have left this machine; each was aborted
    errors: list[str] = field(default_factory=list)  # uncaught exceptions and unhandled rejections


class Chromium:
    """One browser process; each page gets a context, hence a profile, of its own.

    Playwright's synchronous API marks its loop as the running one for as long as it lives, so `asyncio.run` would fail in every later
    test of the process. `awake` holds that mark only while a page is in use.
    """

    def __init__(self) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._loop = asyncio.get_running_loop()
        try:
            root = ["--no-sandbox"] if os.geteuid() == 0 else []
            self._browser = self._playwright.chromium.launch(executable_path=executable(), args=FLAGS + root)
        except BaseException:
            self._playwright.stop()
            raise
        finally:
            asyncio._set_running_loop(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.awake():
            self._browser.close()
            self._playwright.stop()

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        before = asyncio._get_running_loop()  # ours, if one page is opened beside another
        asyncio._set_running_loop(self._loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    @contextlib.contextmanager
    def page(self, watched: Watched, **options: Any) -> Iterator[Page]:
        """A page in a new context; `options` are those of Playwright's `new_context`. Times are shown in UTC."""
        options = {
            "viewport": {"width": 1280, "height": 900},
            "timezone_id": "UTC",
            "locale": "en-GB",
            "service_workers": "block",
            **options,
        }
        with self.awake():
            context = self._browser.new_context(**options)
            context.set_default_timeout(WAIT_MS)
            context.route(OUTSIDE, lambda route: (watched.outside.append(route.request.url), route.abort()))
            context.route_web_socket(OUTSIDE, lambda socket: (watched.outside.append(socket.url), socket.close()))
            context.on("weberror", lambda error: watched.errors.append(error.error.stack or error.error.message))
            try:
                yield context.new_page()
            finally:
                context.close()


def axe(page: Page, selector: str | None = None) -> list[str]:
    """What axe-core finds wrong with the page, or inside of the first element of `selector`: rule, what it asks for, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=selector).response  # axe refuses a selector that matches nothing
    return [
        f"{violation['id']}: {violation['help']}: {' '.join(map(str, node['target']))} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def luminance(colour: str) -> float:
    """How bright `#rrggbb` is, from 0 to 1, as WCAG has it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1 (the same) to 21 (black on white); WCAG asks for 4.5 of text and 3 of lines."""
    darker, brighter = sorted((luminance(one), luminance(other)))
    return (brighter + 0.05) / (darker + 0.05)
