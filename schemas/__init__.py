"""What things are: the records, ids and settings every other layer speaks of. Pure; imports nothing of ours."""
