"""`python -m memtap`, also from a plain checkout."""

from memtap.cli.main import main

main()
