"""`fastnn.storage.strict_json`: checks and their messages."""

from pathlib import Path
from typing import Any

import pytest

from fastnn import ModelFileError
from fastnn.storage.strict_json import (
    check_keys,
    dump_object,
    get_count,
    get_list,
    get_typed,
    parse_object,
    prefix_errors,
)

VALUE: dict[str, Any] = {"a": [1, -0.0, 5e-324, True, None], "\ud800 \n": {"ä": "\U0001f600"}}


def test_parses_dumped_objects() -> None:
    text = dump_object(VALUE)
    assert text.isascii() and "\n" not in text
    assert repr(parse_object(text, "it")) == repr(parse_object(text.encode(), "it")) == repr(VALUE)
    assert dump_object(parse_object(text, "it")) == text


def test_does_not_dump_nan() -> None:
    with pytest.raises(ValueError):
        dump_object({"a": float("nan")})


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "1", "null", '{"a":1,"a":1}', '{"b":{"a":1,"a":2}}', '{"a":NaN}',
        '{"a":-Infinity}', '{"a":1e400}', '{"a":[-1e400]}', '{"a":1}x', "{a:1}",
        '{"a":"\n"}', b'{"a":"\xff"}', "\ufeff{}", '{"a":1}'.encode("utf-16"),
        '{"a":' + "9" * 5000 + "}",
    ],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_rejects_invalid_json(text: bytes | str) -> None:
    with pytest.raises(
        ModelFileError, match="^the file is not (valid JSON: |a JSON object)"
    ) as raised:
        parse_object(text, "the file")
    assert "\n" not in str(raised.value)


def test_errors_name_file_and_part() -> None:
    with pytest.raises(ModelFileError, match="^folder/file: part: it is not a JSON object$"):
        with prefix_errors(Path("folder") / "file"), prefix_errors("part"):
            parse_object("[]", "it")
    with pytest.raises(ModelFileError, match="^file: is nested too deeply$"), prefix_errors("file"):
        parse_object('{"a":' * 100_000, "it")
    with pytest.raises(ZeroDivisionError), prefix_errors("file"):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", [], {}, None])
def test_types_are_exact(value: Any) -> None:
    for kind in (bool, int, float, str, list, dict):
        if type(value) is kind:
            assert get_typed({"a": value}, "a", kind) is value
            assert get_list({"a": [value, value]}, "a", kind) == [value, value]
            continue
        with pytest.raises(ModelFileError, match="^a is .*, expected an? "):
            get_typed({"a": value}, "a", kind)
        with pytest.raises(ModelFileError, match="^a has .*, expected an? "):
            get_list({"a": [value]}, "a", kind)
    with pytest.raises(ModelFileError, match="^b is missing$"):
        get_typed({"a": value}, "b", int)


def test_counts_have_limits() -> None:
    assert [get_count({"a": value}, "a", 3) for value in (0, 2)] == [0, 2]
    for value in (-1, 3, True, 1.0):
        with pytest.raises(ModelFileError, match="^a is "):
            get_count({"a": value}, "a", 3)


def test_keys_are_exact() -> None:
    check_keys({"a": 1, "b": 2}, ("b", "a"), "it")
    with pytest.raises(ModelFileError, match="^it has no b$"):
        check_keys({"a": 1}, ("a", "b"), "it")
    with pytest.raises(ModelFileError, match="^it has 'c', which does not belong there$"):
        check_keys({"a": 1, "c": 2}, ("a",), "it")


def test_messages_shorten_values() -> None:
    for value in ("x" * 10_000, list(range(10_000)), {str(i): i for i in range(1000)}, 10**4000):
        with pytest.raises(ModelFileError) as raised:
            get_typed({"a": value}, "a", bool)
        assert len(str(raised.value)) < 200
