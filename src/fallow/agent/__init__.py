"""The agents of members: thin shells around state machines, one outbound session each."""
