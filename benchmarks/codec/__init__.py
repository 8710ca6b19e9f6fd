"""Speed, memory, size and error of the project's codec, beside the code of a running subnet."""
