"""The node agent as a state machine: an event and the time in, instructions out. No clock, no input or output."""

from fallow.decide.agent.machine import AgentMachine
from fallow.decide.agent.replica import fingerprint

__all__ = ["AgentMachine", "fingerprint"]
