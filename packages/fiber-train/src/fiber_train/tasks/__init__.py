"""What can be trained for: a task a folder; each brings its settings, data, evaluation, verbs and recipes."""
