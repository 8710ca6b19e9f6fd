"""The body of each command, run after the flags are parsed."""
