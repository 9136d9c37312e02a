"""From videos on disk to batches of numpy arrays: sources, decoding, sampling, transforms, loading.

Numpy only: nothing here imports jax, so that decoding processes start light.
"""
