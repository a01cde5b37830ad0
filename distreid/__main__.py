"""`python -m distreid COMMAND`, the same as `distreid COMMAND`."""

import sys

from distreid.cli import main

sys.exit(main())
