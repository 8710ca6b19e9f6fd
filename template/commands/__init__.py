"""What each command of an operator does, once its flags are parsed."""
