"""One file here is one experiment; `common.py` holds every key with its default and meaning."""
