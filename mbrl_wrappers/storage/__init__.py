"""Models as files: save and load, the bytes, the limit of memory, and what a file can describe."""
