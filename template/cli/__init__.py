"""Command-line flags, environment variables, logging and signals of every command."""
