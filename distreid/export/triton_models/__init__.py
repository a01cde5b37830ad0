"""What Triton's Python backend runs; `triton_repository.py` copies these files."""
