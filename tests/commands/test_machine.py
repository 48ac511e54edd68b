"""`fastnn.commands.machine`: the processor's name, and the versions."""

from fastnn.commands import machine


def test_processor_name_is_one_line() -> None:
    name = machine.cpu_name()
    assert name and name == name.strip() and "\n" not in name
