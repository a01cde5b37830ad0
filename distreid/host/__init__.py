"""What a process asks of its machine: whole files, locks, memory, signals, progress."""
