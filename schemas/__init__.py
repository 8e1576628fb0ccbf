"""What things are: the records, ids and settings that every other layer speaks of. Pure."""
