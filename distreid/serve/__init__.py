"""A gallery behind HTTP, with a page: search, features, pictures, removal."""
