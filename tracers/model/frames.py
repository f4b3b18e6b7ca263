"""polars with one thread of its own: the other CPUs belong to the traced processes.

polars reads the environment variable when it first works, so every module that needs polars imports
it from here. A PROGRAM that we start does not see the variable: it is started before.
"""

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import polars as pl

__all__ = ["pl"]
