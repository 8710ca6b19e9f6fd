"""What dishonest miners earn and break, beside honest ones: many small runs in one process."""
