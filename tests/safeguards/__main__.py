"""``python -m tests.safeguards``."""

import sys

from tests.safeguards.run import main

if __name__ == "__main__":
    sys.exit(main())
