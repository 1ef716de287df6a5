"""Networks that map frames to the frames that follow, and what they are fitted with."""
