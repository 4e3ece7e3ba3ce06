"""The commands, one a file, each found through its entry point as a stranger's plugin is."""
