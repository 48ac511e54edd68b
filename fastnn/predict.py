"""Entry point of ``python -m fastnn.predict``; the command is `fastnn.commands.predict`."""

from fastnn.commands.predict import main
from fastnn.commands.running import leave

if __name__ == "__main__":
    leave(main())
