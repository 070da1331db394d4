"""A training of several processes: who is which, who starts them, and what they tell each other."""
