"""Bookmarks and late events in the shell."""

import json

import pytest
from click.testing import CliRunner

import eslab
from eslab import cli
from eslab.model import dumps
from eslab.sources.memory import MemorySource

NOON = 1_773_313_200_000  # 2026-03-12 12:00:00 in Berlin


def told(at, late_s=0):
    value = dumps({"eventId": f"e{at}", "eventType": "T", "timestamp": NOON + (at - late_s) * 1000, "data": {"anId": "1", "n": at}})
    return eslab.Record(topic="t", key=b"1", timestamp_ms=NOON + at * 1000, value=value)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setenv("ESLAB_TZ", "Europe/Berlin")
    folder = tmp_path / "shop"
    eslab.Lab(folder, say=lambda _: None).snapshot(MemorySource([told(0), told(10), told(400, 300)]), progress=False)
    return folder


def run(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="eslab")


def answer(*words):
    result = run(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_a_moment_is_kept_under_a_name_listed_and_used(shop):
    assert answer("bookmark", shop, "before deploy", "--at", "12:00:05") == "before deploy: recorded until 2026-03-12 12:00:05 CET\n"
    assert "before deploy  recorded until" in answer("bookmark", shop)
    assert json.loads(answer("at", shop, "an", "1", "--bookmark", "before deploy", "--json"))["value"]["n"] == 0
    assert len(json.loads(answer("history", shop, "an", "1", "--bookmark", "before deploy", "--json"))) == 1
    assert "eslab at" in (shown := answer("at", shop, "an", "1", "--bookmark", "before deploy"))
    assert "--bookmark 'before deploy'" in shown
    assert "--bookmark 'before deploy'" in answer("history", shop, "an", "1", "--bookmark", "before deploy")


def test_the_clock_of_happenings_takes_a_bookmark_as_what_had_been_recorded(shop):
    answer("bookmark", shop, "early", "--at", "12:00:20")
    asked = ("history", shop, "an", "1", "--at", "12:02", "--clock", "happened")
    assert len(json.loads(answer(*asked, "--json"))) == 3
    assert len(json.loads(answer(*asked, "--bookmark", "early", "--json"))) == 2
    assert run("history", shop, "an", "1", "--at", "12:02", "--bookmark", "early").exit_code == 2


def test_a_bookmark_takes_an_event_or_a_cut_and_gives_its_cut_as_json(shop):
    kept = json.loads(answer("bookmark", shop, "e", "--event", "e10", "--json"))
    assert kept["cut"]["offsets"][0]["next"] == 2
    assert json.loads(answer("bookmark", shop, "c", "--cut", json.dumps(kept["cut"]), "--json"))["cut"]["offsets"] == kept["cut"]["offsets"]
    assert [one["name"] for one in json.loads(answer("bookmark", shop, "--json"))] == ["e", "c"]


def test_a_bookmark_moves_and_goes_only_when_told_to(shop):
    answer("bookmark", shop, "x", "--at", "12:00:05")
    refused = run("bookmark", shop, "x")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "stands at another cut already" in refused.stderr
    answer("bookmark", shop, "x", "--replace")
    assert run("bookmark", shop, "x", "--remove").stderr == "eslab: bookmark 'x' is forgotten\n"
    gone = run("at", shop, "an", "1", "--bookmark", "x")
    assert (gone.exit_code, "no bookmark is called 'x'" in gone.stderr) == (1, True)


@pytest.mark.parametrize(
    "words", [["--remove"], ["--at", "12:00"], ["x", "--remove", "--at", "12:00"], ["x", "--cut", "{}", "--at", "12:00"], ["--replace"]]
)
def test_what_makes_no_sense_is_wrong_usage(shop, words):
    assert run("bookmark", shop, *words).exit_code == 2


def test_late_events_are_listed_with_how_late_they_are(shop):
    (row,) = json.loads(answer("late", shop, "--json"))
    assert (row["event_id"], row["late_s"], row["at"]) == ("e400", 300.0, "t/0/2")
    shown = answer("late", shop, "--min", "2m", "--topic", "t")
    assert shown.startswith("Late: 1 event in t arrived 2 min or more after its time, by up to 5 min")
    assert shown.endswith(f"eslab late {shop} --min 2m --topic t --tz Europe/Berlin\n")
    assert json.loads(answer("late", shop, "--min", "1h", "--json")) == []
    assert "no length of time" in run("late", shop, "--min", "soon").stderr
