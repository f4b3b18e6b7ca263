"""The page cache, file by file."""
