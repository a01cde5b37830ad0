"""`python launch/submit.py …`, the same as `distreid submit …`."""

import sys

from distreid.cli import main

sys.exit(main(["submit", *sys.argv[1:]]))
