"""The trees that causes make."""

from hypothesis import given
from hypothesis import strategies as st
from logs import few

from eslab.causation import Branch, grown

NAMES = st.sampled_from("abcdefgh")
LISTS = st.lists(st.tuples(NAMES, st.none() | NAMES), max_size=9, unique_by=lambda event: event[0])


def roots_of(events, name):
    """Where one comes to that goes from cause to cause: the name of a root, or the first event of a circle."""
    causes = dict(events)
    order = [own for own, _ in events]
    seen = []
    while name in causes and causes[name] is not None and name not in seen:
        seen.append(name)
        name = causes[name]
    return min(seen[seen.index(name) :], key=order.index) if name in seen else name


def place(events, causes, top):
    """Where a root stands among the events: one that is none stands where its first effect does."""
    names = [name for name, _ in events]
    return names.index(top) if top in names else causes.index(top)


def plainly(events, asked):
    """The trees as nested pairs, grown from each root by looking through all events again and again."""

    def below(name, top):
        return [(own, below(own, False)) for own, cause in events if cause == name and own not in tops]

    causes = [cause for _, cause in events]
    tops = sorted({roots_of(events, name) for name, _ in events}, key=lambda top: place(events, causes, top))
    trees = [(top, below(top, True)) for top in tops]

    def names(tree):
        return {tree[0]}.union(*(names(inner) for inner in tree[1]))

    return [tree for tree in trees if names(tree) & set(asked)]


def nested(branches):
    """The same pairs, out of a list of branches."""
    trees, made = [], []
    for branch in branches:
        made.append((branch.name, []))
        (trees if branch.parent is None else made[branch.parent][1]).append(made[-1])
    return trees


@few(200)
@given(LISTS, st.sets(NAMES))
def test_trees_are_what_a_plain_search_for_effects_finds(events, asked):
    branches = grown(events, asked)
    assert nested(branches) == plainly(events, asked)
    rows = {name: row for row, (name, _) in enumerate(events)}
    for at, branch in enumerate(branches):
        assert branch.row == rows.get(branch.name)
        assert branch.depth == (0 if branch.parent is None else branches[branch.parent].depth + 1)
        assert branch.parent is None or branch.parent < at
        assert branch.circle == (branch.parent is None and branch.row is not None and dict(events)[branch.name] is not None)


def test_a_cause_that_is_no_event_is_a_root():
    assert grown([("a", "cmd"), ("b", "a"), ("c", "cmd")], {"b"}) == [
        Branch("cmd", None, None, 0, circle=False),
        Branch("a", 0, 0, 1, circle=False),
        Branch("b", 1, 1, 2, circle=False),
        Branch("c", 2, 0, 1, circle=False),
    ]


def test_of_a_circle_the_first_event_is_the_root_and_says_so():
    assert grown([("b", "a"), ("a", "c"), ("c", "b")], {"a"}) == [
        Branch("b", 0, None, 0, circle=True),
        Branch("c", 2, 0, 1, circle=False),
        Branch("a", 1, 1, 2, circle=False),
    ]
    assert grown([("a", "a"), ("b", "a")], {"b"})[0] == Branch("a", 0, None, 0, circle=True)


def test_a_chain_of_thousands_is_one_tree():
    branches = grown([(f"e{at}", f"e{at - 1}" if at else None) for at in range(20_000)], {"e3"})
    assert [branch.depth for branch in branches] == list(range(20_000))


def test_what_was_not_asked_for_is_in_no_tree():
    assert [branch.name for branch in grown([("a", None), ("b", "a"), ("x", None), ("y", "x")], {"y"})] == ["x", "y"]
    assert grown([("a", None)], set()) == []
