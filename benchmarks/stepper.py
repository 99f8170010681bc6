"""`step_ms` and `open_ms`: the stepper's page in Chromium, beside what one would write first: all states sent whole, the current one put into a <pre>."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import eslab
from benchmarks.report import begin, row
from eslab import History

SIZES = (100, 1_000, 10_000, 100_000)
STEPS = 300  # of each way to step
OPENS = 5  # a fifth as often where it takes seconds

PLAIN = """<!doctype html><meta charset="utf-8"><pre></pre><script type="application/json">STATES</script><script>
const states = document.querySelector("script").textContent.split("\\n"), box = document.querySelector("pre");
const show = (at) => { box.textContent = JSON.stringify(JSON.parse(states[at]), null, 2); };
show(states.length - 1);
</script>"""

# Each step is the script until the layout is there: what stands between a key and the next picture
TIMED = """({asked, plain}) => {
    const slider = document.querySelector(".es-slider");
    const step = plain ? show : (at) => { slider.value = at; slider.dispatchEvent(new Event("input")); };
    return asked.map((at) => {
        const began = performance.now();
        step(at);
        document.body.getBoundingClientRect();
        document.scrollingElement.scrollHeight;
        return performance.now() - began;
    });
}"""
# Looks at each picture for what is to be there; the task after it is the first that finds it painted
DRAWN = """(wanted) => new Promise((done) => {
    const look = () => requestAnimationFrame(() => document.querySelector(wanted) ? setTimeout(() => done(performance.now())) : look());
    look();
})"""


def run() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from browser import Chromium, Watched, missing  # noqa: PLC0415  the tests' own browser

    begin("step_ms")
    begin("open_ms")
    if reason := missing():
        print(f"step_ms, open_ms: {reason}")
        return
    with Chromium() as chromium, tempfile.TemporaryDirectory() as folder, chromium.page(Watched()) as page:
        for events in SIZES:
            lab = eslab.play(_orders(events), aggregates={"order": "data.orderId"})
            opened: dict[bool, list[list[float]]] = {False: [], True: []}
            for _ in range(OPENS if events <= 10_000 else 1):
                for plain in (False, True):
                    opened[plain].append(_open(page, Path(folder) / "page.html", lab.history("order", "ord-1"), plain=plain))
            for part, name in enumerate(("all", "python", "page")):
                mine, theirs = (float(np.median([times[part] for times in opened[plain]])) for plain in (False, True))
                row("open_ms", mine, "ms", "lower", {"n": events, "part": name}, "pre", theirs)
            mine, theirs = (
                _steps(page, Path(folder) / "page.html", lab.history("order", "ord-1"), events, plain=plain) for plain in (False, True)
            )
            for way, times in mine.items():
                row(
                    "step_ms",
                    float(np.percentile(times, 95)),
                    "ms",
                    "lower",
                    {"p": 95, "n": events, "by": way},
                    "pre",
                    float(np.percentile(theirs[way], 95)),
                )


def _orders(events: int) -> Iterator[dict[str, Any]]:
    """One busy order: every event changes a few fields of it, now and then a line is added."""
    for at in range(events):
        data: dict[str, Any] = {
            "orderId": "ord-1",
            "total": round(at * 1.37, 2),
            "status": ("created", "paid", "packed", "shipped")[at % 4],
            "revision": at,
        }
        if at % 5 == 0:
            data["lines"] = [{"sku": f"sku-{(at + line) % 97}", "quantity": line + 1, "price": 9.99} for line in range(at % 9)]
        yield {
            "eventId": f"evt-{at:08d}",
            "eventType": f"Order{data['status'].title()}",
            "eventVersion": "1.0",
            "source": "orders@2.3.1",
            "correlationId": f"cor-{at // 5}",
            "causationId": f"evt-{max(at - 1, 0):08d}",
            "data": data,
            "metadata": {"traceId": f"{at:032x}"},
        }


def _open(page: Any, path: Path, history: History, *, plain: bool) -> list[float]:
    """Milliseconds until the first state is drawn, and of them Python's and the page's."""
    began = time.perf_counter()
    text = _plain(history) if plain else history.step(limit=len(history)).to_html()
    python = (time.perf_counter() - began) * 1000
    path.write_text(str(text))
    page.goto(path.as_uri(), wait_until="commit")
    drawn = page.evaluate(DRAWN, "pre:not(:empty)" if plain else ".es-state .es-row")
    return [python + drawn, python, drawn]


def _plain(history: History) -> str:
    states = [{}, *(step.after for step in history)]
    return PLAIN.replace("STATES", "\n".join(msgspec.json.encode(state).decode() for state in states))


def _steps(page: Any, path: Path, history: History, events: int, *, plain: bool) -> dict[str, list[float]]:
    path.write_text(_plain(history) if plain else str(history.step(limit=len(history)).to_html()))
    page.goto(path.as_uri())
    start = max(events - STEPS, 0)
    ways = {
        "back": list(range(events - 1, start, -1)),
        "forward": list(range(start, events)),
        "jump": np.random.default_rng(1).integers(0, events + 1, STEPS).tolist(),
    }
    return {way: page.evaluate(TIMED, {"asked": asked, "plain": plain}) for way, asked in ways.items()}
