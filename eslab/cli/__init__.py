"""The shell: every command delegates to `eslab.Lab`, and none holds logic of its own.

The answer goes to stdout, as a table or as one JSON document; notices, progress and what a projection prints go to stderr.
Exit codes: 0 fine, 1 a clear no, 2 usage, 130 Ctrl-C.
"""

from eslab.cli.asking import at, blame, diff, find, history
from eslab.cli.capturing import demo, export, info, snapshot, verify, watch
from eslab.cli.command import main
from eslab.cli.comparing import compare
from eslab.cli.debugging import changes, explain, run_back_until, run_until
from eslab.cli.delivering import dead_letters, duplicates
from eslab.cli.exploring import events
from eslab.cli.measuring import lag, throughput
from eslab.cli.moments import bookmark, late
from eslab.cli.querying import sql
from eslab.cli.replaying import check, first, replay
from eslab.cli.supposing import what_if
from eslab.cli.tracing import around, sagas, trace

__all__ = ["main"]

for one in (
    demo,
    snapshot,
    watch,
    info,
    verify,
    find,
    events,
    history,
    at,
    diff,
    changes,
    blame,
    explain,
    run_until,
    run_back_until,
    what_if,
    trace,
    sagas,
    around,
    late,
    duplicates,
    dead_letters,
    bookmark,
    replay,
    first,
    check,
    compare,
    lag,
    throughput,
    sql,
    export,
):  # the order of --help: from making a lab to taking it elsewhere
    main.add_command(one)
