"""Networks: one visible table of names, one file for each family; loads safely and strictly."""
