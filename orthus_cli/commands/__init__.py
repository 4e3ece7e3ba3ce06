"""The commands, one a file, each found through its entry point, as third-party plugins are."""
