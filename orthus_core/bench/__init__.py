"""Speed: compare the engine with the release's algorithm, with the same weights and noise, in one
run.
"""
