"""Papers' tables again: what each row needs and costs, its training, and the plan as text."""
