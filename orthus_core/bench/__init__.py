"""Speed: the engine beside the release's algorithm, the same weights and the same noise, in one
run.
"""
