"""Logs of every kind: each answer of a lab is the oracle's, however the log was captured."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logs import CI, TORTURE, Log, all_differences, captured, logs
from oracle import Oracle


def check_every_answer(log: Log, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = captured(Path(folder) / "lab", log)
        assert all_differences(lab, Oracle(lab.path), lambda options: data.draw(st.sampled_from(options))) == []


@CI
@given(logs(), st.data())
def test_every_history_state_world_and_count_of_a_made_log_is_the_oracles(log, data):
    check_every_answer(log, data)


@pytest.mark.torture
@pytest.mark.timeout(0)
@TORTURE
@given(logs(60), st.data())
def test_every_history_state_world_and_count_of_very_many_made_logs_is_the_oracles(log, data):
    check_every_answer(log, data)
