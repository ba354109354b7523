"""The resolver process: questions about files that targets map in, small typed answers out."""
