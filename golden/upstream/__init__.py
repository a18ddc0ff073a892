"""Goldens from Hugging Face transformers, run in true float64. Start at generate.py."""
