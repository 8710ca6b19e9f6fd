"""What `tessera data prepare` costs, beside the same work in another library."""
