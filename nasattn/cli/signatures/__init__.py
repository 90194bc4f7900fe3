"""What each command takes: the commands by what they are for, with their options."""
