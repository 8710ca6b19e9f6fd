"""How much of a payload's training shows, by size of the model and pages of the payload."""
