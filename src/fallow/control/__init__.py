"""Control loops and what keeps them fed: the runner, the sessions of members, admission, tokens."""
