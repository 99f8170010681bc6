// Playing: on from a step at the pace at which events were recorded, times a speed.

const SPEEDS = [1, 10, 60, 600, 3600, 36_000, 360_000];
const EVEN = 0; // the speed of so many steps a second, whatever the times
const EVEN_MS = 500;
const AIM_MS = 30_000; // the speed at first is one at which all takes no longer
const TICK_MS = 1000; // how often the time left to a far event is told
const FRAME_MS = 16;

/** `at` tells the position, `go` steps, `ahead` tells where breakpoints end the run (null: nowhere), `tell` is told {playing, wait, stop}: the
 *  milliseconds to the next event, the breakpoint that ended it. */
function player(book, { at, go, ahead, tell }) {
  const { first, last } = book.header;
  const span = book.time(last) - book.time(first);
  let speed = span > 0 ? SPEEDS.find((one) => span / one <= AIM_MS) ?? SPEEDS.at(-1) : EVEN;
  let timer = null, stop = null, end = last, began = null; // began: {now, time}, the two clocks at the same moment

  const rebase = () => { began = { now: performance.now(), time: book.time(at()) }; };
  const aim = () => {
    stop = ahead(at());
    end = stop?.position ?? last;
    rebase();
  };

  function tick() {
    const from = at();
    let to = from;
    const passed = (performance.now() - began.now) * (speed || 1);
    if (speed) while (to < end && book.time(to + 1) - began.time <= passed) to++;
    else if (passed >= EVEN_MS) { to = Math.min(from + 1, end); rebase(); }
    if (to > from) go(to);
    if (to >= end) { pause(stop); return; }
    const wait = speed ? (book.time(to + 1) - began.time - passed) / speed : EVEN_MS - (to > from ? 0 : passed);
    tell({ playing: true, wait });
    timer = setTimeout(tick, Math.min(Math.max(wait, FRAME_MS), TICK_MS));
  }

  function play() {
    if (at() === last) go(first);
    aim();
    tick();
  }

  function pause(reached = null) {
    clearTimeout(timer);
    timer = null;
    tell({ playing: false, stop: reached });
  }

  /** The reader stepped, or what ends the run changed: play on from there. */
  function moved() {
    if (timer === null) return;
    clearTimeout(timer);
    aim();
    tick();
  }

  return {
    speed: () => speed,
    playing: () => timer !== null,
    setSpeed(to) { speed = to; moved(); },
    toggle() { if (timer === null) play(); else pause(); },
    pause: () => pause(), moved,
  };
}
