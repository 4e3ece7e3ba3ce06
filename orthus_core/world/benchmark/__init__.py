"""The small world's benchmark: tasks with exact truth, and the detector that judges images."""
