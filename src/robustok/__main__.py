"""`python -m robustok`, the same as `robustok`."""

import sys

from robustok.cli import main

if __name__ == "__main__":
    sys.exit(main())
