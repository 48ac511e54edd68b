"""Text from files on a terminal: shown, never obeyed."""

import io

import pytest

from fastnn.system.terminal import print_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcødé 数字 \u00a0 👩\u200d🔬", "plain ünïcødé 数字 \u00a0 👩\u200d🔬"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x9b31m\x7f\0", r"\x1b[2J\x9b31m\x7f\x00"),
        ("a\u202etxt.exe\u2066\u200f", r"a\u202etxt.exe\u2066\u200f"),
        ("one\u2028two\u2029three\x85", r"one\u2028two\u2029three\x85"),
        ("caf\udce9", r"caf\udce9"),  # a file name's bytes that are no text
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a\nb")
    print_line("c\x1bd", error=True)
    assert capsys.readouterr() == ("a\\nb\n", "c\\x1bd\n")


def test_a_closed_stream_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    monkeypatch.setattr("sys.stderr", None)
    print_line("lost", error=True)
    assert out.getvalue() == ""
