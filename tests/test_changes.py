import copy

from hypothesis import given
from test_model import states

from eslab.changes import diff
from eslab.model import EACH, MISSING, Change


def apply(state, changes):
    """The plain meaning of changes: put each after-side in its place."""
    for change in changes:
        if not change.path:
            state = change.after
            continue
        parent = state
        for part in change.path[:-1]:
            parent = parent[part]
        if change.after is MISSING:
            del parent[change.path[-1]]
        elif isinstance(parent, list) and change.path[-1] == len(parent):
            parent.append(change.after)
        else:
            parent[change.path[-1]] = change.after
    return state


@given(states, states)
def test_applying_the_changes_to_one_side_gives_the_other(before, after):
    changes = diff(before, after)
    kept, removed = ([one for one in changes if (one.after is MISSING) is gone] for gone in (False, True))
    assert not list(diff(apply(copy.deepcopy(before), [*kept, *reversed(removed)]), after))
    assert EACH not in [part for change in changes for part in change.path]


@given(states)
def test_equal_states_have_no_changes(state):
    assert len(diff(state, state)) == 0
    assert repr(diff(state, state)) == "no changes"


def test_null_missing_true_and_one_are_four_things():
    assert diff({"a": None}, {}) == diff({"a": None}, {})
    assert list(diff({"a": None}, {})) == [Change(("a",), None, MISSING)]
    assert list(diff({"a": 1}, {"a": True})) == [Change(("a",), 1, True)]
    assert len(diff({"a": 1}, {"a": 1.0})) == 0


def test_changes_show_as_table_and_html_with_every_value_escaped():
    changes = diff({"<b>": "<script>"}, {"<b>": "&"})
    assert list(changes.df().columns) == ["path", "before", "after"]
    html = changes._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
