"""An image's bytes to uint8 pixels, in worker processes."""
