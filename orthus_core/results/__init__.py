"""What drawing leaves behind: names, files, pictures that know how they were made, stories."""
