"""The browser of the tests itself: it lets nothing out, and notices what goes wrong."""

import asyncio

import browser
import conftest
import pytest
from browser import Chromium, Watched, axe


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.jsdelivr.net/x.js",
        "http://127.0.0.1.evil.test/",
        "http://localhost.evil.test/",
        "http://127.0.0.1@evil.test/",
        "ws://evil.test",
    ],
)
def test_what_lies_outside_is_told_from_what_only_looks_like_inside(url):
    assert browser.OUTSIDE.match(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8888/lab", "http://localhost/", "ws://127.0.0.1:8888/api", "file:///tmp/a.html", "data:,", "blob:x"]
)
def test_what_stays_on_this_machine_is_let_through(url):
    assert not browser.OUTSIDE.match(url)


def test_requests_to_the_outside_are_aborted_and_counted(page, watched):
    page.set_content(
        """<img src="https://outside.test/a.png"><link rel="stylesheet" href="https://outside.test/b.css">
        <script>
            window.done = Promise.allSettled([fetch("https://outside.test/c"), new Promise((resolve) => {
                const socket = new WebSocket("wss://outside.test/d"); socket.onclose = socket.onerror = resolve;
            })]);
        </script>"""
    )
    page.evaluate("window.done")
    assert sorted(watched.outside) == [
        "https://outside.test/a.png",
        "https://outside.test/b.css",
        "https://outside.test/c",
        "wss://outside.test/d",
    ]
    watched.outside.clear()


def test_uncaught_errors_and_unhandled_rejections_are_noticed(page, watched):
    page.evaluate("setTimeout(() => { throw new Error('thrown'); }); Promise.reject(new Error('rejected')); null")
    for _ in range(300):
        if len(watched.errors) == 2:
            break
        page.wait_for_timeout(100)  # a busy browser tells of them when it comes to it
    assert sorted(error.splitlines()[0].removeprefix("Error: ") for error in watched.errors) == ["rejected", "thrown"]
    watched.errors.clear()


def test_axe_finds_what_is_planted_and_only_there(page):
    page.set_content(
        "<html lang=en><title>t</title><main><h1>t</h1><p id=bad style='color:#aaa;background:#fff'>pale</p><p id=good>dark</p>"
    )
    (found,) = axe(page, "#bad")
    assert found.startswith("color-contrast")
    assert axe(page, "#good") == []
    with pytest.raises(Exception, match="No elements found"):
        axe(page, "#absent")


def test_other_loops_run_between_two_uses_of_the_browser(chromium: Chromium):
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    for _ in range(2):
        with chromium.page(Watched()) as page:
            with chromium.page(Watched()) as other:
                assert other.evaluate("1 + 1") == 2
            assert page.evaluate("2 + 2") == 4
        assert asyncio.run(answer()) == 42


def test_a_missing_browser_is_said_and_skips_or_fails(monkeypatch):
    monkeypatch.setenv("ESLAB_TEST_CHROMIUM", "/nowhere/chromium")
    reason = browser.missing()
    assert reason == "ESLAB_TEST_CHROMIUM=/nowhere/chromium does not exist"
    monkeypatch.setattr(conftest, "REQUIRED", [""])
    with pytest.raises(pytest.skip.Exception, match="does not exist"):
        conftest.need("browser", reason)
    monkeypatch.setattr(conftest, "REQUIRED", ["kafka", "browser"])
    with pytest.raises(pytest.fail.Exception, match="ESLAB_REQUIRE names browser, but"):
        conftest.need("browser", reason)


@pytest.mark.parametrize(("one", "other", "told"), [("#000000", "#ffffff", 21), ("#777777", "#ffffff", 4.48), ("#123456", "#123456", 1)])
def test_contrast_is_that_of_wcag(one, other, told):
    assert browser.contrast(one, other) == browser.contrast(other, one) == pytest.approx(told, abs=0.01)
