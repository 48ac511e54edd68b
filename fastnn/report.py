"""Entry point of ``python -m fastnn.report``; the command is `fastnn.commands.report`."""

from fastnn.commands.report import main
from fastnn.commands.running import leave

if __name__ == "__main__":
    leave(main())
