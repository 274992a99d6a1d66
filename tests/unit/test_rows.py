"""Reading and writing files of rows: every form, every way to be damaged, and a disk that is full."""

from __future__ import annotations

import gzip
import json
import lzma
import math
import os
import re
import stat
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from aligner import rows
from aligner.errors import DataError, StorageError
from aligner.rows import JsonlWriter, dumps, file_hash, open_text, read_rows, storage_errors, write_atomic

EXPECTED = "expected one JSON object per line, or one JSON list of objects"


def read(path: Path) -> list[tuple[int, dict[str, object]]]:
    return [(row.line, row.value) for row in read_rows(path)]


def fault(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.json"


@pytest.fixture
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(rows, "_CHUNK", request.param)
    return request.param


class TestForms:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('{"a": 1}\n{"a": 2}\n', [(1, 1), (2, 2)]),
            ('{"a": 1}\n{"a": 2}', [(1, 1), (2, 2)]),
            ('\n \n{"a": 1}\n\n\t\n{"a": 2}\n\n', [(3, 1), (6, 2)]),
            ('{"a": 1}\r\n\r\n{"a": 2}\r\n', [(1, 1), (3, 2)]),
            ('{"a": 1}\r{"a": 2}\r', [(1, 1), (2, 2)]),
            ('[{"a": 1}, {"a": 2}]', [(1, 1), (1, 2)]),
            ('\n\n[{"a": 1},\r\n{"a": 2}]\r\n\r\n', [(3, 1), (4, 2)]),
            ('[\n  {\n    "a": 1\n  },\n  {\n    "a": 2\n  }\n]\n', [(2, 1), (5, 2)]),
            ('[\n{"a": 1}\n,\n\n{"a": 2}\n]', [(2, 1), (5, 2)]),
            ('[{"a": 1}]', [(1, 1)]),
        ],
    )
    def test_reads_objects_and_the_lines_they_start_on(
        self, file: Path, text: str, expected: list[tuple[int, int]]
    ) -> None:
        file.write_bytes(text.encode())
        assert read(file) == [(line, {"a": value}) for line, value in expected]

    @pytest.mark.parametrize("text", ['{"a": "ü"}\n', '[{"a": "ü"}]'])
    def test_byte_order_mark_is_dropped(self, file: Path, text: str) -> None:
        file.write_text(text, encoding="utf-8-sig")
        assert read(file) == [(1, {"a": "ü"})]

    @pytest.mark.parametrize("name", ["r.jsonl.gz", "r.JSON.GZ", "r.jsonl.xz"])
    def test_compressed(self, tmp_path: Path, name: str) -> None:
        pack = gzip.compress if name.lower().endswith("gz") else lzma.compress
        (tmp_path / name).write_bytes(pack('{"a": "ü"}\n'.encode()))
        assert read(tmp_path / name) == [(1, {"a": "ü"})]
        with open_text(tmp_path / name) as opened:
            assert opened.read() == '{"a": "ü"}\n'

    def test_path_may_be_a_string(self, file: Path) -> None:
        file.write_text("{}")
        assert [row.value for row in read_rows(str(file))] == [{}]

    @pytest.mark.parametrize("chunk", [4], indirect=True)
    @pytest.mark.parametrize("text", ['{"a": 1}', '[{"a": 1}]'])
    def test_long_blank_lines_before_the_first_row(self, file: Path, chunk: int, text: str) -> None:
        file.write_text(" " * 30 + "\n\n" + "\t" * 9 + text)
        assert read(file) == [(3, {"a": 1})]

    def test_line_separators_inside_strings_start_no_line(self, file: Path) -> None:
        file.write_text('{"a": "x\u2028y\x85z"}\n{"a": 2}\n', encoding="utf-8")
        assert read(file) == [(1, {"a": "x\u2028y\x85z"}), (2, {"a": 2})]

    def test_nan_and_infinity_of_python_are_floats(self, file: Path) -> None:
        file.write_text('{"a": NaN, "b": [Infinity, -Infinity]}\n')
        [(_, value)] = read(file)
        assert isinstance(value["a"], float)
        assert math.isnan(value["a"])
        assert value["b"] == [math.inf, -math.inf]

    def test_lone_surrogate_is_kept(self, file: Path) -> None:
        file.write_text('[{"a": "\\ud800!"}]')
        assert read(file) == [(1, {"a": "\ud800!"})]


class TestFaults:
    """Every message names the file and the line, says what is wrong and what is expected."""

    @pytest.mark.parametrize(
        ("text", "line", "what"),
        [
            # JSONL
            ('{"a": 1}\n{"a" 2}\n{"a": 3}\n', 2, "not valid JSON (Expecting ':' delimiter near '2}')"),
            ('{"a": 1}\n{"a": tru}\n', 2, "not valid JSON (Expecting value near 'tru}')"),
            ('{"a": 1}\n{"a": "x\n{"a": 3}\n', 2, "not valid JSON (the line ends inside an object)"),
            ('{"a": 1}\n{"a": 2', 2, "not valid JSON (the line ends inside an object)"),
            ('{"a": 1},\n{"a": 2}\n', 1, "text after the object"),
            ('{"a": 1} {"a": 2}\n', 1, "text after the object"),
            ('{"a": 1}\n[{"a": 2}]\n', 2, "found '[{\"a\": 2}]' where an object should start"),
            ("question,answer\nx,y\n", 1, "found 'question,answer' where an object should start"),
            ('\n\n"text"\n', 3, "found '\"text\"' where an object should start"),
            ('{"a": 1}\nnull\n', 2, "found 'null' where an object should start"),
            ('{"a": 1}\n\ufeff{"a": 2}\n', 2, "found '\\ufeff{\"a\": 2}' where an object should start"),
            # one object over several lines
            ('{\n  "a": 1\n}\n', 1, "not valid JSON (the line ends inside an object)"),
            ('{"a": 1,\n "b": 2}\n', 1, "not valid JSON (the line ends inside an object)"),
            # lists
            (
                '[\n  {\n    "a": 1\n  },\n  {\n    "a" 2\n  }\n]\n',
                6,
                "not valid JSON (Expecting ':' delimiter near '2",
            ),
            ('[\n{"a": "x\ny"}\n]', 2, "not valid JSON (Invalid control character at near '\\ny\"}\\n]')"),
            ('[\n{"a": 1}\n{"a": 2}\n]', 3, "not valid JSON (no comma between two items)"),
            ('[\n{"a": 1},\n,\n{"a": 2}\n]', 3, "found ',\\n{\"a\": 2}\\n]' where an object should start"),
            ('[,{"a": 1}]', 1, "found ',{\"a\": 1}]' where an object should start"),
            ('[\n{"a": 1},\n]', 3, "found ']' where an object should start"),
            ('[\n{"a": 1}\n', 3, "the list is not closed, the file may be cut"),
            ('[\n{"a": 1},\n', 3, "found the end of the file where an object should start"),
            ("[", 1, "found the end of the file where an object should start"),
            ('[\n{"a": 1,\n"b": "x', 3, "not valid JSON (the file ends inside an object)"),
            ('[{"a": 1}]\n{"a": 2}\n', 2, "text after the end of the list"),
            ('[{"a": 1}]]', 1, "text after the end of the list"),
            ('[\n{"a": 1},\n"x"]', 3, "found '\"x\"]' where an object should start"),
            ("[1, 2]", 1, "found '1, 2]' where an object should start"),
            ("[null]", 1, "found 'null]' where an object should start"),
            ('[[{"a": 1}]]', 1, "found '[{\"a\": 1}]]' where an object should start"),
        ],
    )
    @pytest.mark.parametrize("chunk", [1, 7, 1 << 20], indirect=True)
    def test_says_where_and_what(self, file: Path, chunk: int, text: str, line: int, what: str) -> None:
        file.write_text(text, encoding="utf-8")
        message = fault(file)
        assert message.startswith(f"{file}:{line}: ")
        assert message.endswith(f"; {EXPECTED}")
        if chunk > 7:  # how much of the text is quoted depends on what has been read
            assert what in message
        else:
            assert re.split(" near |'", what)[0] in message

    @pytest.mark.parametrize("text", ["", "\n\n  \r\n\t\n", "[]", " [\n ] \n", "\ufeff"])
    def test_no_rows(self, file: Path, text: str) -> None:
        file.write_text(text, encoding="utf-8")
        assert fault(file) == f"{file}: the file holds no rows; {EXPECTED}"

    def test_empty_gzip(self, tmp_path: Path) -> None:
        (tmp_path / "r.gz").write_bytes(gzip.compress(b""))
        assert "holds no rows" in fault(tmp_path / "r.gz")

    def test_text_far_after_the_list(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "_CHUNK", 16)
        file.write_text('[{"a": 1}]' + "\n" * 100 + "x")
        assert fault(file).startswith(f"{file}:101: text after the end")

    def test_rows_before_the_fault_are_given(self, file: Path) -> None:
        file.write_text('{"a": 1}\n{"a": 2}\nx\n')
        reader = read_rows(file)
        assert [next(reader).value, next(reader).value] == [{"a": 1}, {"a": 2}]
        with pytest.raises(DataError, match="json:3"):
            next(reader)

    def test_line_in_a_list_of_many_chunks(self, file: Path) -> None:
        good = json.dumps({"question": "x" * 300, "answer": "y\n" * 50})
        lines = ["[", *[good + ","] * 4000, '{"question": }', "]"]
        file.write_text("\n".join(lines))
        assert file.stat().st_size > 1.5 * (1 << 20)
        assert fault(file).startswith(f"{file}:4002: not valid JSON (Expecting value near '}}")

    def test_line_inside_an_object_longer_than_a_chunk(self, file: Path) -> None:
        items = ",\n".join(["  " + json.dumps("z" * 1000)] * 3000)
        file.write_text('[\n{"a": 1},\n{"b": [\n' + items + ',\n  oops\n]},\n{"c": 1}]')
        assert file.stat().st_size > 2.5 * (1 << 20)
        assert fault(file).startswith(f"{file}:3004: not valid JSON (Expecting value near 'oops")

    @pytest.mark.parametrize("form", ['{{"a": {}}}\n', '[{{"a": {}}}]'])
    def test_deep_nesting(self, file: Path, form: str) -> None:
        file.write_text(form.format("[" * 200_000 + "]" * 200_000))
        assert fault(file).startswith(f"{file}:1: the object is nested too deeply; ")

    @pytest.mark.parametrize("form", ['{{"a": {}}}\n', '[{{"a": {}}}]'])
    def test_number_without_end(self, file: Path, form: str) -> None:
        file.write_text(form.format("9" * 5000))
        assert fault(file).startswith(f"{file}:1: a number of the object has too many digits; ")

    def test_not_utf8(self, file: Path) -> None:
        file.write_bytes(b'{"a": 1}\n' * 5000 + b'{"a": "\xe9"}\n')
        assert fault(file) == f"{file}:5001: not UTF-8 text; save the file as UTF-8"

    def test_cut_inside_a_character(self, file: Path) -> None:
        file.write_bytes('{"a": 1}\n{"a": "ü'.encode()[:-1])
        assert fault(file).startswith(f"{file}:2: not UTF-8 text")

    def test_utf16(self, file: Path) -> None:
        file.write_text('{"a": 1}\n', encoding="utf-16")
        assert fault(file).startswith(f"{file}:1: not UTF-8 text")

    def test_not_utf8_and_compressed(self, tmp_path: Path) -> None:
        (tmp_path / "r.xz").write_bytes(lzma.compress(b'{}\n{"a": "\xff"}'))
        assert fault(tmp_path / "r.xz").startswith(f"{tmp_path / 'r.xz'}:2: not UTF-8 text")

    @pytest.mark.parametrize("name", ["r.gz", "r.xz"])
    @pytest.mark.parametrize("damage", ["cut", "flipped", "other", "sum"])
    @pytest.mark.parametrize("form", ["list", "lines"])
    def test_damaged_archive(self, tmp_path: Path, name: str, damage: str, form: str) -> None:
        values = [{"a": os.urandom(20).hex()} for _ in range(2000)]
        text = json.dumps(values) if form == "list" else "\n".join(map(json.dumps, values))
        data = bytearray((gzip if name == "r.gz" else lzma).compress(text.encode()))
        if damage == "cut":
            data = data[: len(data) // 2]
        elif damage == "flipped":
            data[len(data) // 2] ^= 0xFF
        elif damage == "sum":
            data[-6] ^= 0xFF
        else:
            data = bytearray(b'{"a": 1}\n')
        (tmp_path / name).write_bytes(data)
        message = fault(tmp_path / name)
        # A flipped byte may still unpack, to text that is no JSON or no UTF-8.
        assert message.startswith(f"{tmp_path / name}: the compressed file is damaged or cut (") or (
            damage == "flipped" and message.startswith(f"{tmp_path / name}:")
        )

    def test_gzip_with_a_block_of_no_known_type(self, tmp_path: Path) -> None:
        data = bytearray(gzip.compress(b'{"a": 1}'))
        data[10] = 0xFF
        (tmp_path / "r.gz").write_bytes(data)
        assert "r.gz: the compressed file is damaged or cut (Error -3 while" in fault(tmp_path / "r.gz")

    def test_plain_name_on_compressed_data(self, file: Path) -> None:
        file.write_bytes(gzip.compress(b'{"a": 1}\n'))
        assert "not UTF-8 text" in fault(file)

    @pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
    def test_missing_and_directory(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"r{suffix}"
        assert fault(path) == f"{path}: no such file; check the path"
        path.mkdir()
        assert fault(path) == f"{path}: cannot be read (Is a directory); give a JSON or JSONL file"


class TestStreaming:
    @pytest.mark.parametrize("form", ["lines", "compact", "indented"])
    def test_only_a_chunk_is_in_memory(self, file: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
        monkeypatch.setattr(rows, "_CHUNK", 1 << 14)
        values = [{"question": "x" * 500, "answer": "y" * 500}] * 4000
        text = {"lines": "\n".join(map(json.dumps, values)), "compact": json.dumps(values)}
        file.write_text(text.get(form) or json.dumps(values, indent=1))
        tracemalloc.start()
        try:
            count = sum(1 for _ in read_rows(file))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == 4000
        assert file.stat().st_size > 4_000_000
        assert peak < 400_000

    @pytest.mark.parametrize("line_break", ["", "\n"])
    def test_first_row_comes_before_the_rest_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line_break: str
    ) -> None:
        """A pipe that holds two rows and stays open: reading to its end would never come back."""
        monkeypatch.setattr(rows, "_CHUNK", 8)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        end = os.open(pipe, os.O_RDWR)
        try:
            item = '{"a": 1},' + line_break
            os.write(end, ("[" + line_break + item * 2000).encode())
            reader = read_rows(pipe)
            assert next(reader).value == {"a": 1}
            reader.close()
        finally:
            os.close(end)

    def test_a_fault_is_found_without_reading_on(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "_CHUNK", 1 << 10)
        file.write_text('[{"a" 1},' + '{"a": 1},' * 300_000 + '{"a": 1}]')
        tracemalloc.start()
        try:
            fault(file)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 200_000

    @pytest.mark.parametrize("value", [{"a": "x" * 4_000_000}, {"a": [{"k": 1}] * 400_000}])
    def test_time_is_linear_in_one_huge_object(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, value: dict[str, object]
    ) -> None:
        # Trying again at every chunk would parse the object 4,000 times, which takes minutes.
        monkeypatch.setattr(rows, "_CHUNK", 1 << 10)
        file.write_text(json.dumps([value, value]))
        start = time.process_time()
        assert read(file) == [(1, value), (1, value)]
        assert time.process_time() - start < 5


class TestWriteAtomic:
    def test_replaces_the_content(self, file: Path) -> None:
        write_atomic(file, "one\r\n")
        write_atomic(file, "zwei ü\n")
        assert file.read_bytes() == "zwei ü\n".encode()
        assert names(file.parent) == [file.name]

    def test_mode_follows_the_umask(self, file: Path) -> None:
        old = os.umask(0o027)
        try:
            write_atomic(file, "x")
        finally:
            os.umask(old)
        assert stat.S_IMODE(file.stat().st_mode) == 0o640

    def test_lone_surrogates_are_escaped(self, file: Path) -> None:
        write_atomic(file, json.dumps({"a": "\\\ud800"}, ensure_ascii=False))
        assert json.loads(file.read_text()) == {"a": "\\\ud800"}

    def test_failure_leaves_the_old_content_alone(self, file: Path) -> None:
        write_atomic(file, "old")
        with pytest.raises(TypeError):
            write_atomic(file, 3)  # type: ignore[arg-type]
        assert file.read_text() == "old"
        assert names(file.parent) == [file.name]

    def test_place_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(
            StorageError, match=r"no/x: cannot be written \(No such file or directory\); free some space"
        ):
            write_atomic(tmp_path / "no" / "x", "text")

    def test_directory_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        with pytest.raises(StorageError, match="Is a directory"):
            write_atomic(tmp_path / "x", "text")
        assert names(tmp_path) == ["x"]


class TestJsonlWriter:
    def test_writes_and_goes_on(self, file: Path) -> None:
        with JsonlWriter(file) as writer:
            writer.write({"a": "ü\n"})
            assert writer.rows == 1
        with JsonlWriter(str(file)) as writer:
            assert writer.rows == 1
            writer.write({"a": "\ud800"})
            assert writer.rows == 2
        assert file.read_text() == '{"a": "ü\\n"}\n{"a": "\\ud800"}\n'
        assert read(file) == [(1, {"a": "ü\n"}), (2, {"a": "\ud800"})]

    def test_a_row_is_in_the_file_as_soon_as_it_is_written(self, file: Path) -> None:
        with JsonlWriter(file) as writer:
            writer.write({"a": 1})
            assert read(file) == [(1, {"a": 1})]

    @pytest.mark.parametrize(
        "tail", ['{"a": 3', '{"a": "ü'.encode()[:-1].decode("latin-1"), "{", '"a"', "  ", "\0" * 9]
    )
    def test_torn_tail_is_cut_off(self, file: Path, tail: str) -> None:
        whole = b'{"a": 1}\n\n{"a": 2}\n'
        file.write_bytes(whole + tail.encode("latin-1"))
        with JsonlWriter(file) as writer:
            assert writer.rows == 2
            assert file.read_bytes() == whole
            writer.write({"a": 4})
        assert read(file) == [(1, {"a": 1}), (3, {"a": 2}), (4, {"a": 4})]

    def test_every_cut_of_a_file_can_be_gone_on_from(self, file: Path) -> None:
        whole = b'{"a": "x{}"}\n{"b": {"c": "\xc3\xbc"}}\n'
        for cut in range(len(whole)):
            file.write_bytes(whole[:cut])
            with JsonlWriter(file) as writer:
                kept = [value for _, value in read(file)] if writer.rows else []
                assert len(kept) == writer.rows
                assert kept == [{"a": "x{}"}, {"b": {"c": "ü"}}][: writer.rows]
                writer.write({"z": 0})
            assert read(file)[-1][1] == {"z": 0}

    def test_row_that_only_lacks_its_newline_is_kept(self, file: Path) -> None:
        file.write_text('{"a": 1}\n{"a": 2}')
        with JsonlWriter(file) as writer:
            assert writer.rows == 2
            writer.write({"a": 3})
        assert [value for _, value in read(file)] == [{"a": 1}, {"a": 2}, {"a": 3}]

    def test_writes_to_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        end = os.open(tmp_path / "pipe", os.O_RDWR)
        try:
            with JsonlWriter(tmp_path / "pipe") as writer:
                writer.write({"a": 1})
            assert os.read(end, 100) == b'{"a": 1}\n'
        finally:
            os.close(end)

    @pytest.mark.parametrize("place", [".", "no/x.jsonl"])
    def test_place_that_cannot_be_opened(self, tmp_path: Path, place: str) -> None:
        with pytest.raises(StorageError, match="cannot be written"):
            JsonlWriter(tmp_path / place)

    def test_value_that_is_no_json_leaves_the_file_alone(self, file: Path) -> None:
        with JsonlWriter(file) as writer:
            writer.write({"a": 1})
            with pytest.raises(TypeError):
                writer.write({"a": object()})
            assert writer.rows == 1
        assert read(file) == [(1, {"a": 1})]


# A limit on the size of files fails writes as a full disk does: some bytes are taken, then none.
FULL_DISK = """
import resource, signal, sys
from aligner.errors import StorageError
from aligner.rows import JsonlWriter, write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
jsonl, other = sys.argv[1:]
with JsonlWriter(jsonl) as writer:
    try:
        while True:
            writer.write({"n": writer.rows, "text": "x" * 100})
    except StorageError as e:
        print(e)
    print(writer.rows)
    writer.write({"n": writer.rows, "text": ""})
try:
    write_atomic(other, "new" * 1000)
except StorageError as e:
    print(e)
"""


def test_full_disk(tmp_path: Path) -> None:
    jsonl, other = tmp_path / "rows.jsonl", tmp_path / "other.txt"
    other.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(jsonl), str(other)], capture_output=True, text=True, check=True
    )
    advice = "cannot be written (File too large); free some space or choose another place, then try again"
    assert done.stdout.splitlines() == [f"{jsonl}: {advice}", "8", f"{other}: {advice}"]
    # Eight whole rows, nothing of the ninth, and then the short one that still had room.
    assert [value["n"] for _, value in read(jsonl)] == list(range(9))
    assert jsonl.read_bytes().endswith(b'{"n": 8, "text": ""}\n')
    with JsonlWriter(jsonl) as writer:
        assert writer.rows == 9
    assert other.read_text() == "old"
    assert names(tmp_path) == ["other.txt", "rows.jsonl"]


def test_storage_errors_lets_other_errors_through() -> None:
    with pytest.raises(ConnectionResetError), storage_errors("x"):
        raise ConnectionResetError(104, "reset")
    with pytest.raises(OSError, match="odd") as caught, storage_errors("x"):
        raise OSError("odd")
    assert not isinstance(caught.value, StorageError)


def test_dumps() -> None:
    assert dumps({"a": "ü漢\n"}) == '{"a": "ü漢\\n"}'
    assert dumps({"a": "\ud800", "\udfff": 1}) == '{"a": "\\ud800", "\\udfff": 1}'
    assert dumps({"a": 1}, indent=2) == '{\n  "a": 1\n}'


def test_file_hash(file: Path) -> None:
    file.write_bytes(b"abc")
    assert file_hash(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    with pytest.raises(DataError, match="No such file"):
        file_hash(file.parent / "none")
