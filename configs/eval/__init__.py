"""Evaluation configs: one file = one protocol; common.py holds every key, its default and one line of meaning."""
