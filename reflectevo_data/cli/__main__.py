"""`python -m reflectevo_data.cli`."""

import sys

from . import main


sys.exit(main())
