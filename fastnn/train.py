"""Entry point of ``python -m fastnn.train``; the command is `fastnn.commands.train`."""

from fastnn.commands.running import leave
from fastnn.commands.train import main

if __name__ == "__main__":
    leave(main())
