"""Verdicts, results as data, and the tables in the texts, which must say what the last full run said."""

import dataclasses
import json

import pytest

from bench import report, rows, table
from bench.programs import ROOT, payload_file
from bench.questions import QUESTIONS
from bench.rows import Row, Spread, Verdict, at_least, at_most, info, unmeasured, within
from bench.run import SUMMARY


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (at_most("a", 2.0, "µs", 2.0), Verdict.MET),
        (at_most("a", 2.001, "µs", 2.0), Verdict.MISSED),
        (at_most("a", Spread.of([1, 2, 9]), "µs", 2.0), Verdict.MET),
        (at_least("a", 0.55, "×", 0.55), Verdict.MET),
        (at_least("a", Spread.of([0.1, 0.5, 0.9]), "×", 0.55), Verdict.MISSED),
        (within("a", 0.94, "×", 0.95, 1.05), Verdict.MISSED),
        (within("a", 1.05, "×", 0.95, 1.05), Verdict.MET),
        (info("a", 1e9, "calls/s"), Verdict.INFO),
        (unmeasured("a", "ms", "≤ 5", "no such kernel"), Verdict.UNMEASURED),
        (at_most("nan is never met", float("nan"), "ms", 5), Verdict.MISSED),
    ],
)
def test_verdicts(row, verdict):
    assert row.verdict is verdict


def test_a_spread_needs_values():
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


@pytest.fixture
def result():
    return report.Result(
        date="2026-01-02",
        quick=False,
        commit="abc",
        machine={"cpus": 2},
        machine_line="2 CPUs",
        load_before=(0.5, 0.4, 0.3),
        load_after=(1.0, 0.4, 0.3),
        seconds=1.5,
        answers={
            "one": (
                at_most("fast", Spread.of([1.0, 2.0, 3.0]), "µs", 2.5, notes="why", raw={"x": [1]}),
                info("aside", 7, "s"),
            ),
            "two": (at_least("many", 10_000, "calls/s", 20_000), unmeasured("gone", "MB", "≤ 6", "broke")),
        },
    )


def test_a_result_survives_being_written(result, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(result.to_json())
    assert report.Result.read(path) == result
    assert report.Result.read(path).rows[0].verdict is Verdict.MET
    path.write_text(json.dumps({"version": 99}))
    with pytest.raises(ValueError, match="version 1"):
        report.Result.read(path)


def test_the_table_hides_no_missed_and_no_unmeasured_target(result):
    text = report.markdown(result)
    assert "| fast<br><sub>why</sub> | 2.00 µs (1.00 … 3.00) | ≤ 2.5 | met |" in text
    assert "| many | 10,000 calls/s | ≥ 20,000 | missed |" in text
    assert "| gone<br><sub>broke</sub> | – | ≤ 6 | not measured |" in text
    assert "1 of 3 met." in text
    assert "aside" not in text
    assert report.markdown(dataclasses.replace(result, quick=True)).count("quick run") == 1


def test_a_comparison_is_now_by_then(result):
    faster = dataclasses.replace(result, answers={"one": (at_most("fast", 1.0, "µs", 2.5),)})
    assert "0.50 ×" in report.compared(faster, result)


def test_every_question_says_what_it_asks_and_how():
    assert len(QUESTIONS) >= 15
    for name, question in QUESTIONS.items():
        assert name == question.name
        assert question.asks.endswith("?")
        assert question.how.endswith(".")
        assert question.traps.endswith(".")


def test_a_filled_text_keeps_what_is_around_its_markers(result, tmp_path):
    summary = tmp_path / "summary.json"
    summary.write_text(result.to_json())
    text = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"
    made = table.filled(text, summary)
    assert made.startswith("before\n<!-- bench:begin -->\n| what |")
    assert made.endswith("<!-- bench:end -->\nafter\n")
    assert "old" not in made
    assert table.filled(made, summary) == made
    for broken in ("none", "<!-- bench:begin --> only", "<!-- bench:end --><!-- bench:begin -->"):
        with pytest.raises(ValueError, match="bench:begin"):
            table.filled(broken, summary)


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md"])
def test_texts_are_in_step_with_the_last_full_run(name):
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not written yet")
    if not SUMMARY.exists() and name == "README.md":
        pytest.skip("bench/summary.json is not there: no full run was kept yet")
    text = path.read_text()
    assert table.filled(text) == text, f"run: python -m bench.table {name}"


def test_rows_name_every_field_they_carry():
    assert {field.name for field in dataclasses.fields(Row)} == set(info("a", 1, "s").to_map())
    assert rows.Row.from_map(info("a", 1, "s").to_map()) == info("a", 1, "s")


@pytest.mark.parametrize("size", [100, 127, 1000, 65536])
def test_payloads_have_their_size_and_come_back_byte_for_byte(tmp_path, size):
    data = payload_file(tmp_path, size).read_bytes()
    assert len(data) == size
    assert json.dumps(json.loads(data)).encode() == data


def test_a_payload_too_small_for_its_fields_is_refused(tmp_path):
    with pytest.raises(ValueError, match="100 are needed"):
        payload_file(tmp_path, 99)
