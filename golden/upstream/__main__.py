"""`python -m golden.upstream ...` is `python golden/upstream/generate.py ...`."""
import sys

from golden.upstream.generate import main

sys.exit(main())
