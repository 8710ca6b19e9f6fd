"""What validators earn that score and that do not, by the local chain's Yuma."""
