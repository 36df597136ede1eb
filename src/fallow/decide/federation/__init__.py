"""How a total of replicas is divided over clusters, and how it gets there."""
