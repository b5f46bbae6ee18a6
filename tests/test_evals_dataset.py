"""Users' own data: what is read, and that every row that isn't is reported by file and line."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from serve_app.evals.dataset import SHOWN, DataError, Folder, digest
from serve_app.evals.suites import SUITES
from serve_app.evals.suites.faq import Entry, Query
from serve_app.evals.suites.pairs import Pair

PAIRS = [
    {"id": "p1", "text1": "Der Zug fährt ab.", "text2": "Der Zug verlässt den Bahnhof.", "similar": True},
    {"id": "p2", "text1": "Der Zug fährt ab.", "text2": "Der Zug kommt an.", "similar": False},
]


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def as_csv(rows: list[dict[str, Any]], line_end: str = "\n") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def problems(folder: Path, suite: str) -> list[str]:
    """What `load` complains of, without the folder's name."""
    with pytest.raises(DataError) as caught:
        SUITES[suite].load(folder)
    return [
        problem.replace(f"{folder}{os.sep}", "").replace(str(folder), "FOLDER") for problem in caught.value.problems
    ]


def pairs_in(folder: Path, name: str, content: bytes) -> list[Pair]:
    (folder / name).write_bytes(content)
    [found] = SUITES["pairs"].load(folder)
    (folder / name).unlink()
    assert all(isinstance(row, Pair) for row in found)
    return list(found)


def test_json_lines_and_csv_say_the_same_in_all_their_spellings(tmp_path: Path) -> None:
    plain = pairs_in(tmp_path, "pairs.jsonl", json_lines(PAIRS))
    assert [(pair.id, pair.similar, pair.lang) for pair in plain] == [("p1", True, ""), ("p2", False, "")]
    mark = codecs.BOM_UTF8
    for content in (
        mark + json_lines(PAIRS),
        json_lines(PAIRS).replace(b"\n", b"\r\n") + b"\r\n",
        b"\n\n" + json_lines(PAIRS).replace(b"\n", b"\n \n") + b"\n\n",
    ):
        assert pairs_in(tmp_path, "pairs.jsonl", content) == plain
    for content in (
        as_csv(PAIRS),
        mark + as_csv(PAIRS, "\r\n"),
        as_csv(PAIRS).replace(b"True", b"1").replace(b"False", b"0"),
        as_csv(PAIRS).replace(b"True", b"true").replace(b"False", b"FALSE"),
        as_csv(PAIRS).replace(b"id,text1", b" id , text1"),
        as_csv(PAIRS).replace(b"\n", b"\n\n"),
        as_csv([row | {"lang": "", "kind": "", "note": "not asked for"} for row in PAIRS]),
    ):
        assert pairs_in(tmp_path, "pairs.csv", content) == plain


def test_csv_cells_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    odd = 'one, "two"\r\nthree\n\nfour'
    rows = [row | {"text1": odd} for row in PAIRS]
    found = pairs_in(tmp_path, "pairs.csv", as_csv(rows, "\r\n"))
    assert [pair.text1 for pair in found] == [odd, odd]
    # Lines are those of the file, counted where a row begins.
    (tmp_path / "pairs.csv").write_bytes(as_csv([*rows, PAIRS[0] | {"id": "p3", "text2": " "}]))
    assert problems(tmp_path, "pairs") == ["pairs.csv:10: `text2` is empty"]


def test_line_separators_of_unicode_do_not_end_a_row(tmp_path: Path) -> None:
    odd = "one\u2028two\u0085three\x1cfour"
    for name, content in (("pairs.jsonl", json_lines), ("pairs.csv", as_csv)):
        found = pairs_in(tmp_path, name, content([row | {"text1": odd} for row in PAIRS]))
        assert [pair.text1 for pair in found] == [odd, odd]


GOOD = b'{"id": "p1", "text1": "a", "text2": "b", "similar": true}'
BAD_LINES = {
    b'{"id": "p2", "text1": "a"': "not JSON: Input data was truncated",
    b'["p2"]': "not a JSON object, {…}",
    b"null": "not a JSON object, {…}",
    b'{"id": "p2", "text1": "a", "similar": true}': "there is no `text2`",
    b'{"id": "p2", "text1": "a", "text2": "", "similar": true}': "`text2` is empty",
    b'{"id": "p2", "text1": "a", "text2": " \\n ", "similar": true}': "`text2` is empty",
    b'{"id": "p2", "text1": "a", "text2": null, "similar": true}': "Expected `str`, got `null` in `text2`",
    b'{"id": "p2", "text1": ["a"], "text2": "b", "similar": true}': "Expected `str`, got `array` in `text1`",
    b'{"id": 2, "text1": "a", "text2": "b", "similar": true}': "Expected `str`, got `int` in `id`",
    b'{"id": "p2", "text1": "a", "text2": "b", "similar": 1}': "Expected `bool`, got `int` in `similar`",
    b'{"id": "p2", "text1": "a", "text2": "b", "similar": "true"}': "Expected `bool`, got `str` in `similar`",
    b'{"id": "p1", "text1": "a", "text2": "b", "similar": false}': "'p1' is there already, in line 1",
    b'{"id": "p2", "text1": "\xff", "text2": "b", "similar": false}': "not JSON: ",
    b'{"id": "p2", "text1": "\\ud800", "text2": "b", "similar": false}': "not JSON: ",
    b'{"id": "p2", "text1": "a", "text2": "b", "similar": true} {}': "not JSON: ",
    b"[" * 100_000: "not JSON: ",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:60].decode("latin-1"))
def test_a_malformed_json_line_is_reported(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(GOOD + b"\n\n" + line + b"\n")
    [problem] = problems(tmp_path, "pairs")
    assert problem.startswith(f"pairs.jsonl:3: {BAD_LINES[line]}")


BAD_ROWS = {
    b"p2,a,b": "3 columns, and the header has 4",
    b"p2,a,b,true,more": "5 columns, and the header has 4",
    b",,,": "there is no `id`",
    b"p2,a,,true": "there is no `text2`",
    b"p2,a,b,": "there is no `similar`",
    b"p2,a,b,perhaps": "Expected `bool`, got `str` in `similar`",
    b"p1,a,b,true": "'p1' is there already, in line 2",
    b'p2,a,"b"c,true': "not CSV: ',' expected after '\"'; what follows wasn't read",
    b'p2,a,"b,true': "not CSV: unexpected end of data; what follows wasn't read",
}


@pytest.mark.parametrize("row", BAD_ROWS, ids=lambda row: row.decode())
def test_a_malformed_csv_row_is_reported(tmp_path: Path, row: bytes) -> None:
    (tmp_path / "pairs.csv").write_bytes(b"id,text1,text2,similar\np1,a,b,true\n" + row + b"\n")
    assert problems(tmp_path, "pairs") == [f"pairs.csv:3: {BAD_ROWS[row]}"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pairs.csv", b"", "pairs.csv: it has no rows"),
        ("pairs.csv", b"id,text1,text2,similar\n", "pairs.csv: it has no rows"),
        ("pairs.jsonl", b"\n \n", "pairs.jsonl: it has no rows"),
        ("pairs.csv", b"id;text1;text2;similar\n1;a;b;1\n", "pairs.csv:1: columns are separated by ';', and commas are needed"),
        ("pairs.csv", b"id,text1,text1,similar\n1,a,b,1\n", "pairs.csv:1: two columns are named 'text1'"),
        ("pairs.csv", b"id,text1,text2,similar\np1,a,\xe4,1\n", "pairs.csv:2: not UTF-8, so that nothing of the file was read"),
        ("pairs.csv", "id,text1".encode("utf-16"), "pairs.csv:1: not UTF-8"),
        ("pairs.tsv", b"", "FOLDER: needs pairs.jsonl or pairs.csv"),
    ],
)  # fmt: skip
def test_a_file_of_which_nothing_can_be_used_is_reported(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    [problem] = problems(tmp_path, "pairs")
    assert problem.startswith(said)


def test_where_the_data_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        SUITES["pairs"].load(tmp_path / "nowhere")
    (tmp_path / "pairs.csv").write_bytes(as_csv(PAIRS))
    (tmp_path / "pairs.jsonl").write_bytes(json_lines(PAIRS))
    assert problems(tmp_path, "pairs") == ["FOLDER: has both pairs.jsonl and pairs.csv: keep one"]


def test_all_problems_are_reported_and_those_past_a_number_counted(tmp_path: Path) -> None:
    lines = [GOOD, *(b'{"id": "x%d"}' % number for number in range(200)), b"{", GOOD]
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError) as caught:
        SUITES["pairs"].load(tmp_path)
    assert len(caught.value.problems) == 202
    shown = str(caught.value).splitlines()
    assert len(shown) == SHOWN + 1
    assert shown[0].endswith("pairs.jsonl:2: there is no `text1`")
    assert shown[-1] == f"and {202 - SHOWN} more problems"


def test_rows_before_a_break_in_a_csv_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes(b'id,text1,text2,similar\np1,,b,true\np2,a,"b"c,true\np3,,b,true\n')
    assert [problem.split(" ")[0] for problem in problems(tmp_path, "pairs")] == ["pairs.csv:2:", "pairs.csv:3:"]


ENTRIES = [{"id": "e1", "question": "How do I pay?"}, {"id": "e2", "question": "When does it come?"}]


def test_references_are_checked_where_all_that_can_be_meant_is_known(tmp_path: Path) -> None:
    queries = [
        {"id": "q1", "text": "money", "entry": "e1"},
        {"id": "q2", "text": "date", "entry": "e3"},
        {"id": "q3", "text": "who", "entry": "E1"},
    ]
    (tmp_path / "entries.jsonl").write_bytes(json_lines(ENTRIES))
    (tmp_path / "queries.csv").write_bytes(as_csv(queries))
    assert problems(tmp_path, "faq") == [
        "queries.csv:3: there is no entry 'e3'",
        "queries.csv:4: there is no entry 'E1'",
    ]
    # A reference to a row that couldn't be read isn't a fault of its own.
    (tmp_path / "entries.jsonl").write_bytes(json_lines([*ENTRIES, {"id": "e3"}]))
    assert problems(tmp_path, "faq") == ["entries.jsonl:3: there is no `question`"]


def test_references_of_the_other_suites(tmp_path: Path) -> None:
    titles = [{"id": "t1", "lang": "de", "topic": "rail", "text": "Der Zug kommt"}]
    (tmp_path / "titles.jsonl").write_bytes(json_lines(titles))
    (tmp_path / "queries.jsonl").write_bytes(json_lines([titles[0] | {"topic": "sea"}]))
    assert problems(tmp_path, "crosslingual") == ["queries.jsonl:1: no title has the topic 'sea'"]
    (tmp_path / "documents.jsonl").write_bytes(json_lines([{"id": "d1", "text": "ls lists files"}]))
    (tmp_path / "queries.jsonl").write_bytes(json_lines([{"id": "q1", "text": "what is here", "document": "ls"}]))
    assert problems(tmp_path, "techdocs") == ["queries.jsonl:1: there is no document 'ls'"]


def test_faults_of_instructions_data(tmp_path: Path) -> None:
    task = {"task": "topic", "instruction": "Find the same topic", "wrong_instruction": "Find the same mood"}
    texts = [{"id": "t1", "text": "Nice room", "topic": "hotel"}, {"id": "t2", "text": "Late train", "topic": "train"}]
    queries = [{"id": "q1", "text": "Soft bed", "task": "topic", "label": "hotel"}]

    def said(texts: list[Any], tasks: list[Any], queries: list[Any]) -> list[str]:
        for name, rows in (("texts", texts), ("tasks", tasks), ("queries", queries)):
            (tmp_path / f"{name}.jsonl").write_bytes(json_lines(rows))
        return problems(tmp_path, "instruction")

    assert said(texts, [task, task], queries) == ["tasks.jsonl:2: 'topic' is there already, in line 1"]
    same = task | {"wrong_instruction": task["instruction"]}
    assert said(texts, [same], queries) == ["tasks.jsonl:1: `wrong_instruction` is the same as `instruction`"]
    assert said(texts, [task, task | {"task": "mood"}], queries) == ["tasks.jsonl:2: `task` is 'topic' or 'sentiment'"]
    assert said(texts, [task], [queries[0] | {"label": "gym"}]) == ["queries.jsonl:1: no text has the topic 'gym'"]
    assert said(texts, [task], [queries[0] | {"task": "mood"}]) == ["queries.jsonl:1: there is no task 'mood'"]
    bare = [texts[0], {"id": "t2", "text": "Late train"}]
    assert said(bare, [task], queries) == ["texts.jsonl:2: there is no `topic`, which is a task"]


def test_data_of_one_kind_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(json_lines([PAIRS[0]]))
    assert problems(tmp_path, "pairs") == ["FOLDER: similar pairs and dissimilar ones are needed"]
    cases = [{"id": str(number), "cause": "theft", "text": f"case {number}"} for number in range(3)]
    (tmp_path / "cases.jsonl").write_bytes(json_lines(cases))
    assert problems(tmp_path, "clustering") == ["FOLDER: texts of two causes or more are needed"]


def test_a_file_that_can_not_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairs.csv").write_bytes(as_csv(PAIRS))

    def refused(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert problems(tmp_path, "pairs") == ["pairs.csv: can't be read: Permission denied"]


def test_compression_takes_any_retrieval_data_in_either_format(tmp_path: Path) -> None:
    (tmp_path / "entries.csv").write_bytes(as_csv(ENTRIES))
    (tmp_path / "queries.csv").write_bytes(as_csv([{"id": "q1", "text": "money", "entry": "e1"}]))
    [found] = SUITES["compression"].load(tmp_path)
    assert (found.name, found.relevant.tolist()) == ("faq", [[True, False]])


def test_a_folder_is_read_once_and_its_faults_are_kept_together(tmp_path: Path) -> None:
    (tmp_path / "entries.jsonl").write_bytes(json_lines([{"id": "e1"}]))
    folder = Folder(tmp_path)
    assert folder.read("entries", Entry) == []
    assert folder.read("queries", Query) == []
    with pytest.raises(DataError, match=r"(?s)entries.jsonl:1: .*needs queries.jsonl or queries.csv"):
        folder.finish()


def test_the_digest_tells_names_and_contents_apart(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"1")
    (tmp_path / "note.txt").write_bytes(b"1")
    first = digest(tmp_path)
    (tmp_path / "note.txt").write_bytes(b"2")
    assert digest(tmp_path) == first
    (tmp_path / "a.csv").write_bytes(b"2")
    assert digest(tmp_path) != first
    (tmp_path / "a.csv").rename(tmp_path / "b.csv")
    assert digest(tmp_path) != first
    assert len({SUITES[name].digest() for name in SUITES}) == len(SUITES)
