"""Scores to text, JSON, CSV, pictures and pages."""
