"""Escaping of control characters in lines for a terminal."""

import io

import pytest

from fastnn.system.terminal import print_line, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünïcødé 数字 \u00a0 👩\u200d🔬", "plain ünïcødé 数字 \u00a0 👩\u200d🔬"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x9b31m\x7f\0", r"\x1b[2J\x9b31m\x7f\x00"),
        ("a\u202etxt.exe\u2066\u200f", r"a\u202etxt.exe\u2066\u200f"),
        ("one\u2028two\u2029three\x85", r"one\u2028two\u2029three\x85"),
        ("caf\udce9", r"caf\udce9"),  # bytes of a file name that are not text
    ],
)
def test_escapes_control_characters(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a\nb")
    print_line("c\x1bd", error=True)
    assert capsys.readouterr() == ("a\\nb\n", "c\\x1bd\n")


def test_prints_nothing_on_a_closed_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    monkeypatch.setattr("sys.stderr", None)
    print_line("lost", error=True)
    assert out.getvalue() == ""
