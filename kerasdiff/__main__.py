"""`python -m kerasdiff`: the command line, where its own command is not on the path."""

import sys

from kerasdiff.cli import main

sys.exit(main())
