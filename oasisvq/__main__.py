"""`python -m oasisvq`."""

import sys

from oasisvq.cli import main

sys.exit(main())
