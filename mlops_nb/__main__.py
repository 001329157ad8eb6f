"""`python -m mlops_nb` is `mlops-nb`."""

import sys

from mlops_nb.cli import main

sys.exit(main())
