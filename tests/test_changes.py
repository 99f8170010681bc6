import copy
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from logs import few
from test_model import states

from eslab.changes import diff, follow
from eslab.model import EACH, MISSING, Change, format_path, pack_state


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


def test_lists_differ_by_position_and_at_their_end():
    def told(before, after):
        return [(format_path(one.path), one.before, one.after) for one in diff(before, after)]

    assert told({"a": [1, 2, 3]}, {"a": [2, 3]}) == [("a[0]", 1, 2), ("a[1]", 2, 3), ("a[2]", 3, MISSING)]
    assert told([{"n": 1}], [{"n": 1}, {"n": 2}]) == [("[1]", MISSING, {"n": 2})]
    assert told({"a": []}, {"a": {}}) == [("a", [], {})], "a list that becomes an object is one change"


@few(40)
@given(states, states)
def test_following_a_state_finds_what_diff_finds_and_keeps_what_it_became(before, after):
    kept, changes = follow(copy.deepcopy(before), after)
    assert changes == list(diff(before, after))
    assert pack_state(kept) == pack_state(after)


@few(30)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), states, max_size=3), max_size=5))
def test_what_is_kept_of_a_state_stays_when_its_owner_changes_it_in_place(made):
    state, kept, copies, found = {}, {}, [{}], []
    for new in made:
        state.clear()
        state.update(new)
        copies.append(copy.deepcopy(state))
        kept, changes = follow(kept, state)
        found.append(changes)
        for value in state.values():  # what a handler does that takes no care
            if isinstance(value, (list, dict)):
                value.clear()
    assert found == [list(diff(copy.deepcopy(one), other)) for one, other in pairwise(copies)]
    assert kept == copies[-1]


def test_what_did_not_change_is_shared_and_not_copied():
    kept, _ = follow({}, {"big": [[1], {"x": 1}], "n": 1})
    after, changes = follow(kept, {"big": [[1], {"x": 1}], "n": 2})
    assert after["big"] is kept["big"]
    assert changes == [Change(("n",), 1, 2)]
    assert follow(after, {"big": [[1], {"x": 1}], "n": 2})[0] is after
