"""The command line: talks to the API through the client, and knows nothing else of a control plane."""
