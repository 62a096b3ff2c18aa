"""The content of a file as lists, dicts and values, and back; a form for each suffix."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

RAW = "\ue000"  # a string that begins so stands for text which no serializer writes, see `odd_values.RAW_TEXTS`
TWIN = "\ue001"  # a key that begins so is written without it, and so occurs twice
_RAW_STRING = re.compile(f'"{RAW}([^"]*)"')
_LINE_END = re.compile(r"\r\n|\r|\n")
_WHOLE = 99  # deeper than any document
_DEEPEST = 20  # types inside of types of a column; Arrow writes 64
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Form:
    """How files of a suffix are parsed and written.

    Attributes:
        parse: The document of a file's text; ValueError if it has none.
        write: The text of a document.
        depth: How deep the parts lie that are counted as entries, see `entries`.
        pack: The file's content from the text's, for a file that is no text.
        unpack: The other way.
    """

    parse: Callable[[str], Any]
    write: Callable[[Any], str]
    depth: int = 2
    pack: Callable[[bytes], bytes] = bytes
    unpack: Callable[[bytes], bytes] = bytes

    @property
    def is_packed(self) -> bool:
        """Whether the file is no text."""
        return self.pack is not bytes


def parse(content: bytes, form: str) -> Any:
    """The document that a file holds, byte-order mark or not.

    Raises:
        ValueError, RecursionError: It is of another form.
    """
    if form == ".json":
        return json.loads(content)  # finds out which Unicode encoding it is in
    return FORMS[form].parse(FORMS[form].unpack(content).decode("utf-8-sig"))


def write(document: Any, form: str, raw_texts: dict[str, str]) -> bytes:
    """The content of a file with this document; raw texts take the places of the strings that stand for them."""
    text = FORMS[form].write(document)
    if RAW in text:
        text = _RAW_STRING.sub(lambda match: raw_texts.get(match[1], match[0]), text)
        text = re.sub(
            f"{RAW}(\\w+)", lambda match: raw_texts.get(match[1], match[0]), text
        )  # where strings have no quotes
    return FORMS[form].pack(text.replace(TWIN, "").encode("utf-8", "surrogatepass"))


def shown(value: Any) -> str:
    """A value of a document in at most 60 characters."""
    return f"{value!r:.60}".replace(repr(RAW)[1:-1], "raw ")


def entries(document: Any, form: str) -> Counter[str]:
    """What a document consists of: the rows of its lists or, of a configuration, its settings."""
    depth = 1 if isinstance(document, list) else FORMS[form].depth
    return Counter(_flat(document, depth, ""))


def _flat(node: Any, depth: int, place: str) -> Iterator[str]:
    if depth and isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, depth - 1, f"{place}.{key}")
    elif depth and isinstance(node, list):
        for value in node:
            yield from _flat(value, depth - 1, f"{place}[]")
    else:
        yield f"{place}={json.dumps(node, sort_keys=True, default=str)}"


def _json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


def _parse_json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in _LINE_END.split(text) if line.strip()]


def _write_json_lines(document: Any) -> str:
    lines = document if isinstance(document, list) else [document]
    return "".join(f"{_json(line)}\n" for line in lines)


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_YAML)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _parse_table(text: str) -> list[list[str]]:
    return [line.split(",") for line in _LINE_END.split(text) if line.strip()]


def _write_table(document: Any) -> str:
    rows = document if isinstance(document, list) else [document]
    return "".join(",".join(map(str, row if isinstance(row, list) else [row])) + "\n" for row in rows)


def _parse_columns(text: str) -> list[list[Any]]:
    return [[_parse_cell(cell) for cell in line.split("\t")] for line in _LINE_END.split(text) if line.strip()]


def _parse_cell(cell: str) -> Any:
    try:
        return json.loads(cell) if cell[:1] in ("[", "{") else cell
    except (ValueError, RecursionError):
        return cell


def _write_columns(document: Any) -> str:
    rows = [row if isinstance(row, list) else [row] for row in (document if isinstance(document, list) else [document])]
    return "".join(
        "\t".join(_json(cell) if isinstance(cell, list | dict) else str(cell) for cell in row) + "\n" for row in rows
    )


def _parse_lines(text: str) -> list[str]:
    return _LINE_END.split(text)


def _write_lines(document: Any) -> str:
    return "\n".join(map(str, document if isinstance(document, list) else [document]))


def _parse_tensors(text: str) -> dict[str, Any]:
    header, _, data = text.rpartition("\n")
    return {"header": json.loads(header), "data": data}


def _write_tensors(document: Any) -> str:
    whole = isinstance(document, dict) and isinstance(document.get("data"), str)
    return f"{_json(document.get('header'))}\n{document['data']}" if whole else f"{_json(document)}\n"


def _pack_tensors(text: bytes) -> bytes:
    header, _, data = text.rpartition(b"\n")
    digits = re.sub(rb"[^0-9a-f]", b"", data)
    return len(header).to_bytes(8, "little") + header + bytes.fromhex(digits[: len(digits) // 2 * 2].decode())


def _unpack_tensors(content: bytes) -> bytes:
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end] + b"\n" + content[end:].hex().encode()


def _pack_rows(text: bytes, is_stream: bool | None) -> bytes:
    """A table of lines of JSON: in parquet (None), or Arrow's stream or file; keys with "image" and no id are bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, sink = _table(text), io.BytesIO()
    if is_stream is None:
        pq.write_table(table, sink, row_group_size=3)
    else:
        with (pa.ipc.new_stream if is_stream else pa.ipc.new_file)(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return sink.getvalue()


def _table(text: bytes) -> Any:
    import pyarrow as pa

    rows = []
    for line in text.decode("utf-8", "replace").splitlines():
        with suppress(ValueError, RecursionError):
            rows.append(row if isinstance(row := json.loads(line), dict) else {"value": row})
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table(
        [_column([row.get(name) for row in rows], "image" in name and "id" not in name) for name in names], names
    )


def _column(values: list[Any], is_bytes: bool) -> Any:
    """The values as they are or, of several types, as text."""
    import pyarrow as pa

    try:
        if is_bytes:
            return pa.array([value if value is None else value.encode("latin-1") for value in values], pa.binary())
        kind = str((found := pa.array(values)).type)
        if kind.count("<") < _DEEPEST and "struct<>" not in kind:  # which parquet does not write
            return found
    except (pa.ArrowException, AttributeError, ValueError, TypeError, OverflowError):
        return _texts(values)
    return _texts(values)


def _texts(values: list[Any]) -> Any:
    import pyarrow as pa

    texts = [value if value is None or isinstance(value, str) else _json(value) for value in values]
    return pa.array([text and text.encode("utf-8", "replace").decode() for text in texts], pa.string())


def _unpack_rows(content: bytes, is_stream: bool | None) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if is_stream is None:
            table = pq.read_table(io.BytesIO(content))
        else:
            table = (pa.ipc.open_stream if is_stream else pa.ipc.open_file)(content).read_all()
        table.validate(full=True)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    return "".join(
        json.dumps(row, default=lambda value: value.decode("latin-1") if isinstance(value, bytes) else str(value))
        + "\n"
        for row in rows
    ).encode()


FORMS = {
    ".tsv": Form(_parse_columns, _write_columns),
    ".json": Form(json.loads, _json),
    ".jsonl": Form(_parse_json_lines, _write_json_lines),
    ".yaml": Form(_parse_yaml, _json, depth=_WHOLE),
    ".csv": Form(_parse_table, _write_table),
    ".txt": Form(_parse_lines, _write_lines),
    ".xml": Form(_parse_lines, _write_lines),
    ".safetensors": Form(_parse_tensors, _write_tensors, pack=_pack_tensors, unpack=_unpack_tensors),
    **{
        name: Form(
            _parse_json_lines,
            _write_json_lines,
            pack=partial(_pack_rows, is_stream=is_stream),
            unpack=partial(_unpack_rows, is_stream=is_stream),
        )
        for name, is_stream in ((".arrow", False), (".arrows", True), (".parquet", None))
    },
}
"""By suffix; files of other forms are mutated as bytes only."""
