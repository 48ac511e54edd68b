"""What the operating system is asked for: files, forks, signals, memory, cores."""
