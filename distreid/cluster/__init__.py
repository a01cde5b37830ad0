"""The main job as a job of a cluster."""
