"""Who the ranks are, how they meet, and whether they live."""
