"""A checkpoint to the formats that other runtimes take, and the proof that they agree."""
