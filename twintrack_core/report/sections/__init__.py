"""What a report says, a section a file: from what is looked at to plain data."""
