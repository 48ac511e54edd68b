"""`fastnn.commands.text`: numbers as text."""

from fastnn.commands.text import number_text


def test_numbers_have_three_significant_digits() -> None:
    numbers = (0.0012345, 0.5, 12.345, 99.96, 123.4, 1234.5)
    assert [*map(number_text, numbers)] == ["0.00123", "0.5", "12.3", "100", "123", "1,234"]
