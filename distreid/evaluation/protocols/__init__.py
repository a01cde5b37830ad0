"""Every benchmark's own rule: one file for each family, one table of all."""
