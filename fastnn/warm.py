"""Entry point of ``python -m fastnn.warm``; the command is `fastnn.commands.warm`."""

from fastnn.commands.running import leave
from fastnn.commands.warm import main

if __name__ == "__main__":
    leave(main())
