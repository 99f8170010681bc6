"""eslab: an event-sourcing lab and time-travel debugger for Jupyter."""
