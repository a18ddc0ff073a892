"""Goldens from Hugging Face transformers, run in true float64. Start at generate.py."""
import os

# Read when transformers is imported: its advice on faster kernels is not for a reference.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# The same bits whoever starts the generator: ./meshparity sets this for its own ranks, goldens are made without it.
os.environ.pop("MKL_CBWR", None)
