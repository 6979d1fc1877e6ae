"""What changes how parameters move: which of them, how fast, what they are held to, what they become in the end."""
