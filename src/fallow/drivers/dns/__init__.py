"""The name server: answers for our domain and its reverse zones, over UDP and TCP, and asks nobody."""
