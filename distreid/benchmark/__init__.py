"""What this machine makes of these images and this checkpoint."""
