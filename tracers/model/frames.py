"""polars, with one thread of its own: the other CPUs belong to those we watch.

It looks at the variable when it first works, so whoever needs polars takes it from here. A PROGRAM
that we start does not get to see the variable: it is started before.
"""

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import polars as pl

__all__ = ["pl"]
