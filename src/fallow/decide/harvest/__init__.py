"""Harvest: what a server can lend while its primary application comes first."""
