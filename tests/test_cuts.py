"""Every way to name a cut, held against the oracle; and what a cut says of the lab that it is used on."""

import contextlib
import datetime as dt
import random
import shutil
import tempfile
import threading
from pathlib import Path

import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import captured, few, logs, made, new_lab, snapshot, state_of
from oracle import Oracle, canonical

from eslab import Coordinates, Cut, Lab, Record, SqlProjection, cuts, events
from eslab.errors import ConfigError, MomentError, NaiveTime, UnknownEvent, UnknownGroup, UnknownId, VersionOutOfRange
from eslab.model import dumps
from eslab.samples import SAMPLES, write_samples
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin
SEEDS = st.integers(0, 2**32)


def order(number, at, topic="orders", **data):
    value = dumps({"eventId": f"{topic}-{at}", "eventType": "OrderChanged", "data": {"orderId": f"o{number}", **data}})
    return Record(topic=topic, partition=number % 2, key=f"o{number}".encode(), timestamp_ms=NOON + at * 1000, value=value)


@pytest.fixture
def said():
    return []


@pytest.fixture
def lab(tmp_path, said):
    lab = Lab(tmp_path / "shop", tz="Europe/Berlin", say=said.append)
    lab.snapshot(MemorySource([order(at % 3, at, total=at) for at in range(30)]), progress=False)
    said.clear()
    return lab


# --- an aggregate's version ---------------------------------------------------------------------


def test_a_cut_at_a_version_holds_what_comes_before_that_step_in_the_labs_order(lab):
    assert lab.cut(version=("order", "o1", 4)) == lab.cut(event_id="orders-10")
    assert lab.history("order", "o1").at(cut=lab.cut(version=("order", "o1", 4))).version == 4
    before = lab.cut(version=("order", "o1", 0))
    assert before == lab.cut(event_id="orders-0")
    assert lab.history("order", "o1", at=before).at().version == 0
    assert "version 4 of order o1" in repr(lab.cut(version=("order", "o1", 4)))


def version_differences(lab, oracle, chance):
    """Where cuts at versions are not the oracle's."""
    for _ in range(4):
        key = chance.choice(oracle.keys)
        events = oracle.history(key)
        version = chance.randint(0, len(events))
        cut = lab.cut(version=(*key, version))
        wanted = oracle.log[: oracle.log.index(events[version - 1]) + 1] if version else oracle.log[: oracle.log.index(events[0])]
        if {one.order for one in oracle.log if cut.holds(Coordinates(*one.life, one.offset))} != {one.order for one in wanted}:
            yield f"{cut} is not up to version {version} of {key}"
        state = lab.history(*key, at=cut).at()
        if (state.version, canonical(state.value)) != (version, canonical(oracle.states(key, events)[version])):
            yield f"{key} at version {version}: {state}"


@few(6)
@given(logs(), SEEDS)
def test_a_cut_at_any_version_of_any_key_is_the_oracles(log, seed):
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        assert list(version_differences(lab, Oracle(lab.path), random.Random(seed))) == []


def test_the_comparison_finds_a_version_cut_that_forgets_its_own_step(tmp_path, monkeypatch):
    log = made(40, seed=5)
    lab = new_lab(tmp_path / "lab", log.rules)
    snapshot(lab, MemorySource(log.records))
    intact = cuts._up_to
    monkeypatch.setattr(cuts, "_up_to", lambda events, key, compared="<=": intact(events, key, "<"))
    assert list(version_differences(lab, Oracle(lab.path), random.Random(1)))


def test_a_version_that_is_not_there_raises(lab):
    for version in (11, -1, True, "3"):
        with pytest.raises(VersionOutOfRange, match="10 versions"):
            lab.cut(version=("order", "o1", version))
    with pytest.raises(UnknownId, match=r"lab\.find"):
        lab.cut(version=("order", "o99", 1))


# --- where a consumer group stood -----------------------------------------------------------------


def sample(partition, committed, sampled, since=None, group="billing", topic="orders"):
    def at(second):
        return None if second is None else dt.datetime.fromtimestamp(NOON / 1000 + second, dt.UTC)

    return {
        "group": group, "topic": topic, "partition": partition, "committed": committed, "log_start": 0, "log_end": None,
        "sampled_at": at(sampled), "committed_at": at(since), "origin": "watch",
    }  # fmt: skip


def sampled(lab, *rows):
    write_samples(lab.path, SAMPLES.empty_table().from_pylist(list(rows), schema=SAMPLES))


def test_a_groups_cut_is_what_it_had_committed_by_then_and_says_that_this_is_a_lower_bound(lab):
    sampled(lab, sample(0, 3, 5), sample(1, None, 5), sample(0, 7, 15), sample(1, 2, 20, since=12))
    cut = lab.cut(group="billing", at="12:00:10")
    assert cut.offsets == {("orders", 0, 0): 3}
    assert cut.excluded == (("orders", 1, 0),)
    assert "without orders[1]" in repr(cut)
    assert "group 'billing' had committed by 2026-03-12 12:00:10 CET (it may have read on)" in cut.label
    assert lab.cut(group="billing", at="12:00:12").offsets == {("orders", 0, 0): 3, ("orders", 1, 0): 2}, "a later sample tells when it was"
    assert lab.cut(group="billing").offsets == {("orders", 0, 0): 7, ("orders", 1, 0): 2}
    assert Cut.from_json(cut.to_json()).label == cut.label


def test_the_world_as_a_group_knew_it_is_folded_from_what_it_had_read(lab):
    sampled(lab, sample(0, 3, 5), sample(1, 1, 5))
    known = lab.replay("order", at=lab.cut(group="billing", at="12:00:10"), progress=False)
    assert {key: known[key]["total"] for key in known} == {"o0": 3, "o1": 1, "o2": 2}
    assert "(it may have read on)" in repr(known)
    assert "without" not in repr(known)
    was = lab.replay("order", at="12:00:10", progress=False)
    assert {key: was[key]["total"] for key in was} == {"o0": 9, "o1": 10, "o2": 8}
    assert [change.after for change in known.diff(was)["o1"] if change.path == ("total",)] == [10]


def test_partitions_that_a_group_never_committed_are_named_wherever_its_cut_is_used(lab):
    sampled(lab, sample(0, 3, 5))
    cut = lab.cut(group="billing")
    for found in (
        lab.replay("order", at=cut, progress=False),
        lab.compare("order", "order", at=cut, progress=False),
        lab.replay(SqlProjection("n", "select count(*) from events"), at=cut, progress=False),
    ):
        assert "without orders[1]" in repr(found)


def test_an_unknown_group_and_a_time_before_its_first_sample_are_one_sentence_each(lab):
    with pytest.raises(UnknownGroup, match="no positions of a group 'billing'; it has none: watch a cluster"):
        lab.cut(group="billing")
    sampled(lab, sample(0, 3, 5))
    for unknown in ("shipping", "\ud800"):
        with pytest.raises(UnknownGroup, match="it has billing"):
            lab.cut(group=unknown)
    with pytest.raises(MomentError, match="12:00:04 CET is not known; its first offset sample is of 2026-03-12 12:00:05 CET"):
        lab.cut(group="billing", at="12:00:04")


@pytest.mark.parametrize("version", [3, "order", ("order", "o1"), ["order", "o1", 1]])
def test_a_version_that_names_no_step_is_one_sentence(lab, version):
    with pytest.raises(MomentError, match=r'write it like version=\("order", "ord-1", 3\)'):
        lab.cut(version=version)


def test_half_a_surrogate_pair_which_no_event_can_hold_is_found_nowhere(lab):
    with pytest.raises(UnknownEvent, match="no captured event is called"):
        lab.cut(event_id="\ud800")
    assert len(lab.find("\ud800")) == 0


def test_a_commit_from_before_a_topic_was_made_anew_says_nothing_of_it(lab):
    sampled(lab, sample(0, 7, 15), sample(1, 3, 15))
    lab.snapshot(MemorySource([order(at % 3, at, total=at, anew=1) for at in range(100, 110)]), progress=False)
    assert {life[2] for life in lab.cut().offsets} == {1}
    assert lab.cut(group="billing").offsets == {}
    assert len(lab.cut(group="billing").excluded) == 2


@few(10)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.none() | st.integers(0, 9), st.integers(0, 20), st.none() | st.integers(0, 20)),
        min_size=1,
        max_size=12,
    ),
    st.integers(-1, 21),
)
def test_a_groups_position_is_that_of_a_loop_over_its_samples(rows, at):
    told = [
        sample(partition, committed, at, since=min(since, at) if since is not None and committed is not None else None)
        for partition, committed, at, since in rows
    ]
    moment = dt.datetime.fromtimestamp(NOON / 1000 + at, dt.UTC)
    wanted = {}
    told.sort(key=lambda row: (row["sampled_at"], row["partition"]))
    for row in told:  # a sample stands until the next one; one that comes later but tells an older commit is better still
        if row["sampled_at"] <= moment:
            wanted[row["partition"]] = row["committed"]
    for partition in (0, 1):
        later = [
            row
            for row in told
            if row["partition"] == partition and row["sampled_at"] > moment and (row["committed_at"] or row["sampled_at"]) <= moment
        ]
        if later:
            newest = max(row["committed_at"] for row in later)
            wanted[partition] = {row["committed"] for row in later if row["committed_at"] == newest}
    with tempfile.TemporaryDirectory() as folder:
        lab = new_lab(Path(folder) / "lab", 'format_version = 1\n[topics.orders]\naggregates = [{ name = "order", id = "data.orderId" }]\n')
        lab.snapshot(MemorySource([order(number % 2, number) for number in range(4)]), progress=False)
        sampled(lab, *told)
        try:
            found = {partition: next_ for (_, partition, _), next_ in lab.cut(group="billing", at=moment).offsets.items()}
        except MomentError:
            found = {}
    for partition in (0, 1):
        one = wanted.get(partition)
        same_second = [row["committed"] for row in told if row["partition"] == partition and row["sampled_at"] <= moment]
        choices = one if isinstance(one, set) else {one}
        if not isinstance(one, set) and len(same_second) > 1:  # of samples of the same instant, the one that tells the newer commit
            last = max(row["sampled_at"] for row in told if row["partition"] == partition and row["sampled_at"] <= moment)
            rivals = [row for row in told if row["partition"] == partition and row["sampled_at"] == last]
            since = max(row["committed_at"] or row["sampled_at"] for row in rivals)
            choices = {row["committed"] for row in rivals if (row["committed_at"] or row["sampled_at"]) == since}
        assert found.get(partition) in choices


# --- bookmarks --------------------------------------------------------------------------------------


def test_a_bookmark_is_kept_in_the_lab_under_any_name(lab):
    names = ["before deploy 42", "'; drop table x; --", "<script>", "ä\n😀", "\x1b[31m", "a" * 5000, "../../etc", '"']
    for name in names:
        kept = lab.bookmark(name, at="12:00:10")
        assert kept == lab.cut("12:00:10")
    again = Lab(lab.path, tz="Europe/Berlin")
    assert list(again.bookmarks) == names
    assert all(again.cut(bookmark=name) == lab.cut("12:00:10") for name in names)
    assert "bookmark 'before deploy 42', recorded until 2026-03-12 12:00:10 CET" in repr(again.cut(bookmark="before deploy 42"))
    assert "<script>" not in again.bookmarks._repr_html_()
    assert "\x1b" not in repr(again.bookmarks) + repr(again.cut(bookmark="\x1b[31m"))
    assert list(again.bookmarks.df()["name"]) == names


def test_a_bookmark_takes_any_cut_and_all_that_is_captured(lab):
    by_event = lab.cut(event_id="orders-10")
    assert lab.bookmark("e", at=by_event) == lab.cut(bookmark="e") == by_event
    assert lab.bookmark("now") == lab.cut()
    assert lab.replay("order", at=lab.cut(bookmark="e"), progress=False)["o1"] == lab.replay("order", at=by_event, progress=False)["o1"]


def test_a_bookmark_moves_only_when_told_to(lab):
    lab.bookmark("deploy", at="12:00:10")
    lab.bookmark("deploy", at="12:00:10")
    with pytest.raises(MomentError, match="stands at another cut already"):
        lab.bookmark("deploy", at="12:00:11")
    assert lab.cut(bookmark="deploy") == lab.cut("12:00:10")
    lab.bookmark("deploy", at="12:00:11", replace=True)
    assert lab.cut(bookmark="deploy") == lab.cut("12:00:11")


def test_a_bookmark_can_be_removed_and_an_unknown_one_is_one_sentence(lab):
    lab.bookmark("a", at="12:00:10")
    lab.bookmark("b", at="12:00:11")
    lab.bookmarks.remove("a")
    assert list(lab.bookmarks) == ["b"]
    for act in (lambda: lab.bookmarks.remove("a"), lambda: lab.cut(bookmark="a")):
        with pytest.raises(MomentError, match="no bookmark is called 'a'; there are 'b'"):
            act()
    for name in ("", "  ", "\ud800", None):
        with pytest.raises(MomentError, match="no name"):
            lab.bookmark(name, at="12:00:10")


def test_an_empty_lab_has_no_bookmarks_and_makes_none(tmp_path):
    lab = Lab(tmp_path / "none", tz="UTC")
    assert len(lab.bookmarks) == 0
    assert "no bookmarks" in repr(lab.bookmarks)
    with pytest.raises(MomentError, match="empty"):
        lab.bookmark("x")
    assert not (tmp_path / "none").exists()


def test_bookmarks_that_two_make_at_once_are_both_kept(lab):
    cut = lab.cut("12:00:10")

    def make(who):
        for number in range(20):
            Lab(lab.path).bookmarks.add(f"{who} {number}", cut)

    threads = [threading.Thread(target=make, args=(who,)) for who in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lab.bookmarks) == 60
    assert [path.name for path in lab.path.glob(".bookmarks*")] == []


def test_a_writer_that_fails_leaves_the_bookmarks_as_they_were(lab, monkeypatch):
    lab.bookmark("a", at="12:00:10")
    before = (lab.path / "bookmarks.json").read_bytes()

    def die(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            lab.bookmark("b", at="12:00:10")
    assert (lab.path / "bookmarks.json").read_bytes() == before
    lab.bookmark("b", at="12:00:10")
    assert list(lab.bookmarks) == ["a", "b"]
    assert [path.name for path in lab.path.glob(".bookmarks*")] == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format_version": 2, "bookmarks": {}}', '{"format_version": 1, "bookmarks": {"a": 1}}', "\x00"]
)
def test_bookmarks_that_cannot_be_read_are_one_sentence_and_left_alone(lab, text):
    (lab.path / "bookmarks.json").write_text(text)
    for act in (lambda: len(lab.bookmarks), lambda: lab.bookmark("x")):
        with pytest.raises(ConfigError, match=r"bookmarks\.json"):
            act()
    assert (lab.path / "bookmarks.json").read_text() == text


# --- naming, combining, printing ----------------------------------------------------------------------


def test_a_cut_is_named_in_one_way_at_a_time(lab):
    for named in ({"event_id": "e", "version": ("order", "o1", 1)}, {"bookmark": "x", "at": "12:00"}, {"group": "g", "event_id": "e"}):
        with pytest.raises(MomentError, match="name one moment"):
            lab.cut(**named)
    with pytest.raises(NaiveTime):
        Lab(lab.path).cut("12:00")
    for told in ({"orders": {0: -1}}, {"orders": {0: "1"}}, {"orders": 1}):
        with pytest.raises(MomentError, match="offsets="):
            lab.cut(offsets=told)


def test_cuts_that_are_combined_say_of_what(lab):
    early, late = lab.cut("12:00:05"), lab.cut(offsets={"orders": {0: 9}})
    both, either = early & late, early | late
    assert both.offsets == {("orders", 0, 0): 4}
    assert either.offsets == {("orders", 0, 0): 9, ("orders", 1, 0): 2}
    assert both.label == "(recorded until 2026-03-12 12:00:05 CET) and (by offsets)"
    assert (both.excluded, either.excluded) == ((("orders", 1, 0),), ())
    assert (late | early) == either
    assert (Cut({}) | Cut({("t", 0, 0): 0})).offsets == {("t", 0, 0): 0}


def test_a_cut_of_another_lab_is_one_clear_sentence_wherever_it_is_used(lab, tmp_path):
    other = Lab(tmp_path / "other", tz="Europe/Berlin", say=lambda text: None)
    other.snapshot(MemorySource([order(1, 1, topic="baskets")]), progress=False)
    cut = other.cut()
    uses = [
        lambda: lab.replay("order", at=cut, progress=False),
        lambda: lab.history("order", "o1", at=cut),
        lambda: lab.history("order", "o1").at(cut=cut),
        lambda: lab.history("order", "o1").diff(cut, 3),
        lambda: lab.bookmark("x", at=cut),
    ]
    for use in uses:
        with pytest.raises(MomentError, match="from another lab: baskets is not captured here; this lab has orders"):
            use()
    with pytest.raises(MomentError, match="no cut"):
        Cut.from_json('{"offsets": 1}')


def test_a_cut_of_a_topic_of_the_same_name_elsewhere_is_told_apart_by_its_id_and_a_copy_of_the_lab_takes_it(lab, tmp_path, said):
    records = [order(at % 3, at, total=at) for at in range(30)]
    other = Lab(tmp_path / "staging", tz="Europe/Berlin", say=lambda text: None)
    other.snapshot(MemorySource(records), progress=False)
    for cut in (other.cut("12:00:10"), Cut.from_json(other.cut("12:00:10").to_json()), lab.cut() & other.cut("12:00:10")):
        with pytest.raises(MomentError, match="from another lab: orders there is another topic of that name"):
            lab.replay("order", at=cut, progress=False)
    shutil.copytree(other.path, tmp_path / "copy")
    again = Lab(tmp_path / "copy", tz="Europe/Berlin", say=said.append)
    assert len(again.replay("order", at=other.cut("12:00:10"), progress=False)) == 3
    unknown = Cut(
        other.cut("12:00:10").offsets, store={life: told.rpartition(".")[2] for life, told in other.cut("12:00:10").store.items()}
    )
    assert len(lab.replay("order", at=unknown, progress=False)) == 3, "of a source that gives no ids"
    assert said == []


def test_a_cut_gives_the_same_answer_when_more_is_captured_and_nothing_is_said(lab, said):
    cut = lab.cut("12:00:10")
    before = dict(lab.replay("order", at=cut, progress=False))
    source = MemorySource([order(at % 3, at, total=at) for at in range(40)] + [order(1, 1, topic="baskets")])
    lab.snapshot(source, progress=False)
    assert len(lab.sql("from events")) == 41
    said.clear()
    again = Lab(lab.path, tz="Europe/Berlin", say=said.append)
    assert dict(again.replay("order", at=Cut.from_json(cut.to_json()), progress=False)) == before
    assert said == []


def test_a_cut_that_other_rules_now_read_is_told_once_and_answered(lab, said):
    cut = Cut.from_json(lab.cut("12:00:10").to_json())
    lab.distrust(topic="orders", partition=1, offsets=(3, 4))
    said.clear()
    assert len(lab.history("order", "o1", at=cut)) == 4
    lab.replay("order", at=cut, progress=False)
    (line,) = said
    assert line.startswith("'recorded until 2026-03-12 12:00:10 CET': orders is read by other rules than when this cut was made")
    assert "read by other rules" in lab.history("order", "o1").at(cut=cut).note
    said.clear()
    lab.replay("order", at=lab.cut("12:00:10"), progress=False)
    assert said == []


def test_a_cut_below_which_more_was_filled_in_is_told(tmp_path, said):
    source = MemorySource([order(at % 3, at, total=at) for at in range(30)])
    lab = Lab(tmp_path / "lab", tz="UTC", say=said.append)
    lab.snapshot(source, start={"orders": {0: 2, 1: 0}}, progress=False)
    cut, other = lab.cut("11:00:10"), lab.cut(offsets={"orders": {1: 4}})
    lab.snapshot(source, start=0, progress=False)
    said.clear()
    lab.replay("order", at=other, progress=False)
    assert said == []
    lab.replay("order", at=cut, progress=False)
    assert "holds other records below it" in said[0]


# --- both clocks --------------------------------------------------------------------------------------


def test_what_had_happened_is_asked_of_all_that_is_captured_or_of_a_cut(tmp_path):
    def told(at, happened):
        value = dumps({"eventType": "T", "timestamp": NOON + happened * 1000, "data": {"anId": "1", "n": at}})
        return Record(topic="t", key=b"1", timestamp_ms=NOON + at * 1000, value=value)

    lab = Lab(tmp_path / "lab", tz="Europe/Berlin", say=lambda text: None)
    lab.snapshot(MemorySource([told(0, 0), told(10, 1), told(20, 2), told(30, 40)]), progress=False)
    asked = {"at": "12:00:05", "clock": "happened"}
    assert [step.after["n"] for step in lab.history("an", "1", **asked)] == [0, 10, 20]
    assert [step.after["n"] for step in lab.history("an", "1", **asked, cut=lab.cut("12:00:10"))] == [0, 10]
    assert lab.replay("an", **asked, cut=lab.cut("12:00:10"), progress=False)["1"]["n"] == 10
    assert lab.replay("an", clock="happened", cut=lab.cut("12:00:10"), progress=False)["1"]["n"] == 10
    assert lab.replay("an", clock="happened", at=lab.cut("12:00:10"), progress=False)["1"]["n"] == 10
    assert lab.replay("an", cut=lab.cut("12:00:10"), progress=False)["1"]["n"] == 10
    until = "happened until 2026-03-12 12:00:05 CET"
    assert until in repr(lab.replay("an", **asked, progress=False))
    assert until in repr(lab.compare("an", "an", **asked, progress=False))
    whole, known = (lab.replay("an", **asked, cut=cut, progress=False) for cut in (None, lab.cut("12:00:10")))
    assert f"0 equal, 1 changed (before: {until}; after: {until}, of recorded until 2026-03-12 12:00:10 CET)" in repr(whole.diff(known))
    with pytest.raises(MomentError, match="name one"):
        lab.replay("an", at="12:00:10", cut=lab.cut("12:00:10"))
    with pytest.raises(MomentError, match="two cuts"):
        lab.replay("an", at=lab.cut(), cut=lab.cut())


def test_an_event_that_says_no_time_happened_when_it_was_recorded_and_not_where_it_stands(tmp_path):
    def told(at):
        return Record(topic="t", key=b"1", timestamp_ms=NOON + at * 1000, value=dumps({"eventType": "T", "data": {"anId": "1", "n": at}}))

    lab = Lab(tmp_path / "lab", tz="Europe/Berlin", say=lambda text: None)
    lab.snapshot(MemorySource([told(0), told(50), told(10)]), progress=False)
    asked = {"at": "12:00:20", "clock": "happened"}
    assert [step.after["n"] for step in lab.history("an", "1", **asked)] == [0, 10]
    assert lab.replay("an", progress=False, **asked)["1"]["n"] == 10
    assert lab.replay(SqlProjection("n", "select count(*) as n from events"), **asked).arrow()["n"].to_pylist() == [2]
    assert lab.timeline("an", measure=lambda state: state["n"], every="20s", clock="happened", progress=False).df()["value"].tolist() == [
        0,
        10,
        10,
        10,
    ]


def compare_what_had_happened(lab, oracle, chance):
    one, other = chance.choice(oracle.log), chance.choice(oracle.log)
    cut = lab.cut(event_id=Coordinates(*one.life, one.offset))

    def held(event):
        return event.order <= one.order and event.happened <= other.happened

    for aggregate in sorted({key[0] for key in oracle.keys}):
        world = lab.replay(aggregate, at=other.happened, clock="happened", cut=cut, progress=False)
        found = {row["aggregate_id"]: (row["version"], canonical(state_of(row["state"]))) for row in world.arrow().to_pylist()}
        assert found == {key: (version, canonical(state)) for key, (version, state) in oracle.world(aggregate, held).items()}
        assert world.undecodable == sum(event.kind == "undecodable" and held(event) for event in oracle.log)
        compared = lab.compare(aggregate, aggregate, at=other.happened, clock="happened", cut=cut, progress=False)
        assert sum(compared.counts.values()) == len(world)


@few(7)
@given(logs(), SEEDS)
def test_what_had_happened_within_a_cut_is_the_oracles(log, seed):
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        compare_what_had_happened(lab, Oracle(lab.path), random.Random(seed))


@pytest.fixture(scope="module")
def happenings(tmp_path_factory):
    """A lab of events that tell when they happened, and of some that do not; and its oracle."""
    lab = captured(tmp_path_factory.mktemp("happenings") / "lab", made(100, seed=3))
    return lab, Oracle(lab.path)


def take_what_happens_at_the_moment_for_later(monkeypatch):
    intact = events._happened_by
    monkeypatch.setattr(events, "_happened_by", lambda table, moment: intact(table, moment - dt.timedelta(microseconds=1)))


def leave_out_what_does_not_tell_when_it_happened(monkeypatch):
    monkeypatch.setattr(
        events, "_happened_by", lambda table, moment: pc.fill_null(pc.less_equal(table["happened_at"], moment), False).to_numpy()
    )


def take_the_time_of_the_record(monkeypatch):
    monkeypatch.setattr(events, "_happened_by", lambda table, moment: pc.less_equal(table["order_at"], moment).to_numpy())


def look_at_the_cut_alone(monkeypatch):
    monkeypatch.setattr(events, "_happened_by", lambda table, moment: True)


@pytest.mark.parametrize(
    "plant",
    [
        take_what_happens_at_the_moment_for_later,
        leave_out_what_does_not_tell_when_it_happened,
        take_the_time_of_the_record,
        look_at_the_cut_alone,
        None,
    ],
    ids=lambda plant: getattr(plant, "__name__", None),
)
def test_a_bug_planted_in_what_had_happened_by_a_moment_is_seen(happenings, monkeypatch, plant):
    seen = contextlib.nullcontext() if plant is None else pytest.raises(AssertionError)
    if plant is not None:
        plant(monkeypatch)
    with seen:
        for seed in range(5):
            compare_what_had_happened(*happenings, random.Random(seed))


def test_a_world_says_how_many_records_in_its_range_could_not_be_read(lab):
    assert "undecodable" not in repr(lab.replay("order", progress=False))
    broken = [Record(topic="odd", key=b"x", value=b"{", timestamp_ms=NOON + at * 1000) for at in (5, 15)]
    lab.snapshot(MemorySource(broken), progress=False)
    assert "1 undecodable record in range" in repr(lab.replay("order", at="12:00:10", progress=False))
    assert lab.replay("order", progress=False).undecodable == 2
    assert "1 undecodable record without a key in range, which may belong here" in repr(lab.history("order", "o1", at="12:00:10"))
    assert "2 undecodable records without a key in range, which may belong here" in lab.history("order", "o1")._repr_html_()
    assert lab.compare("order", "order", progress=False).undecodable == 2
    assert "2 undecodable records in range" in repr(lab.compare("order", "order", progress=False))


def test_only_a_gap_before_the_cut_makes_what_is_folded_partial(tmp_path):
    lab = Lab(tmp_path / "lab", tz="UTC", say=lambda text: None)
    source = MemorySource([order(0, at, total=at) for at in range(6)])
    del source._logs["orders", 0][2:4]  # nobody knows where they went
    lab.snapshot(source, progress=False)
    before, after = lab.cut(offsets={"orders": {0: 2}}), lab.cut(offsets={"orders": {0: 5}})
    assert lab.replay("order", at=before, progress=False).complete
    assert lab.history("order", "o0", at=before).partial == ""
    assert lab.replay(SqlProjection("n", "select count(*) from events"), at=before, progress=False).partial == ()
    assert lab.compare("order", "order", at=before, progress=False).partial == set()
    assert lab.replay("order", at=after, progress=False).partial == {"o0"}
    assert lab.replay("order", at=before, progress=False).advance(after).partial == {"o0"}
    assert "lacks 2 offsets in 2–3 (unknown)" in lab.history("order", "o0", at=after).partial
    assert lab.compare("order", "order", at=after, progress=False).partial == {"o0"}
