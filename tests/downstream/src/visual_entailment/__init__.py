"""Visual entailment on FIBER: what somebody else's distribution may bring, each part in a module of its own."""
