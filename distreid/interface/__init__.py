"""What Python users hold: `Store`, `Model`, `Scores`; their makers are functions of `distreid`."""
