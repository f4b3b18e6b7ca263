"""What reads files that anybody can have written, given files that are wrong in every way."""
