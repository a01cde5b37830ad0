"""A batch of images to L2-normalised features."""
