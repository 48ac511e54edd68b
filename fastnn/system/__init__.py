"""The operating system: files, forks, signals, memory, control groups, terminals."""
