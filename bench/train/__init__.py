"""Training under a meter: tasks, learners, the session that a method sees, and what it costs."""
