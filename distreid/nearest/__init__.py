"""Arrays in, arrays out: products in blocks, and exact nearest neighbours."""
