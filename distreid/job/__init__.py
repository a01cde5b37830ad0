"""The main job: from options to shards, a verified store and scores."""
