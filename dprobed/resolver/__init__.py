"""The resolver process: answers questions about files that targets map, in small typed values."""
